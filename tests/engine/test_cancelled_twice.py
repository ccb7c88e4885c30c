"""Cancelled at one checkpoint, and once more while it is leaving: nothing is held, and nobody swallows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, LLMError, RateLimit, Retry, RetryBudget, Route
from resilient_llm.errors import RateLimited, ServerError
from resilient_llm.testing import FakeBackend, cut, fail, hang, say, slow_close, stall

from .kit import assert_nothing_held, at_checkpoint, client, left_twice, living_tasks

pytestmark = pytest.mark.anyio


async def chat(llm: AsyncClient) -> None:
    await llm.chat("hi", conversation="c")


async def stream(llm: AsyncClient) -> None:
    async with llm.stream("hi", conversation="c") as events:
        async for _ in events:
            await anyio.lowlevel.checkpoint()


def route(*script: Any, **options: Any) -> Route:
    kept = {name: options.pop(name) for name in ("on_break", "rate", "retry") if name in options}
    return Route(FakeBackend(*script, model="m", **options), budget=RetryBudget(ratio=0, burst=10), **kept)


SCENARIOS: dict[str, Callable[[], list[Route]]] = {
    "an answer": lambda: [route(say("a", "b", gap=1, first=1), connects=1, loads=2, name="a")],
    "a repeat, then the next route": lambda: [
        route(fail(ServerError("no")), name="a", connects=1),
        route(fail(RateLimited("slow", retry_after=9)), say("a", gap=1), name="b", connects=1),
    ],
    "a break, and a restart": lambda: [
        route(cut("x"), name="a", connects=1, on_break="restart"),
        route(say("a", "b", gap=1), name="b"),
    ],
    "a hang, a stall, a slow close": lambda: [
        route(hang(), name="a", local=True),
        route(stall("x"), name="b", retry=Retry(attempts=1)),
        route(slow_close("a", seconds=100), name="c"),
    ],
    "a wait for the rate limit": lambda: [
        route(fail(ServerError("no")), say("a"), name="a", rate=RateLimit(requests_per_minute=6)),
    ],
}


@pytest.mark.invariant(1, 3, 24)
@pytest.mark.parametrize("work", [chat, stream])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_second_cancellation_while_the_first_one_is_carried_out_leaves_nothing_held(
    work: Callable[[AsyncClient], Any], scenario: str
) -> None:
    tasks, farthest = living_tasks(), 0
    for first in range(1, 60):
        found = False
        for second in (0, 1, 2, 3):
            routes = SCENARIOS[scenario]()
            llm = client(*routes, timeout=60)
            found = await left_twice(first, second, work(llm)) or found
            assert_nothing_held(llm, *(one.backend for one in routes))  # type: ignore[arg-type]
            assert living_tasks() == tasks
            for one in routes:
                sent = one.backend.requests  # type: ignore[union-attr]
                assert one.budget is not None
                assert one.budget.balance == 10 - max(0, len(sent) - len({id(request) for request in sent}))
        farthest = first
        if not found:
            break
    assert 3 < farthest < 59


@pytest.mark.invariant(24)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_cancellation_is_never_swallowed(scenario: str) -> None:
    """Whoever cancels finds the work ended at once, by the cancellation or by what it had come to before."""
    for number in range(1, 60):
        routes = SCENARIOS[scenario]()
        at: list[float] = []
        with anyio.CancelScope() as scope, contextlib.suppress(LLMError):
            leave = partial(lambda at, scope: (at.append(anyio.current_time()), scope.cancel()), at, scope)
            await at_checkpoint(number, chat(client(*routes, timeout=60)), leave)
        if not at:
            break
        assert anyio.current_time() == at[0], "it went on waiting after it had been cancelled"
        assert scope.cancelled_caught
    assert number > 3
