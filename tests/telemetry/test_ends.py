"""A span ends once, whoever ends the stream; it is current for nobody else; and nothing is done for a token."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings

import anyio
import pytest
from benchmarks.telemetry import calls_into_opentelemetry
from opentelemetry import context, trace
from tests.engine.kit import cancelled_at, client

from resilient_llm import AsyncClient, CircuitBreaker, Client, Route
from resilient_llm._call import Call
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry._metrics import MOST, instruments
from resilient_llm.telemetry._spans import CallTrace
from resilient_llm.testing import FakeBackend, say

from .kit import Otel, check, events, of, seconds

pytestmark = pytest.mark.anyio


def endless() -> FakeBackend:
    return FakeBackend(say(*["a"] * 50, gap=1.0))


async def test_a_stream_that_is_left_early_ends_there(otel: Otel) -> None:
    async with otel.client(endless()).stream("hi") as stream:
        async for _ in stream:
            if len(stream.partial) == 3:
                break
        assert otel.spans == []
    check(otel, 1)
    found = of(otel.call)
    assert (found[names.OUTCOME], found[names.CHUNKS], seconds(otel.call)) == ("abandoned", 3, pytest.approx(2.0))
    assert names.FINISH_REASONS not in found
    assert of(otel.attempts()[0])[names.ATTEMPT_OUTCOME] == "abandoned"
    assert otel.value("gen_ai.client.operation.duration") == pytest.approx(2.0)


async def test_a_stream_that_the_garbage_collector_finds_ends_on_the_loop(otel: Otel) -> None:
    llm = otel.client(endless())
    stream = llm.stream("hi")
    await stream.__aenter__()
    await anext(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del stream
        gc.collect()
    assert otel.spans == [], "a finaliser must not take the locks of the SDK"
    await anyio.sleep(1)
    check(otel, 1)
    assert of(otel.call)[names.OUTCOME] == "abandoned"
    assert seconds(otel.call) == 0
    await llm.aclose()


async def test_a_breaker_that_changes_is_counted_without_a_step_into_the_sdk(otel: Otel) -> None:
    """A finaliser may change it. Also where so many values wait that whoever brings another passes some on."""
    breaker = CircuitBreaker(failures=1)
    llm = otel.client(Route(FakeBackend(), breaker=breaker))
    await llm.chat("hi")
    passed_on: list[float] = []
    put_down = instruments(otel.meter_provider, "1.41", counts=True)._waiting
    put_down.extend([(lambda value, *_: passed_on.append(value), 1.0, {}, None)] * MOST)
    breaker.admit(0.0).failure(0.0)
    assert passed_on == []
    assert otel.value("resilient_llm.circuit_breaker.transitions") == 1
    await llm.aclose()


@pytest.mark.parametrize("next_step", ["closing it", "a call of another client"])
async def test_what_a_finaliser_left_is_done_with_the_next_step(next_step: str, otel: Otel) -> None:
    llm = otel.client(endless())
    stream = llm.stream("hi")
    await stream.__aenter__()
    stream._soon = None  # its event loop is gone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del stream
        gc.collect()
    assert otel.spans == []
    if next_step == "closing it":
        await llm.aclose()
    else:
        await otel.client(FakeBackend()).chat("hi")
    check(otel)
    assert of(otel.calls[0])[names.OUTCOME] == "abandoned"


@pytest.mark.parametrize("forks", ["", "if (child := os.fork()): os.waitpid(child, 0)"], ids=["alone", "forks"])
def test_what_a_finaliser_left_is_in_the_trace_of_a_program_that_ends_there(forks: str) -> None:
    """Once: the child of a fork does not tell what its parent did."""
    code = f"""
import asyncio, os, warnings
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from resilient_llm import AsyncClient
from resilient_llm.testing import FakeBackend, stall

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")))

async def opened():
    stream = AsyncClient(FakeBackend(stall("a")), tracer_provider=provider).stream("hi")
    return await stream.__aenter__()

warnings.simplefilter("ignore")
stream = asyncio.run(opened())
del stream
{forks}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("attempt fake/fake\nchat fake\n", "")


