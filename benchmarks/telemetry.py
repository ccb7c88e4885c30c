"""What telemetry costs a call: for nobody, for the API alone, for an SDK that exports, for one that samples it out.

The same call of a fake in process, one attempt: nothing but the library runs, so that a few microseconds show. CPU time
of the calling thread alone: the exporter has a thread of its own, and what metrics cost when the SDK collects is told
apart. The calls of OpenTelemetry are counted for a stream of 10 and of 1,000 tokens: there may be none for a token.
"""

from __future__ import annotations

import asyncio
import sys
import time
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

from benchmarks._measure import Costs
from benchmarks._report import Row, listing, verdicts
from resilient_llm import AsyncClient
from resilient_llm.testing import FakeBackend, say

OFF, API, SDK, SAMPLED_OUT = "nobody listens", "the API alone", "the SDK, batches", "the SDK, sampled out"
LATER = "passed on at a scrape"
CALLS, TURNS = 5, 500


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


class Caller:
    """A client that is told on in one of these ways."""

    def __init__(self, name: str) -> None:
        self.answer = FakeBackend(say("Water is", " wet."))
        self.given = providers(name)
        self.llm = AsyncClient(self.answer, **self.given)

    async def work(self, calls: int) -> None:
        for _ in range(calls):
            await self.llm.chat("Is water wet?")
        self.answer.requests.clear()


def in_turns(callers: dict[str, Caller], loop: asyncio.Runner) -> Costs:
    """CPU seconds of this thread for a call, in many short turns: few of them are disturbed."""
    spent: dict[str, list[float]] = {name: [] for name in callers}
    for turn in range(-20, TURNS):
        for name, caller in callers.items():
            before = time.thread_time()
            loop.run(caller.work(CALLS))
            if turn >= 0:  # the first ones warm up
                spent[name].append((time.thread_time() - before) / CALLS)
    return Costs(spent)


def at_a_scrape(loop: asyncio.Runner) -> Costs:
    """CPU seconds for the metrics of a call when they are collected."""
    caller, reader = Caller(OFF), InMemoryMetricReader()
    caller.llm = AsyncClient(caller.answer, meter_provider=MeterProvider([reader]))
    spent = []
    for _ in range(20):
        loop.run(caller.work(100))
        before = time.thread_time()
        reader.get_metrics_data()
        spent.append((time.thread_time() - before) / 100)
    return Costs({LATER: spent})


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
    backend = FakeBackend(say(*(f"{number} " for number in range(count))))  # a loop would be cut
    llm = AsyncClient(backend, **providers(SDK))

    async def work() -> None:
        async with llm.stream("Go on") as stream:
            async for _ in stream:
                pass

    return sum(calls_into_opentelemetry(lambda: loop.run(work())).values())


def measure() -> tuple[Costs, tuple[int, int]]:
    """CPU seconds of a call each way; calls of OpenTelemetry for 10 and for 1,000 tokens."""
    with asyncio.Runner() as loop:
        costs = in_turns({name: Caller(name) for name in (OFF, API, SDK, SAMPLED_OUT)}, loop)
        counted = for_tokens(10, loop), for_tokens(1000, loop)
        later = at_a_scrape(loop).rounds[LATER]
        return Costs({**costs.rounds, LATER: later * (TURNS // len(later))}), counted


def _row(name: str, costs: Costs, way: str, most: float) -> Row:
    """The least of all turns: what is added is small, and whoever else uses the machine adds to it."""
    least = {one: costs.least(one) * 1e6 for one in (way, OFF)}
    extra = least[way] - least[OFF]
    shown = f"{least[way]:.0f} µs", f"{OFF} {least[OFF]:.0f} µs", f"{extra:+.1f} µs"
    return Row(f"a call, {name}", *shown, f"≤ {most:g} µs", extra <= most)


def rows(costs: Costs, counted: tuple[int, int]) -> list[Row]:
    few, many = counted
    return [
        _row("with OpenTelemetry's API alone", costs, API, 30),
        _row("with its SDK and batches", costs, SDK, 100),
        _row("sampled out", costs, SAMPLED_OUT, 50),
        Row("calls of OpenTelemetry for 990 tokens more", str(many - few), "", str(many - few), "0", many == few),
    ]


if __name__ == "__main__":
    measured, calls = measure()
    print(verdicts(rows(measured, calls)))
    print(listing("Telemetry, a call", "µs", 1e6, measured, OFF))
