"""What the engine itself costs: calls on a fake backend, with every policy on, beside the same fake without an engine.

`python -m benchmarks.engine`. There is no network and no server: what is left over the fake is plan, deadline, guard,
admission, breaker, timers and the account of the call. The fake alone makes its request of the same prompt. CPU time,
in turns, like the rest.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from benchmarks._measure import Contender, Costs, compare
from benchmarks._report import Row, verdicts
from resilient_llm import (
    AsyncClient,
    Bulkhead,
    ChatRequest,
    CircuitBreaker,
    ContextGuard,
    Message,
    Retry,
    RetryBudget,
    Route,
    Timeouts,
    deadline,
)
from resilient_llm.errors import CircuitOpen, DeadlineExceeded
from resilient_llm.testing import FakeBackend, say

PROMPT = "word " * 200  # 1 kB
EVENTS, CALLS, ROUNDS = 1000, 500, 11
FEW, MANY = 1_000, 10_000  # waiters
FAKE, CALL, STREAM = "the fake alone", "a call", "a call as a stream"
BATCHED, DECODED = "the fake alone, one batch", "an event already decoded"
PACED, TIMED = "the fake alone, batch by batch", "a timed read"
REFUSED = "a local refusal"


class _NoWatch:
    """What a backend tells its phase to, when nobody keeps the time."""

    clock = staticmethod(time.monotonic)

    def enter(self, phase: object) -> None:
        pass


def routed(backend: FakeBackend, mode: Any = "auto") -> AsyncClient:
    """A client with every policy on."""
    return AsyncClient(
        Route(
            backend, timeouts=Timeouts(first_token=30), retry=Retry(attempts=3), budget=RetryBudget(),
            breaker=CircuitBreaker(mode=mode), bulkhead=Bulkhead(64), guard=ContextGuard(window=8192),
        )
    )  # fmt: skip


async def bare(backend: FakeBackend) -> None:
    """One attempt at the fake without an engine."""
    request = ChatRequest((Message("user", PROMPT),))
    async with backend.open(request, _NoWatch()) as batches:  # type: ignore[arg-type]
        with suppress(StopAsyncIteration):
            while True:
                await anext(batches)


async def drained(llm: AsyncClient) -> None:
    async with llm.stream(PROMPT) as stream:
        async for _ in stream:
            pass


async def refused(llm: AsyncClient) -> None:
    try:
        await llm.chat(PROMPT)
    except CircuitOpen:
        return
    raise AssertionError("it was let through")


def contender(
    runner: asyncio.Runner, name: str, work: Callable[[], Coroutine[Any, Any, object]], times: int, units: int = 1
) -> Contender:
    """`times` pieces of work one after the other, each of `units` units, under a deadline of the user's."""

    async def repeat() -> None:
        with deadline(600):
            for _ in range(times):
                await work()

    return Contender(name, lambda: runner.run(repeat()), times * units, lambda: runner.run(work()))


def measured(runner: asyncio.Runner) -> Costs:
    """Every contender, in turns."""
    short, batch, pieces = say("yes"), say(*["word "] * EVENTS, joined=True), say(*["word "] * EVENTS)
    one, many, paced = (routed(FakeBackend(step)) for step in (short, batch, pieces))
    alone, alone_many, alone_paced = (FakeBackend(step) for step in (short, batch, pieces))
    shut = routed(FakeBackend(short), "forced_open")
    found: list[tuple[str, Callable[[], Coroutine[Any, Any, object]], int, int]] = [
        (FAKE, lambda: bare(alone), CALLS, 1),
        (CALL, lambda: one.chat(PROMPT), CALLS, 1),
        (STREAM, lambda: drained(one), CALLS, 1),
        (BATCHED, lambda: bare(alone_many), 5, EVENTS),
        (DECODED, lambda: drained(many), 5, EVENTS),
        (PACED, lambda: bare(alone_paced), 5, EVENTS),
        (TIMED, lambda: drained(paced), 5, EVENTS),
        (REFUSED, lambda: refused(shut), CALLS, 1),
    ]
    return compare([contender(runner, name, work, times, units) for name, work, times, units in found], ROUNDS)


def queued(runner: asyncio.Runner, count: int) -> float:
    """CPU seconds of one of so many waiters: it queues, its turn comes, it gives back; a tenth of them leave."""
    llm = AsyncClient(Route(FakeBackend(say("yes")), bulkhead=Bulkhead(1)))

    async def one(number: int) -> None:
        with suppress(DeadlineExceeded):
            await llm.chat(PROMPT, timeout=0.001 if number % 10 == 0 else 600)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))

    before = time.process_time()
    runner.run(all_of_them())
    return (time.process_time() - before) / count


def rows(costs: Costs, waiters: Sequence[tuple[float, float]]) -> list[Row]:
    few, many = (min(pair[index] for pair in waiters) * 1e6 for index in (0, 1))
    refusal = costs.median(REFUSED) * 1e6
    return [
        Row.above("a call, every policy on, 1 kB prompt", costs, CALL, FAKE, 60),
        Row.above("the same as a stream, with one timed read", costs, STREAM, FAKE, 60 + 12),
        Row.above("an event already decoded", costs, DECODED, BATCHED, 1),
        Row.above("a timed read", costs, TIMED, PACED, 12),
        Row("a local refusal", f"{refusal:.1f} µs", "", f"{refusal:.1f} µs", "< 100 µs", refusal < 100),
        Row(
            f"one of {MANY:,} waiters", f"{many:.0f} µs", f"one of {FEW:,} {few:.0f} µs", f"{many / few:.2f} ×",
            "≤ 1.5 ×", many / few <= 1.5,
        ),
    ]  # fmt: skip


def measure() -> list[Row]:
    """All of it."""
    with asyncio.Runner() as runner:
        costs = measured(runner)
        waiters = [(queued(runner, FEW), queued(runner, MANY)) for _ in range(3)]
    return rows(costs, waiters)


if __name__ == "__main__":
    found = measure()
    print(verdicts(found))
    sys.exit(any(row.met is False for row in found))
