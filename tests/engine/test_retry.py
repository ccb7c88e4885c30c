"""When the same route is tried again, after how long, and how often at most."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest
from tenacity import RetryCallState, wait_chain, wait_fixed, wait_incrementing

from resilient_llm import AllRoutesFailed, Bulkhead, CircuitBreaker, LLMError, RateLimited, Retry, RetryBudget, Route
from resilient_llm.errors import (
    AuthFailed,
    BadRequest,
    ConfigError,
    ConnectFailed,
    ConnectTimeout,
    EmptyReply,
    FirstTokenTimeout,
    LoadTimeout,
    Malformed,
    ModelNotFound,
    OutputInvalid,
    Overloaded,
    QuotaExhausted,
    ServerError,
    StreamStalled,
    Truncated,
)
from resilient_llm.testing import FakeBackend, fail, hang, say

from .kit import Ask, client, error_of, seconds_of, unlimited

pytestmark = pytest.mark.anyio
DEAD = CircuitBreaker(mode="observe_only")

# error: attempts on a hosted route (3 at most), on a local one (2 at most)
REPEATS: dict[LLMError, tuple[int, int]] = {
    ConnectFailed("x"): (3, 2),
    ServerError("x"): (3, 2),
    Malformed("x"): (3, 2),
    Truncated("x"): (3, 2),
    Overloaded("x"): (3, 2),
    RateLimited("x"): (3, 2),
    ConnectTimeout("x"): (3, 1),  # slow now is slow again on the same box
    LoadTimeout("x"): (3, 1),
    StreamStalled("x"): (2, 1),  # two that are silent in a row open the breaker
    FirstTokenTimeout("x"): (1, 1),
    EmptyReply("x"): (2, 2),  # a second answer as bad as the first says that a third will be too
    OutputInvalid("x"): (2, 2),
    RateLimited("x", oversize=True): (1, 1),
    QuotaExhausted("x"): (1, 1),
    BadRequest("x"): (1, 1),
    AuthFailed("x"): (1, 1),
    ModelNotFound("x"): (1, 1),
    ServerError("out of memory", retryable=False): (1, 1),
}


@pytest.mark.invariant(14)
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("error", REPEATS, ids=repr)
async def test_which_errors_are_repeated_and_how_often(ask: Ask, error: LLMError, local: bool) -> None:
    backend = FakeBackend(fail(error), local=local)
    raised = await error_of(ask(client(backend)), type(error))
    assert len(backend.requests) == REPEATS[error][local]
    assert [one.number for one in raised.attempts] == list(range(1, REPEATS[error][local] + 1))


async def test_the_number_of_attempts_can_be_chosen(ask: Ask) -> None:
    backend = FakeBackend(*[fail(ServerError("no"))] * 4, say("yes"))
    reply = await ask(client(Route(backend, retry=Retry(attempts=5), breaker=CircuitBreaker(failures=9, rate=1.0))))
    assert [one.kind for one in reply.attempts] == ["first", *["retry"] * 4]
    assert reply.text == "yes"


@pytest.mark.invariant(42)
async def test_the_caller_sees_the_last_error_of_its_route(ask: Ask) -> None:
    backend = FakeBackend(fail(ServerError("first")), fail(Malformed("second")))
    error = await error_of(ask(client(Route(backend, retry=Retry(attempts=2)))), Malformed)
    assert [str(one.error) for one in error.attempts] == ["fake: first", "fake: second"]


@pytest.mark.parametrize("seed", range(5))
async def test_retry_after_is_never_early_and_up_to_ten_percent_late(ask: Ask, seed: int) -> None:
    backend = FakeBackend(fail(RateLimited("slow", retry_after=20)), say("yes"))
    reply = await ask(client(backend, seed=seed), timeout=60)
    waited = reply.attempts[1].started - reply.attempts[0].total
    assert 20 <= waited <= 22
    assert reply.timings.backoff == pytest.approx(waited)


@pytest.mark.invariant(20)
async def test_callers_do_not_return_in_step_after_retry_after() -> None:
    waits = set()
    for seed in range(10):
        backend = FakeBackend(fail(RateLimited("slow", retry_after=20)), say("yes"))
        waits.add(round((await client(backend, seed=seed).chat("hi")).timings.backoff, 3))
    assert len(waits) == 10


@pytest.mark.parametrize("hint", [120.5, 3600])
async def test_a_longer_retry_after_is_not_waited_for(ask: Ask, hint: float) -> None:
    error = RateLimited("slow", retry_after=hint)
    assert await seconds_of(ask(client(FakeBackend(fail(error))), timeout=9000), RateLimited) == 0
    second = FakeBackend(say("yes"), name="second")
    assert (await ask(client(FakeBackend(fail(error)), second))).route == "second"


@pytest.mark.parametrize(("hint", "attempts"), [(2.7, ["a", "a"]), (3.1, ["a", "b"])])
async def test_a_wait_beyond_the_patience_goes_to_the_next_route_now(
    ask: Ask, hint: float, attempts: list[str]
) -> None:
    first = FakeBackend(fail(RateLimited("slow", retry_after=hint)), say("yes"), name="a")
    reply = await ask(client(first, FakeBackend(say("yes"), name="b")))
    assert [one.route for one in reply.attempts] == attempts


async def test_the_patience_can_be_chosen(ask: Ask) -> None:
    first = FakeBackend(fail(RateLimited("slow", retry_after=30)), say("yes"), name="a")
    llm = client(Route(first, retry=Retry(patience=40)), FakeBackend(say("yes"), name="b"))
    assert [one.route for one in (await ask(llm)).attempts] == ["a", "a"]


async def test_the_last_route_waits_longer_than_the_patience(ask: Ask) -> None:
    second = FakeBackend(fail(RateLimited("slow", retry_after=30)), say("yes"), name="b")
    llm = client(FakeBackend(fail(AuthFailed("no", falls_back=True)), name="a"), second)
    reply = await ask(llm)
    assert [one.route for one in reply.attempts] == ["a", "b", "b"]
    assert 30 <= reply.timings.backoff <= 33


@pytest.mark.parametrize("error", [ServerError("down"), QuotaExhausted("spent", retry_after=500)])
async def test_a_route_that_cannot_help_now_is_no_reason_for_impatience(ask: Ask, error: LLMError) -> None:
    first = FakeBackend(say("yes"), fail(RateLimited("slow", retry_after=20)), say("yes"), name="a")
    second = Route(FakeBackend(fail(error), name="b"), breaker=CircuitBreaker(failures=1, cooldown=25))
    llm = client(first, second, plan=lambda request, routes: routes if "now" in request.tags else routes[::-1])
    await ask(llm)  # opens the second's breaker, or puts it aside
    reply = await ask(llm, tags=["now"])
    assert [one.route for one in reply.attempts] == ["a", "a"]


@pytest.mark.invariant(18)
async def test_no_wait_ends_after_the_deadline(ask: Ask) -> None:
    backend = FakeBackend(fail(RateLimited("slow", retry_after=20)), say("yes"))
    assert await seconds_of(ask(client(backend), timeout=15), RateLimited) == 0
    with anyio.fail_after(15):
        assert await seconds_of(ask(client(FakeBackend(fail(RateLimited("slow", retry_after=20))))), RateLimited) == 0


BACKOFF = [
    (False, ServerError("x"), [0.5, 1, 2, 4, 8, 16, 20, 20]),
    (False, RateLimited("x"), [1, 2, 4, 8, 16, 20, 20]),
    (True, ServerError("x"), [0.5, 1, 2, 4, 8, 10, 10]),
    (True, Overloaded("x"), [0.5, 1, 2, 4, 8, 10, 10]),
]


@pytest.mark.parametrize(("local", "error", "tops"), BACKOFF)
async def test_the_backoff_is_full_jitter_below_a_doubling_top(local: bool, error: LLMError, tops: list[float]) -> None:
    longest = [0.0] * len(tops)
    for seed in range(30):
        route = Route(
            FakeBackend(fail(error), local=local), retry=Retry(attempts=len(tops) + 1), budget=unlimited(), breaker=DEAD
        )
        attempts = (await error_of(client(route, seed=seed).chat("hi", timeout=500))).attempts
        waits = [after.started - before.started for before, after in pairwise(attempts)]
        assert all(0 <= wait <= top + 1e-6 for wait, top in zip(waits, tops, strict=True))
        longest = [max(pair) for pair in zip(longest, waits, strict=True)]
    assert all(seen > 0.8 * top for seen, top in zip(longest, tops, strict=True))


async def test_the_same_seed_gives_the_same_waits_and_another_one_others(ask: Ask) -> None:
    async def starts(seed: int) -> list[float]:
        backend = FakeBackend(*[fail(ServerError("no"))] * 2, fail(RateLimited("slow", retry_after=7)), say("yes"))
        reply = await ask(client(Route(backend, retry=Retry(attempts=4)), seed=seed))
        return [round(one.started, 6) for one in reply.attempts]

    assert await starts(7) == await starts(7) != await starts(8)


class Recording(wait_fixed):
    """A strategy of the user's that keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__(2)
        self.seen: list[tuple[int, str]] = []

    def __call__(self, retry_state: RetryCallState) -> float:
        assert retry_state.outcome is not None
        self.seen.append((retry_state.attempt_number, type(retry_state.outcome.exception()).__name__))
        return super().__call__(retry_state)