def test_what_the_parent_has_on_the_wire_is_not_active_in_the_child_of_a_fork() -> None:
    code = """
import asyncio, os, warnings
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from resilient_llm import AsyncClient
from resilient_llm.testing import FakeBackend, stall

reader = InMemoryMetricReader()
provider = MeterProvider([reader])

async def opened():
    stream = AsyncClient(FakeBackend(stall("a")), meter_provider=provider).stream("hi")
    return await stream.__aenter__()

def active():
    scope = reader.get_metrics_data().resource_metrics[0].scope_metrics[0]
    return [one.data.data_points[0].value for one in scope.metrics if one.name == "resilient_llm.active_requests"]

warnings.simplefilter("ignore")
stream = asyncio.run(opened())
if child := os.fork(): os.waitpid(child, 0)
print(active(), flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[0.0]\n[1.0]\n", "")


async def test_a_stream_may_be_closed_by_another_task(otel: Otel) -> None:
    stream = otel.client(endless()).stream("hi")
    await stream.__aenter__()
    await anext(stream)
    async with anyio.create_task_group() as group:
        group.start_soon(stream.aclose)
    check(otel, 1)


async def test_an_error_of_the_readers_own_ends_it(otel: Otel) -> None:
    with pytest.raises(ZeroDivisionError):
        async with otel.client(endless()).stream("hi") as stream:
            async for _ in stream:
                raise ZeroDivisionError
    check(otel, 1)
    assert "exception" not in events(otel.call)


@pytest.mark.parametrize("whole", [True, False], ids=["chat", "stream"])
async def test_wherever_it_is_cancelled_it_ends_once(whole: bool, otel: Otel) -> None:
    async def ask(llm: AsyncClient) -> None:
        if whole:
            await llm.chat("hi")
            return
        async with llm.stream("hi") as stream:
            async for _ in stream:
                pass

    number = 0
    while True:
        number += 1
        llm = otel.client(FakeBackend(say("a", "b", gap=1.0), connects=1.0, loads=1.0, local=True))
        reached = await cancelled_at(number, ask(llm))
        check(otel, number)
        if not reached:
            break
    assert number > 4
    assert {of(call)[names.OUTCOME] for call in otel.calls} == {"cancelled", "success"}


async def test_a_reader_has_its_own_span_all_along(otel: Otel) -> None:
    tracer = otel.tracer_provider.get_tracer("the application")
    with tracer.start_as_current_span("request") as request:
        before = context.get_current()
        async with otel.client(endless()).stream("hi") as stream:
            async for _ in stream:
                assert trace.get_current_span() is request
                assert context.get_current() is before
                break
        assert context.get_current() is before
    (call,) = otel.calls
    assert call.parent is not None
    assert call.parent.span_id == request.get_span_context().span_id


async def test_the_attempt_is_current_while_the_backend_works(otel: Otel) -> None:
    seen: list[str] = []

    class Curious(FakeBackend):
        def open(self, *args: object, **options: object) -> object:  # type: ignore[override]
            seen.append(trace.get_current_span().name)  # type: ignore[attr-defined]
            return super().open(*args, **options)  # type: ignore[arg-type]

    await otel.client(Curious(say("a"), name="b", model="m")).chat("hi")
    assert seen == ["attempt fake/m"]


def test_a_token_costs_no_call_of_opentelemetry(otel: Otel) -> None:
    async def read(llm: AsyncClient) -> None:
        async with llm.stream("hi") as stream:
            async for _ in stream:
                pass

    def calls_for(tokens: int) -> int:
        llm = AsyncClient(FakeBackend(say(*["a"] * tokens)), **otel.providers)
        return sum(calls_into_opentelemetry(lambda: asyncio.run(read(llm))).values())

    assert 0 < calls_for(5) == calls_for(500)


def test_a_call_of_the_sync_client_stands_below_the_span_of_its_caller(otel: Otel) -> None:
    tracer = otel.tracer_provider.get_tracer("the application")
    with Client(FakeBackend(say("a")), **otel.providers) as llm, tracer.start_as_current_span("request") as request:
        llm.chat("hi")
        with llm.stream("hi") as stream:
            list(stream)
    parents = {call.parent.span_id for call in otel.calls if call.parent is not None}
    assert parents == {request.get_span_context().span_id}
    assert len(otel.calls) == 2


async def test_a_call_that_is_over_is_no_garbage_for_the_collector(otel: Otel) -> None:
    """Call and trace know each other while it runs; an answer may be large."""

    def there() -> list[object]:
        return [thing for thing in gc.get_objects() if type(thing) in (Call, CallTrace)]

    llm = client(FakeBackend(say("a")), **otel.providers)
    await llm.chat("hi")
    gc.collect()
    gc.disable()
    try:
        before = there()  # of other tests, whose errors may live in a report
        await llm.chat("hi")
        assert not [thing for thing in there() if not any(thing is other for other in before)]
    finally:
        gc.enable()
