"""A call ends by its deadline, whatever it waits for, wherever that was said, and however many routes there are."""

from __future__ import annotations

import random
import time
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    DeadlineExceeded,
    LLMError,
    RateLimited,
    Retry,
    Route,
    Timeouts,
    deadline,
)
from resilient_llm.errors import ConfigError, FirstTokenTimeout, ServerError
from resilient_llm.events import FellBack, RetryPlanned
from resilient_llm.testing import FakeBackend, fail, hang, say, stall
from resilient_llm.testing._steps import Broken

from .kit import LATE, REAL, Ask, assert_nothing_held, client, error_of, seconds_of

pytestmark = pytest.mark.anyio
LONG = Timeouts(connect=1e6, load=1e6, first_token=1e6, between_tokens=1e6)

WAITS: dict[str, tuple[FakeBackend | Any, str]] = {
    "connect": (lambda: FakeBackend(connects=100), "connect"),
    "load": (lambda: FakeBackend(loads=100), "load"),
    "no answer": (lambda: FakeBackend(hang()), "first_token"),
    "headers, then nothing": (lambda: FakeBackend(hang(after_headers=True)), "first_token"),
    "a slow first token": (lambda: FakeBackend(say("a", first=100)), "first_token"),
    "a stall": (lambda: FakeBackend(stall("a", "b")), "stream"),
    "a slow answer": (lambda: FakeBackend(say(*"abcdefghij", gap=3)), "stream"),
}


@pytest.mark.invariant(21)
@pytest.mark.parametrize("seconds", [0.5, 6])
@pytest.mark.parametrize("what", WAITS)
async def test_the_deadline_ends_every_phase(ask: Ask, what: str, seconds: float) -> None:
    make, phase = WAITS[what]
    backend = make()
    llm = client(Route(backend, timeouts=LONG))
    began = anyio.current_time()
    error = await error_of(ask(llm, timeout=seconds), DeadlineExceeded)
    assert anyio.current_time() - began == pytest.approx(seconds)
    assert error.phase == phase
    assert isinstance(error, TimeoutError)
    assert error.attempts[-1].total == pytest.approx(seconds)
    assert_nothing_held(llm, backend)


async def test_the_deadline_ends_the_wait_in_the_queue(ask: Ask) -> None:
    backend = FakeBackend(say("a", first=100), slots=1)
    llm = client(Route(backend, timeouts=LONG))
    async with anyio.create_task_group() as group:
        group.start_soon(llm.chat, "the one in front")
        await anyio.sleep(1)
        began = anyio.current_time()
        error = await error_of(ask(llm, timeout=6), DeadlineExceeded)
        assert anyio.current_time() - began == pytest.approx(6)
        group.cancel_scope.cancel()
    assert error.phase == "queue"
    assert error.attempts[-1].queue == pytest.approx(6)
    assert len(backend.requests) == 1


async def test_the_deadline_ends_the_wait_between_attempts_before_it_begins(ask: Ask) -> None:
    backend = FakeBackend(fail(RateLimited("slow", retry_after=5)), hang())
    llm = client(Route(backend, retry=Retry(attempts=9)))
    assert await seconds_of(ask(llm, timeout=8), DeadlineExceeded) == pytest.approx(8)


async def test_the_deadline_holds_over_all_routes_together(ask: Ask) -> None:
    routes = [FakeBackend(hang(), name=name) for name in "abcd"]
    llm = client(*routes)
    began = anyio.current_time()
    error = await error_of(ask(llm, timeout=20), DeadlineExceeded)
    assert anyio.current_time() - began == pytest.approx(20)
    assert [one.route for one in error.attempts] == ["a", "b", "c", "d"]
    assert_nothing_held(llm, *routes)


async def test_the_answer_so_far_is_in_the_error(ask: Ask) -> None:
    error = await error_of(ask(client(FakeBackend(stall("half ", "an answer"))), timeout=6), DeadlineExceeded)
    assert error.partial == "half an answer"


async def test_a_deadline_that_has_passed_sends_nothing(ask: Ask) -> None:
    backend = FakeBackend()
    llm = client(backend)
    with deadline(1, clock=anyio.current_time):
        await anyio.sleep(2)
        assert await seconds_of(ask(llm), DeadlineExceeded) == 0
    assert backend.requests == []


class Slow:
    """A clock that a machine which stood still finds moved on."""

    def __init__(self) -> None:
        self.lost = 0.0

    def __call__(self) -> float:
        return anyio.current_time() + self.lost

    def stands_still_at(self, kind: type) -> Any:
        return lambda event: setattr(self, "lost", 100.0) if isinstance(event, kind) else None