@pytest.mark.parametrize(
    ("wait", "starts"),
    [
        (wait_fixed(2), [0, 2, 4, 6]),
        (wait_incrementing(start=1, increment=2), [0, 1, 4, 9]),
        (wait_chain(wait_fixed(5), wait_fixed(1)), [0, 5, 6, 7]),
        (wait_fixed(1) + wait_fixed(2), [0, 3, 6, 9]),
    ],
)
async def test_a_wait_strategy_of_tenacity_takes_the_place_of_the_jitter(
    ask: Ask, wait: Any, starts: list[float]
) -> None:
    route = Route(FakeBackend(fail(ServerError("no"))), retry=Retry(attempts=4, wait=wait), budget=unlimited())
    error = await error_of(ask(client(route)), ServerError)
    assert [one.started for one in error.attempts] == pytest.approx(starts)


async def test_a_wait_strategy_is_told_the_attempt_and_the_error() -> None:
    wait = Recording()
    backend = FakeBackend(fail(ServerError("no")), fail(Malformed("no")), say("yes"))
    await client(Route(backend, retry=Retry(wait=wait))).chat("hi")
    assert wait.seen == [(1, "ServerError"), (2, "Malformed")]


async def test_retry_after_comes_before_a_wait_strategy(ask: Ask) -> None:
    backend = FakeBackend(fail(RateLimited("slow", retry_after=10)), say("yes"))
    assert (await ask(client(Route(backend, retry=Retry(wait=wait_fixed(1)))))).timings.backoff >= 10


