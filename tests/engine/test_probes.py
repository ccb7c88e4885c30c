"""A probe through the engine: how long its place is its own, and what an answer counts that began and then broke."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from resilient_llm import CircuitBreaker, Retry, Route, Timeouts
from resilient_llm.errors import CircuitOpen, ServerError, StreamInterrupted
from resilient_llm.testing import FakeBackend, cut, fail, say

from .kit import Ask, assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)


def route(*script: Any, timeouts: Timeouts | None = None, **breaker: Any) -> Route:
    breaker = {"failures": 1, "cooldown": 5} | breaker
    return Route(FakeBackend(*script, name="a"), retry=ONCE, timeouts=timeouts, breaker=CircuitBreaker(**breaker))


@pytest.mark.invariant(5)
@pytest.mark.parametrize("lease", [1, 120])
async def test_a_probe_that_is_long_in_coming_is_not_taken_for_lost(ask: Ask, lease: float) -> None:
    script = fail(ServerError("no")), say("back", first=280)
    only = route(*script, timeouts=Timeouts(first_token=290), lease=lease)
    llm = client(only)
    await error_of(ask(llm), ServerError)
    await anyio.sleep(5)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(ask, llm, timeout=300))
        for _ in range(5):
            await anyio.sleep(55)
            await error_of(ask(llm), CircuitOpen)
            assert llm.snapshot()["a"]["bulkhead"].inflight == 1
    assert_nothing_held(llm)


async def test_a_server_whose_answers_break_off_does_not_pass_its_probes(ask: Ask) -> None:
    llm = client(route(fail(ServerError("no")), cut("a", "b")))
    await error_of(ask(llm), ServerError)
    waits = []
    for _ in range(4):
        waits.append(llm.snapshot()["a"]["breaker"].retry_after)
        await anyio.sleep(waits[-1])
        await error_of(ask(llm), StreamInterrupted)
        assert llm.snapshot()["a"]["breaker"].state == "open"
    assert waits == pytest.approx([5, 10, 20, 30])
    assert_nothing_held(llm)


async def test_an_answer_that_breaks_off_after_its_breaker_closed_is_an_ordinary_failure(ask: Ask) -> None:
    llm = client(route(*[fail(ServerError("no"))] * 2, cut("a", "b"), say("back"), failures=2, successes=1))
    for _ in range(2):
        await error_of(ask(llm), ServerError)
    await anyio.sleep(5)
    await error_of(ask(llm), StreamInterrupted)  # its first token closes the breaker
    seen = llm.snapshot()["a"]["breaker"]
    assert (seen.state, seen.failures, seen.limit) == ("closed", 1, 1)
    assert (await ask(llm)).text == "back"
    assert llm.snapshot()["a"]["breaker"].limit == 2


async def test_a_whole_answer_to_a_probe_counts_once(ask: Ask) -> None:
    llm = client(route(fail(ServerError("no")), say("a", "b", gap=1)))
    await error_of(ask(llm), ServerError)
    await anyio.sleep(5)
    await ask(llm)
    assert llm.snapshot()["a"]["breaker"].state == "half-open"  # one of two
    await ask(llm)
    seen = llm.snapshot()["a"]["breaker"]
    assert (seen.state, seen.limit) == ("closed", 1)


@pytest.mark.parametrize(("hint", "left"), [(None, 5), (2, 5), (60, 60), (500, 120)])
async def test_what_the_server_says_moves_the_opening(ask: Ask, hint: float | None, left: float) -> None:
    llm = client(route(fail(ServerError("later", retry_after=hint)), say("back")))
    await error_of(ask(llm), ServerError)
    assert llm.snapshot()["a"]["breaker"].retry_after == left
    await anyio.sleep(left - 0.1)
    await error_of(ask(llm), CircuitOpen)
    await anyio.sleep(0.2)
    assert (await ask(llm)).text == "back"
