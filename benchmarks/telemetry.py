"""What telemetry costs a call, for nobody, for the API alone, for an SDK that exports, and for one that samples it out.

The same call of a fake in process, one attempt, eight tokens: nothing but the library runs, so that a difference of a
few microseconds shows. The exporter takes batches and drops them, in its own thread, whose CPU time counts. Beside the
costs, the calls of OpenTelemetry are counted for a stream of 10 and of 1,000 tokens: there may be none for a token.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from benchmarks._measure import Contender, Costs, compare
from benchmarks._report import Row, listing, verdicts
from resilient_llm import AsyncClient
from resilient_llm.testing import FakeBackend, say

OFF, API, SDK, SAMPLED_OUT = "nobody listens", "the API alone", "the SDK, batches", "the SDK, sampled out"
CALLS, ROUNDS = 300, 31


class Dropped(SpanExporter):
    """Takes what it gets and forgets it."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


class Forgetful:
    """A provider that is not the API's own, so that the whole path runs, but whose spans and instruments are."""

    def __init__(self) -> None:
        from opentelemetry.metrics import NoOpMeterProvider
        from opentelemetry.trace import NoOpTracerProvider

        self.get_tracer, self.get_meter = NoOpTracerProvider().get_tracer, NoOpMeterProvider().get_meter


def providers(name: str) -> dict[str, Any]:
    if name == OFF:
        return {}
    if name == API:
        return {"tracer_provider": Forgetful(), "meter_provider": Forgetful()}
    tracers = TracerProvider(sampler=ALWAYS_OFF) if name == SAMPLED_OUT else TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Dropped()))
    return {"tracer_provider": tracers, "meter_provider": MeterProvider([InMemoryMetricReader()])}


def contender(name: str, loop: asyncio.Runner) -> Contender:
    answer = FakeBackend(say("Water", " is", " wet", " and", " so", " is", " the", " sea."))
    llm = AsyncClient(answer, **providers(name))

    async def work() -> None:
        for _ in range(CALLS):
            await llm.chat("Is water wet?")
        answer.requests.clear()

    return Contender(name, lambda: loop.run(work()), CALLS, lambda: loop.run(llm.chat("Is water wet?")))


def calls_into_opentelemetry(work: Callable[[], object]) -> Counter[str]:
    """How often each function of OpenTelemetry is called from ours."""
    counted: Counter[str] = Counter()
    ours = str(Path(sys.modules["resilient_llm"].__file__ or "").parent)

    def look(frame: FrameType, event: str, argument: object) -> None:
        del argument
        code, caller = frame.f_code, frame.f_back
        if event == "call" and caller is not None and "/opentelemetry/" in code.co_filename:
            counted[code.co_qualname] += caller.f_code.co_filename.startswith(ours)

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted


def for_tokens(count: int, loop: asyncio.Runner) -> int:
    """The calls of OpenTelemetry for a stream of so many tokens."""
    llm = AsyncClient(FakeBackend(say(*["token "] * count)), **providers(SDK))

    async def work() -> None:
        async with llm.stream("Go on") as stream:
            async for _ in stream:
                pass

    return sum(calls_into_opentelemetry(lambda: loop.run(work())).values())


def measure(rounds: int = ROUNDS) -> tuple[Costs, tuple[int, int]]:
    """CPU seconds of a call each way; calls of OpenTelemetry for 10 and for 1,000 tokens."""
    with asyncio.Runner() as loop:
        costs = compare([contender(name, loop) for name in (OFF, API, SDK, SAMPLED_OUT)], rounds)
        return costs, (for_tokens(10, loop), for_tokens(1000, loop))


def rows(costs: Costs, counted: tuple[int, int]) -> list[Row]:
    few, many = counted
    return [
        Row.above("a call with OpenTelemetry's API alone", costs, API, OFF, 30),
        Row.above("a call with its SDK and batches", costs, SDK, OFF, 100),
        Row.above("a call that is sampled out", costs, SAMPLED_OUT, OFF, 50),
        Row("calls of OpenTelemetry for 990 tokens more", str(many - few), "", str(many - few), "0", many == few),
    ]


if __name__ == "__main__":
    measured, calls = measure()
    print(verdicts(rows(measured, calls)))
    print(listing("Telemetry, a call", "µs", 1e6, measured, OFF))
