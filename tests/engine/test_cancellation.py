"""Whoever is cancelled, at whatever point, gives everything back: slot, place in the queue, permit, budget, attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, Bulkhead, CircuitBreaker, LLMError, Retry, RetryBudget, Route
from resilient_llm.errors import RateLimited, ServerError
from resilient_llm.testing import FakeBackend, cut, fail, hang, say, slow_close

from .kit import assert_nothing_held, at_checkpoint, cancelled_at, client, error_of, living_tasks

pytestmark = pytest.mark.anyio


async def chat(llm: AsyncClient) -> None:
    await llm.chat("hi", conversation="c")


async def stream(llm: AsyncClient) -> None:
    async with llm.stream("hi", conversation="c") as events:
        async for _ in events:
            await anyio.lowlevel.checkpoint()


async def half_a_stream(llm: AsyncClient) -> None:
    async with llm.stream("hi") as events:
        await anext(events)


async def embed(llm: AsyncClient) -> None:
    await llm.embed([f"text {number}" for number in range(300)])  # two batches


def route(*script: Any, on_break: Any = "raise", **options: Any) -> Route:
    """A route whose budget shows each repeat."""
    return Route(FakeBackend(*script, model="m", **options), budget=RetryBudget(ratio=0, burst=10), on_break=on_break)


SCENARIOS: dict[str, Callable[[], list[Route]]] = {
    "an answer": lambda: [
        route(say("a", "b", "c", gap=1, first=1), connects=1, loads=2, name="a"),
        route(name="b"),
    ],
    "a repeat, then the next route": lambda: [
        route(fail(ServerError("no")), name="a", connects=1),
        route(fail(RateLimited("slow", retry_after=9)), say("a", "b", gap=1), name="b", connects=1),
    ],
    "a break, and a restart": lambda: [
        route(cut("x", "y"), name="a", connects=1, on_break="restart"),
        route(say("a", "b", gap=1), name="b", connects=1),
    ],
    "a hang that is cut, then an answer that does not end": lambda: [
        route(hang(), name="a", local=True),
        route(slow_close("a", "b", seconds=100), name="b"),
    ],
}


@pytest.mark.invariant(1, 3, 40)
@pytest.mark.parametrize("work", [chat, stream, half_a_stream, embed])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_cancellation_at_every_checkpoint_leaves_nothing_held(
    work: Callable[[AsyncClient], Any], scenario: str
) -> None:
    tasks = living_tasks()
    for number in range(1, 200):
        routes = SCENARIOS[scenario]()
        llm = client(*routes, timeout=30)
        reached = await cancelled_at(number, work(llm))
        assert_nothing_held(llm, *(one.backend for one in routes))  # type: ignore[arg-type]
        assert living_tasks() == tasks
        for one in routes:
            assert one.budget is not None
            assert one.budget.balance == 10 - repeats(one.backend)
        if not reached:
            break
    assert 5 < number < 199


def repeats(backend: Any) -> int:
    """The requests that were sent beyond the first of each call; a repeat sends the same object."""
    return len(backend.requests) - len(set(map(id, backend.requests)))


@pytest.mark.invariant(3)
@pytest.mark.parametrize("work", [chat, stream, embed])
async def test_a_cancellation_while_it_waits_in_the_queue_leaves_no_place_taken(work: Callable[..., Any]) -> None:
    for number in range(1, 100):
        backend = FakeBackend(say("a", first=5), slots=1)
        llm = client(backend)
        async with anyio.create_task_group() as group:
            group.start_soon(chat, llm)
            await anyio.sleep(1)
            reached = await cancelled_at(number, work(llm))
        assert_nothing_held(llm, backend)
        if not reached:
            break
    assert number > 3


@pytest.mark.invariant(1, 27)
async def test_a_slot_that_comes_at_the_moment_of_the_cancellation_is_not_lost() -> None:
    backend = FakeBackend(say("a", first=5), slots=1)
    llm = client(backend)
    async with anyio.create_task_group() as group:
        group.start_soon(chat, llm)
        await anyio.sleep(1)
        with anyio.move_on_after(4):  # to the very instant at which the one in front is done
            await llm.chat("hi")
        await llm.chat("hi", timeout=30)
    assert_nothing_held(llm, backend)


@pytest.mark.invariant(7)
async def test_a_cancelled_probe_gives_no_verdict_and_frees_its_place() -> None:
    backend = FakeBackend(fail(ServerError("no")), hang(), say("back"))
    breaker = CircuitBreaker(failures=1, cooldown=5)
    llm = client(Route(backend, breaker=breaker))
    with pytest.raises(ServerError):
        await llm.chat("hi")
    await anyio.sleep(6)
    with anyio.move_on_after(2):
        await llm.chat("hi")
    assert breaker.state(anyio.current_time()) == "half-open"
    reply = await llm.chat("hi")
    assert (reply.text, reply.attempts[0].kind) == ("back", "probe")


async def test_a_cancelled_backoff_gives_the_budget_back() -> None:
    budget = RetryBudget(ratio=0, burst=5)
    llm = client(Route(FakeBackend(fail(RateLimited("slow", retry_after=50))), budget=budget))
    async with anyio.create_task_group() as group:
        group.start_soon(chat, llm)
        await anyio.sleep(20)
        assert budget.balance == 4
        group.cancel_scope.cancel()
    assert budget.balance == 5


async def test_a_cancelled_repeat_that_waits_in_the_queue_gives_the_budget_back() -> None:
    backend = FakeBackend(fail(RateLimited("slow", retry_after=5)), say("long", first=100))
    budget = RetryBudget(ratio=0, burst=5)
    llm = client(Route(backend, budget=budget, bulkhead=Bulkhead(1), retry=Retry(attempts=2)))
    async with anyio.create_task_group() as group:

        async def cancelled() -> None:
            with anyio.move_on_after(30):
                await llm.chat("hi")

        group.start_soon(cancelled)
        await anyio.sleep(1)
        group.start_soon(chat, llm)
        await anyio.sleep(40)
        assert llm.snapshot()["fake"]["bulkhead"].queued == 0
        assert budget.balance == 5
        group.cancel_scope.cancel()


async def test_impatient_callers_open_the_breaker_of_a_server_that_hangs() -> None:
    llm = client(FakeBackend(hang()))
    for _ in range(2):
        with anyio.move_on_after(6):  # five seconds without a word say something about the server
            await llm.chat("hi")
    assert llm.snapshot()["fake"]["breaker"].state == "open"


async def test_a_caller_who_leaves_a_server_that_is_answering_tells_for_it() -> None:
    llm = client(Route(FakeBackend(fail(ServerError("no")), say(*"abcdefghij", gap=4)), retry=Retry(attempts=1)))
    await error_of(llm.chat("hi"), ServerError)
    assert llm.snapshot()["fake"]["breaker"].failures == 1
    with anyio.move_on_after(10):
        await llm.chat("hi")
    assert llm.snapshot()["fake"]["breaker"].failures == 0


@pytest.mark.invariant(11)
async def test_callers_who_leave_early_or_in_mid_answer_say_nothing_against_the_server() -> None:
    llm = client(FakeBackend(say(*"abcdefghij", first=4, gap=4)))
    for seconds in [1, 2, 3, 3.9, 10, 20, 30] * 2:
        with anyio.move_on_after(seconds):
            await llm.chat("hi")
    breaker = llm.snapshot()["fake"]["breaker"]
    assert (breaker.state, breaker.failures, breaker.slow) == ("closed", 0, 0)


@pytest.mark.invariant(23)
@pytest.mark.parametrize("seconds", [59.9, 60.0, 60.1])
async def test_a_cancellation_from_outside_is_told_from_our_own_limit(seconds: float) -> None:
    backend = FakeBackend(hang())
    llm = client(Route(backend, retry=Retry(attempts=1)))
    error: LLMError | None = None
    with anyio.move_on_after(seconds) as scope:  # at 60 s is the first-token limit
        error = await error_of(llm.chat("hi"))
    assert scope.cancelled_caught is (error is None)
    assert (error is None) is (seconds < 60) or seconds == 60
    assert error is None or type(error).__name__ == "FirstTokenTimeout"
    assert_nothing_held(llm, backend)


async def test_the_sweep_itself_reaches_every_checkpoint() -> None:
    passed: list[int] = []

    async def three() -> str:
        for number in range(3):
            await anyio.lowlevel.checkpoint()
            passed.append(number)
        return "end"

    assert await at_checkpoint(None, three(), lambda: None) == "end"
    with anyio.CancelScope() as scope:
        await at_checkpoint(1, three(), scope.cancel)
    assert passed == [0, 1, 2]