async def test_a_route_whose_breaker_has_opened_is_not_tried_again_and_its_own_error_is_seen(ask: Ask) -> None:
    route = Route(FakeBackend(fail(ServerError("dead"))), breaker=CircuitBreaker(failures=1))
    began = anyio.current_time()
    error = await error_of(ask(client(route)), ServerError)
    assert len(error.attempts) == 1
    assert anyio.current_time() == began


async def test_a_repeat_that_the_breaker_refuses_leaves_the_error_of_the_server_and_costs_nothing(ask: Ask) -> None:
    backend = FakeBackend(fail(ServerError("dead")))
    breaker, budget = CircuitBreaker(failures=2, cooldown=30), RetryBudget(ratio=0, burst=10)
    llm = client(Route(backend, retry=Retry(attempts=2, wait=wait_fixed(1)), breaker=breaker, budget=budget))
    errors: list[LLMError] = []

    async def call(delay: float) -> None:
        await anyio.sleep(delay)
        errors.append(await error_of(ask(llm), LLMError))

    async with anyio.create_task_group() as group:
        group.start_soon(call, 0)
        group.start_soon(call, 0.5)  # the second failure opens the breaker while the first call waits for its repeat
    assert [type(one) for one in errors] == [ServerError, ServerError]
    assert len(backend.requests) == 2
    assert budget.balance == 10


async def test_a_repeat_that_finds_no_slot_in_time_leaves_the_error_of_the_server(ask: Ask) -> None:
    backend, bulkhead = FakeBackend(fail(ServerError("the first")), hang(), name="a"), Bulkhead(1)
    first = Route(backend, retry=Retry(attempts=2, wait=wait_fixed(2)), bulkhead=bulkhead)
    llm = client(first, Route(FakeBackend(fail(ServerError("the next")), name="b"), retry=Retry(attempts=1)))
    async with anyio.create_task_group() as group:

        async def takes_the_slot() -> None:
            await anyio.sleep(1)
            await client(Route(backend, bulkhead=bulkhead)).chat("meanwhile")

        group.start_soon(takes_the_slot)
        error = await error_of(ask(llm, timeout=20), AllRoutesFailed)
        group.cancel_scope.cancel()
    assert [one.message for one in error.failures] == ["the first", "the next"]
    assert [type(one.error) for one in error.attempts] == [ServerError, Overloaded, ServerError]
    assert llm.snapshot()["a"]["budget"] == 10


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Retry(attempts=0), "attempts"),
        (lambda: Retry(attempts=True), "attempts"),
        (lambda: Retry(patience=0), "patience"),
        (lambda: Retry(wait=3), "wait"),  # type: ignore[arg-type]
        (lambda: RetryBudget(ratio=-0.1), "ratio"),
        (lambda: RetryBudget(ratio=float("nan")), "ratio"),
        (lambda: RetryBudget(burst=float("inf")), "burst"),
        (lambda: RetryBudget(burst=-1), "burst"),
    ],
)
def test_impossible_values_are_told_when_they_are_given(make: Any, field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        make()