@pytest.mark.invariant(17)
@pytest.mark.parametrize("at", [RetryPlanned, FellBack])
async def test_who_wakes_up_after_the_deadline_sends_nothing_more(ask: Ask, at: type) -> None:
    clock = Slow()
    first, second = FakeBackend(fail(ServerError("no")), name="a"), FakeBackend(say("late"), name="b")
    route = Route(first, retry=Retry(attempts=2 if at is RetryPlanned else 1))
    routes = [route] if at is RetryPlanned else [route, second]
    llm = AsyncClient(*routes, clock=clock, rng=random.Random(1), on_event=clock.stands_still_at(at))
    error = await error_of(ask(llm, timeout=10), DeadlineExceeded)
    assert (error.phase, first.opened, second.opened) == ("queue", 1, 0)
    assert llm.snapshot()["a"]["budget"] == 10
    assert_nothing_held(llm, first, second)


NONE = 1e9
SAID = [
    # the call's, the inner block's, the outer block's, the scope's: seconds until the end
    (6, NONE, NONE, NONE, 6),
    (NONE, 6, NONE, NONE, 6),
    (NONE, NONE, 6, NONE, 6),
    (NONE, NONE, NONE, 6, 6),
    (6, 7, 8, 9, 6),
    (9, 6, 7, 8, 6),
    (8, 9, 6, 7, 6),  # an inner block does not loosen the outer one
    (7, 8, 9, 6, 6),
]


@pytest.mark.invariant(22)
@pytest.mark.parametrize(("call", "inner", "outer", "scope", "seconds"), SAID)
async def test_the_least_of_all_deadlines_holds(
    ask: Ask, call: float, inner: float, outer: float, scope: float, seconds: float
) -> None:
    llm = client(Route(FakeBackend(hang()), timeouts=LONG))
    began = anyio.current_time()
    clock = anyio.current_time
    with (
        pytest.raises(TimeoutError) as caught,
        anyio.fail_after(scope),
        deadline(outer, clock=clock),
        deadline(inner, clock=clock),
    ):
        await ask(llm, timeout=call)
    assert anyio.current_time() - began == pytest.approx(seconds)
    assert isinstance(caught.value, DeadlineExceeded) is (scope > seconds)  # the scope's end is its owner's


async def test_the_clients_timeout_holds_for_calls_that_give_none(ask: Ask) -> None:
    llm = client(Route(FakeBackend(hang()), timeouts=LONG), timeout=6)
    assert await seconds_of(ask(llm), DeadlineExceeded) == pytest.approx(6)
    assert await seconds_of(ask(llm, timeout=9), DeadlineExceeded) == pytest.approx(9)


async def test_one_block_is_one_deadline_for_all_the_calls_in_it(ask: Ask) -> None:
    llm = client(Route(FakeBackend(say("a", first=4), say("b", first=4), hang()), timeouts=LONG))
    began = anyio.current_time()
    with deadline(10, clock=anyio.current_time):
        await ask(llm)
        await ask(llm)
        await error_of(ask(llm), DeadlineExceeded)
    assert anyio.current_time() - began == pytest.approx(10)


async def test_a_block_holds_in_the_tasks_that_are_started_in_it(ask: Ask) -> None:
    llm = client(Route(FakeBackend(hang()), timeouts=LONG))
    took: list[float] = []

    async def call() -> None:
        took.append(await seconds_of(ask(llm), DeadlineExceeded))

    async with anyio.create_task_group() as group:
        with deadline(6, clock=anyio.current_time):
            group.start_soon(call)
            group.start_soon(call)
    assert took == pytest.approx([6, 6])


@REAL
async def test_a_block_holds_in_a_worker_thread(ask: Ask) -> None:
    llm = client(FakeBackend(hang()))

    def work() -> None:
        anyio.from_thread.run(ask, llm)

    with deadline(0.1):
        assert await seconds_of(anyio.to_thread.run_sync(work), DeadlineExceeded) <= 0.1 + LATE


@pytest.mark.invariant(23, 24)
async def test_move_on_after_stays_silent(ask: Ask) -> None:
    backend = FakeBackend(hang())
    llm = client(Route(backend, timeouts=LONG))
    with anyio.move_on_after(6) as scope:
        await ask(llm)
    assert scope.cancelled_caught
    assert_nothing_held(llm, backend)
    with anyio.move_on_after(0) as scope:
        await ask(llm)
    assert scope.cancelled_caught
    assert len(backend.requests) == 1


@REAL
async def test_a_scope_that_ended_while_nobody_looked_ends_the_call_in_its_own_way(ask: Ask) -> None:
    backend = FakeBackend()
    with anyio.move_on_after(0.01) as scope:
        time.sleep(0.02)  # the loop is held up: it has not yet seen that the scope is over
        await ask(client(backend))
    assert scope.cancelled_caught


RESERVED = [
    # timeout, and when the first route, which hangs, is left: the later ones get min(5 s, half of what is left)
    (6, 3),
    (10, 5),
    (20, 15),
    (60, 55),
]


