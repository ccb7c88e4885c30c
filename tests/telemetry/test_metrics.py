"""Metrics have the labels that are listed, count what happened once, and outlive no client."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import _Span
from tests.engine.kit import REAL, Ask, error_of

from resilient_llm import AsyncClient, Bulkhead, Ollama, OpenAICompatible, Retry, Route, Usage
from resilient_llm.errors import CircuitOpen, CircuitOpenTooLong, ConnectFailed, EmptyReply, LLMError
from resilient_llm.telemetry import Telemetry
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry import _semconv_metrics as metrics
from resilient_llm.telemetry._metrics import MOST, OVERHEAD_OF, instruments
from resilient_llm.telemetry._semconv_metrics import MODELS_OF_A_ROUTE
from resilient_llm.telemetry._targets import Target
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, fail, say

from .kit import Otel, check, of

pytestmark = pytest.mark.anyio
COUNTED = say("a", usage=Usage(100, 20))


async def test_a_call_is_counted_once(ask: Ask, otel: Otel) -> None:
    await ask(otel.client(Route(FakeBackend(COUNTED, name="r", model="m", origin="http://127.0.0.1:1"))))
    check(otel, 1)
    served = {
        names.OPERATION: "chat", names.PROVIDER: "fake", names.REQUEST_MODEL: "m", names.RESPONSE_MODEL: "m",
        names.ADDRESS: "127.0.0.1", names.PORT: 1,
    }  # fmt: skip
    (duration,) = otel.points("gen_ai.client.operation.duration")
    assert (duration.attributes, duration.count, duration.explicit_bounds) == (served, 1, metrics.DURATIONS)
    tokens = {one.attributes[names.TOKEN_TYPE]: one for one in otel.points("gen_ai.client.token.usage")}
    assert {kind: (one.sum, one.explicit_bounds) for kind, one in tokens.items()} == {
        "input": (100, metrics.TOKEN_BUCKETS), "output": (20, metrics.TOKEN_BUCKETS)
    }  # fmt: skip
    assert len(otel.points("gen_ai.client.operation.time_to_first_chunk")) == (ask.way == "stream")
    (attempt,) = otel.points("resilient_llm.attempt.duration")
    assert attempt.attributes == {
        names.ROUTE: "r", names.PROVIDER: "fake", names.REQUEST_MODEL: "m", names.KIND: "first",
        names.ATTEMPT_OUTCOME: "served",
    }  # fmt: skip


async def test_a_slow_call_leads_to_its_trace(otel: Otel) -> None:
    await otel.client(FakeBackend(COUNTED)).chat("hi")
    (duration,) = otel.points("gen_ai.client.operation.duration")
    assert [one.span_id for one in duration.exemplars] == [otel.call.context.span_id]


async def test_what_waits_for_a_scrape_keeps_no_prompt(otel: Otel) -> None:
    llm = otel.client(FakeBackend(COUNTED, model="of this test"), telemetry=Telemetry(content=True))
    await llm.chat("hi")
    assert otel.call.name == "chat of this test"
    gc.collect()
    spans = [thing for thing in gc.get_objects() if isinstance(thing, _Span)]
    assert otel.call.name not in [span.name for span in spans]
    (duration,) = otel.points("gen_ai.client.operation.duration")
    assert len(duration.exemplars) == 1


async def test_tokens_that_nobody_counted_are_not_told(otel: Otel) -> None:
    await otel.client(FakeBackend(say("a", usage=Usage()))).chat("hi")
    assert otel.points("gen_ai.client.token.usage") == []


@REAL
@pytest.mark.parametrize("kind", ["openai", "ollama"])
async def test_tokens_that_were_paid_for_nothing_are_told_apart(kind: str, otel: Otel) -> None:
    nothing = say(usage=Usage(100, 7))
    with FakeOpenAI(nothing) if kind == "openai" else FakeOllama(nothing) as server:
        backend = (OpenAICompatible if kind == "openai" else Ollama)("llama3.2", base_url=server.url)
        async with AsyncClient(Route(backend, retry=Retry(attempts=1)), **otel.providers) as llm:
            await error_of(llm.chat("hi"), EmptyReply)
    check(otel, 1)
    assert otel.value("resilient_llm.discarded_tokens", gen_ai__token__type="input") == 100
    assert otel.value("resilient_llm.discarded_tokens", gen_ai__token__type="output") == 7
    assert otel.points("gen_ai.client.token.usage") == []
    (attempt,) = otel.attempts()
    assert of(attempt)[names.LOST_INPUT] == 100


@pytest.mark.parametrize(
    ("allowed", "label"), [((), None), (("batch",), "batch"), (("urgent", "batch"), "urgent,batch"), (("x",), None)]
)
async def test_a_tag_is_a_label_only_where_that_was_said(allowed: Any, label: str | None, otel: Otel) -> None:
    llm = otel.client(FakeBackend(COUNTED), telemetry=Telemetry(metric_tags=allowed))
    await llm.chat("hi", tags=["batch", "urgent", "user-4711"])
    for name in ("gen_ai.client.operation.duration", "gen_ai.client.token.usage"):
        assert {one.attributes.get(names.TAG) for one in otel.points(name)} == {label}
    assert of(otel.call)[names.TAGS] == ("batch", "urgent", "user-4711")
    assert "user-4711" not in repr(otel.reader.get_metrics_data())


def test_a_server_cannot_make_series_without_end() -> None:
    (leg,) = AsyncClient(FakeBackend(model="m"))._legs
    target = Target(leg, lambda: 0.0, ())
    labels = {target.model_label(f"model-{number}") for number in range(1000)} | {target.model_label("m")}
    assert len(labels) == MODELS_OF_A_ROUTE + 1
    assert names.OTHER in labels
    assert target.model_label("m") == "m"


async def test_several_clients_are_added_up(otel: Otel) -> None:
    slots = Route(FakeBackend(COUNTED), bulkhead=Bulkhead(slots=3))
    first, second = otel.client(slots), otel.client(Route(FakeBackend(COUNTED), bulkhead=Bulkhead(slots=4)))
    both = otel.client(Route(FakeBackend(name="a", origin="o")), Route(FakeBackend(name="b", origin="o")))
    for llm in (first, second, both):
        await llm.chat("hi")
    assert otel.value("resilient_llm.concurrency.limit", resilient_llm__limiter="fake") == 7
    assert otel.value("resilient_llm.concurrency.limit", resilient_llm__limiter="o") == 64  # one queue, not two
    del first, slots
    gc.collect()
    assert otel.value("resilient_llm.concurrency.limit", resilient_llm__limiter="fake") in (4, 7)


async def test_a_breaker_is_in_a_state_or_not_however_many_clients_have_it(otel: Otel) -> None:
    first, second = otel.client(FakeBackend(COUNTED)), otel.client(FakeBackend(COUNTED))
    for llm in (first, second):
        await llm.chat("hi")
    points = otel.points("resilient_llm.circuit_breaker.state")
    found = {one.attributes[names.BREAKER_STATE]: one.value for one in points}
    assert found == {"closed": 1, "open": 0, "half_open": 0}


async def test_the_overhead_of_one_call_in_sixteen(otel: Otel) -> None:
    llm = otel.client(FakeBackend(say("a", first=2.0), connects=1.0))
    for _ in range(OVERHEAD_OF + 1):
        await llm.chat("hi")
    (overhead,) = otel.points("resilient_llm.overhead.duration")
    assert (overhead.count, overhead.sum) == (2, pytest.approx(0.0, abs=1e-9))


async def test_the_names_of_another_version(ask: Ask, otel: Otel) -> None:
    llm = otel.client(FakeBackend(COUNTED), telemetry=Telemetry(conventions="dev"))
    await ask(llm)
    await llm.embed("x")
    found = {name for name in otel.names() if name.startswith("gen_ai.")}
    expected = {metric.name for metric in metrics.CONVENTIONS["dev"]}
    assert found == expected - (set() if ask.way == "stream" else {"gen_ai.client.inference.time_to_first_chunk"})
    assert otel.value("gen_ai.client.inference.usage.input_tokens", gen_ai__operation__name="chat") == 100
    assert otel.names()["gen_ai.client.inference.usage.output_tokens"] >= {"gen_ai.token.modality"}


async def test_an_error_that_has_no_row_is_not_a_word_of_its_own(otel: Otel) -> None:
    class Odd(LLMError):
        pass

    await error_of(otel.client(FakeBackend(fail(Odd("?")))).chat("hi"))
    assert of(otel.call)[names.ERROR_TYPE] == names.OTHER
    assert names.error_type(ConnectFailed("x", status=599)) == "connection_error"
    assert names.error_type(LLMError("x", status=500)) == names.OTHER
    assert names.error_type(CircuitOpenTooLong("x")) == names.error_type(CircuitOpen("x")) == "circuit_open"


async def test_an_sdk_that_never_collects_does_not_make_the_process_grow(otel: Otel) -> None:
    made = instruments(otel.meter_provider, "1.41", counts=True)
    for _ in range(MOST * 2 + 5):
        made.record(metrics.RETRIES, 1, {names.ROUTE: "r"})
        assert len(made._waiting) <= MOST
    assert len(made._waiting) > MOST - 50, "little is done at a time, the event loop waits for it"
    assert otel.value("resilient_llm.retries") == MOST * 2 + 5
    assert not made._waiting


async def test_an_instrument_that_fails_is_nobodys_matter(otel: Otel, caplog: pytest.LogCaptureFixture) -> None:
    made = instruments(otel.meter_provider, "1.41", counts=True)

    def broken(*args: Any) -> None:
        raise OSError("the disk is full")

    made._record[metrics.RETRIES.name] = broken
    for _ in range(MOST):
        made.record(metrics.RETRIES, 1, {names.ROUTE: "r"})
    assert "telemetry: OSError on a metric" in caplog.text


async def test_an_answer_that_is_less_than_what_was_asked_for_is_counted(ask: Ask, otel: Otel) -> None:
    await ask(otel.client(FakeBackend(say("cut", finish="length"))))
    check(otel, 1)
    assert of(otel.call)[names.DEGRADED] == ("cut_at_length",)
    assert otel.value("resilient_llm.degradations", resilient_llm__reason="cut_at_length") == 1


def test_a_scrape_does_not_stumble_over_a_client_that_another_thread_makes(otel: Otel) -> None:
    """The routes are listed in one step: no Python code runs in between, as it does within a `WeakSet`."""
    llm, steps = AsyncClient(FakeBackend(), **otel.providers), set[str]()
    made = instruments(otel.meter_provider, "1.41", counts=True)
    sys.setprofile(lambda frame, *_: steps.add(frame.f_code.co_filename.rpartition("/")[2]))
    try:
        assert set(made._sums(metrics.ACTIVE).values()) == {0}
    finally:
        sys.setprofile(None)
    assert "_metrics.py" in steps
    assert "_weakrefset.py" not in steps
    del llm