@pytest.mark.parametrize("said", ["argument", "scope"])
@pytest.mark.parametrize(("seconds", "left_at"), RESERVED)
async def test_a_route_that_hangs_cannot_starve_the_next_one(
    ask: Ask, seconds: float, left_at: float, said: str
) -> None:
    first = Route(FakeBackend(hang(), name="first", local=True), timeouts=LONG)
    second = FakeBackend(say("yes", first=2), name="second")
    with anyio.fail_after(seconds if said == "scope" else None):
        reply = await ask(client(first, second), timeout=seconds if said == "argument" else None)
    assert reply.route == "second"
    assert isinstance(reply.attempts[0].error, FirstTokenTimeout)
    assert reply.attempts[1].started == pytest.approx(left_at)


@pytest.mark.parametrize("said", ["argument", "scope"])
async def test_a_full_queue_cannot_starve_the_next_route(ask: Ask, said: str) -> None:
    first, second = FakeBackend(hang(), name="first", local=True), FakeBackend(say("yes"), name="second")
    route = Route(first, timeouts=LONG, bulkhead=Bulkhead(1))
    llm = client(route, second)
    async with anyio.create_task_group() as group:
        group.start_soon(client(route).chat, "in front")
        await anyio.sleep(1)
        with anyio.fail_after(20 if said == "scope" else None):
            reply = await ask(llm, timeout=20 if said == "argument" else None)
        assert reply.route == "second"
        assert reply.attempts[0].queue == pytest.approx(15)
        group.cancel_scope.cancel()


async def test_after_the_first_token_an_attempt_owns_all_the_time_that_is_left(ask: Ask) -> None:
    first = FakeBackend(say(*"abcdefghi", gap=1), name="first")
    reply = await ask(client(first, FakeBackend(say("no"), name="second")), timeout=8.5)
    assert (reply.route, reply.text) == ("first", "abcdefghi")


async def test_nothing_is_kept_for_routes_whose_breaker_is_open(ask: Ask) -> None:
    first, second = FakeBackend(say("yes", first=8), name="first"), FakeBackend(fail(ServerError("no")), name="second")
    llm = client(first, second, plan=lambda request, routes: routes[::-1] if "second" in request.tags else routes)
    for _ in range(3):
        await ask(llm, tags=["second"])
    assert llm.snapshot()["second"]["breaker"].state == "open"
    assert (await ask(llm, timeout=10)).route == "first"


@pytest.mark.parametrize(("local", "seconds"), [(True, 180), (False, 120)])
async def test_without_a_deadline_the_first_token_has_to_come_in_time(ask: Ask, local: bool, seconds: float) -> None:
    llm = client(Route(FakeBackend(hang(), local=local), timeouts=LONG))
    assert await seconds_of(ask(llm), DeadlineExceeded) == pytest.approx(seconds)


async def test_without_a_deadline_a_long_healthy_answer_is_no_hang(ask: Ask) -> None:
    reply = await ask(client(FakeBackend(say(*["word "] * 40, gap=22))))
    assert reply.timings.total == pytest.approx(39 * 22)


async def test_without_a_deadline_there_is_a_ceiling(ask: Ask) -> None:
    llm = client(FakeBackend(say(*["word "] * 100, gap=10)))
    assert await seconds_of(ask(llm), DeadlineExceeded) == pytest.approx(900)


@pytest.mark.parametrize(("local", "seconds"), [(True, 60), (False, 30)])
async def test_without_a_deadline_embeddings_have_a_shorter_one(local: bool, seconds: float) -> None:
    llm = client(Route(FakeBackend(hang(), local=local), timeouts=LONG))
    assert await seconds_of(llm.embed("text"), DeadlineExceeded) == pytest.approx(seconds)


async def test_a_deadline_that_the_user_sets_is_hard(ask: Ask) -> None:
    llm = client(FakeBackend(say(*["word "] * 100, gap=10)))
    assert await seconds_of(ask(llm, timeout=100), DeadlineExceeded) == pytest.approx(100)


async def test_without_a_deadline_an_answer_that_broke_late_is_still_asked_for_elsewhere() -> None:
    first = FakeBackend(Broken(say(*["word "] * 10, gap=20), "cut"), name="first")
    reply = await client(Route(first, retry=Retry(attempts=1)), FakeBackend(say("whole", first=30), name="b")).chat(
        "hi"
    )
    assert (reply.text, reply.route) == ("whole", "b")
    assert reply.timings.total == pytest.approx(9 * 20 + 30)  # beyond the 120 s to the first token


@pytest.mark.parametrize("value", [0, -1, float("nan"), "6", True])
@pytest.mark.parametrize("where", ["call", "client", "block"])
async def test_a_timeout_that_is_no_duration_is_told(ask: Ask, where: str, value: Any) -> None:
    backend = FakeBackend()
    with pytest.raises(ConfigError, match=r"not a number of seconds above 0"):
        if where == "client":
            client(backend, timeout=value)
        elif where == "block":
            with deadline(value):
                pass
        else:
            await ask(client(backend), timeout=value)
    assert backend.requests == []


def test_the_errors_of_a_deadline_are_ours_and_pythons() -> None:
    assert issubclass(DeadlineExceeded, LLMError)
    assert issubclass(DeadlineExceeded, TimeoutError)
