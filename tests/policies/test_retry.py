"""The wait before a repeat, as a pure function of what happened, what is left and chance."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import wait_fixed

from resilient_llm import LLMError, Retry
from resilient_llm.errors import (
    ConnectFailed,
    ConnectTimeout,
    EmptyReply,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerError,
)
from resilient_llm.policies import plan, retry

HINTS = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
CAP = {True: 10.0, False: 20.0}


def delay(error: LLMError, *, tried: int = 1, local: bool = False, left: float = 1e9, **options: Any) -> float | None:
    policy = options.pop("policy", Retry(attempts=10**7))
    rng = options.pop("rng", random.Random(1))
    return policy.delay(tried, error, rng, local=local, left=left, others=options.get("others", False))


@pytest.mark.invariant(19)
@given(st.integers(1, 10**6), st.booleans(), st.sampled_from([ServerError, RateLimited, Overloaded]), st.integers())
def test_a_wait_is_between_nothing_and_its_cap_however_often_it_was_tried(
    tried: int, local: bool, kind: type[LLMError], seed: int
) -> None:
    wait = delay(kind("x"), tried=tried, local=local, rng=random.Random(seed))
    base = 0.5 if local or kind is ServerError else 1.0
    assert wait is not None
    assert 0 <= wait <= CAP[local]
    if tried < 10:
        assert wait <= base * 2 ** (tried - 1)


@pytest.mark.invariant(18, 19)
@given(HINTS, st.floats(0.001, 1000), st.booleans(), st.booleans(), st.integers())
def test_whatever_the_server_hints_at_a_wait_is_finite_and_ends_before_the_deadline(
    hint: float | None, left: float, local: bool, others: bool, seed: int
) -> None:
    wait = delay(
        RateLimited("x", retry_after=hint), local=local, left=left, others=others, rng=random.Random(seed)
    )  # fmt: skip
    if wait is not None:
        assert 0 <= wait < left
        if others:
            assert wait <= Retry().patience
        if hint is not None and hint >= 0:
            assert hint <= wait <= hint * 1.1 + 1e-12
            assert hint <= retry.LONGEST_HINT
        else:
            assert wait <= 1.0


@pytest.mark.invariant(20)
@pytest.mark.parametrize(
    ("error", "low", "high"),
    [
        (ServerError("x"), 0.0, 0.5),
        (RateLimited("x"), 0.0, 1.0),
        (RateLimited("x", retry_after=50.0), 50.0, 55.0),
    ],
)
def test_the_jitter_is_uniform(error: LLMError, low: float, high: float) -> None:
    """Kolmogorov and Smirnov: the largest distance from the straight line, at a level of one in a thousand."""
    rng, count = random.Random(20), 4000
    waits = sorted(delay(error, rng=rng) or 0.0 for _ in range(count))
    shares = [(wait - low) / (high - low) for wait in waits]
    distance = max(max((n + 1) / count - share, share - n / count) for n, share in enumerate(shares))
    assert distance < 1.95 / math.sqrt(count)


@pytest.mark.parametrize(("wait", "kept"), [(-3.0, 0.0), (math.nan, 0.0), (math.inf, None)])
def test_a_strategy_of_the_users_that_gives_no_duration_makes_no_call_hang(wait: float, kept: float | None) -> None:
    assert delay(ServerError("x"), policy=Retry(attempts=9, wait=wait_fixed(wait))) == kept


@pytest.mark.invariant(14)
@pytest.mark.parametrize(("local", "most"), [(True, 2), (False, 3)])
def test_by_default_a_local_route_is_tried_twice_and_a_hosted_one_three_times(local: bool, most: int) -> None:
    waits = [delay(ConnectFailed("x"), tried=n, local=local, policy=Retry()) for n in range(1, 5)]
    assert [wait is not None for wait in waits] == [n < most for n in range(1, 5)]


def test_after_a_timeout_the_same_box_is_not_asked_again_and_a_hosted_service_is() -> None:
    assert delay(ConnectTimeout("x"), local=True) is None
    assert delay(ConnectTimeout("x"), local=False) is not None


def test_a_hint_of_two_minutes_is_waited_for_and_a_longer_one_is_not() -> None:
    assert delay(RateLimited("x", retry_after=120.0)) is not None
    assert delay(RateLimited("x", retry_after=120.1)) is None


def test_a_wait_that_ends_with_the_deadline_is_too_long() -> None:
    policy = Retry(wait=wait_fixed(2))
    assert delay(ServerError("x"), policy=policy, left=2.0) is None
    assert delay(ServerError("x"), policy=policy, left=2.01) == 2.0


def test_patience_counts_only_while_there_is_somewhere_else_to_go() -> None:
    policy = Retry(wait=wait_fixed(3))
    assert delay(ServerError("x"), policy=policy, others=True) == 3.0
    policy = Retry(wait=wait_fixed(3.01))
    assert delay(ServerError("x"), policy=policy, others=True) is None
    assert delay(ServerError("x"), policy=policy, others=False) == 3.01


@pytest.mark.parametrize("hint", [None, -1.0, math.nan, math.inf])
def test_a_route_is_put_aside_for_half_a_minute_where_the_server_says_nothing_of_use(hint: float | None) -> None:
    for kind in (RateLimited, QuotaExhausted, ModelNotFound):
        assert plan.aside_for(kind("x", retry_after=hint)) == 30


def test_what_is_put_aside_and_what_is_not() -> None:
    assert plan.aside_for(RateLimited("x", retry_after=7)) == 7
    assert plan.aside_for(RateLimited("x", retry_after=0)) == 0
    assert plan.aside_for(RateLimited("x", retry_after=7, oversize=True)) is None
    assert plan.aside_for(ServerError("x", retry_after=7)) is None


def test_the_order_is_the_users_then_where_the_conversation_is_then_what_was_put_aside() -> None:
    routes = ["a", "b", "c"]
    assert plan.order(routes, lambda route: False) == ["a", "b", "c"]
    assert plan.order(routes, lambda route: False, stays="c") == ["c", "a", "b"]
    assert plan.order(routes, lambda route: route == "a") == ["b", "c", "a"]
    assert plan.order(routes, lambda route: route == "c", stays="c") == ["a", "b", "c"]
    assert plan.order(["a"], lambda route: True) == ["a"]


class Highest(random.Random):
    """Chance at its worst."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("local", "kind", "tops"),
    [
        (False, ServerError, [0.5, 1, 2, 4, 8, 16, 20, 20]),
        (True, ServerError, [0.5, 1, 2, 4, 8, 10, 10, 10]),
        (False, RateLimited, [1, 2, 4, 8, 16, 20, 20, 20]),
        (False, Overloaded, [1, 2, 4, 8, 16, 20, 20, 20]),
        (True, Overloaded, [0.5, 1, 2, 4, 8, 10, 10, 10]),
    ],
)
def test_the_top_of_the_jitter_doubles_up_to_its_cap(local: bool, kind: type[LLMError], tops: list[float]) -> None:
    waits = [delay(kind("no"), tried=tried, local=local, rng=Highest()) for tried in range(1, 9)]
    assert waits == tops


def test_a_second_answer_that_is_no_use_is_the_last() -> None:
    assert delay(EmptyReply("nothing"), tried=1) is not None
    assert delay(EmptyReply("nothing"), tried=2) is None


def test_a_hint_of_nothing_is_a_repeat_at_once() -> None:
    assert delay(RateLimited("slow", retry_after=0), rng=Highest()) == 0.0


def test_a_strategy_is_told_which_attempt_it_was_and_how_it_ended() -> None:
    told: list[Any] = []

    def wait(state: Any) -> float:
        told.extend([state.attempt_number, state.outcome.exception()])
        return 1.5

    error = ServerError("no")
    assert delay(error, tried=3, policy=Retry(attempts=9, wait=wait)) == 1.5  # type: ignore[arg-type]
    assert told == [3, error]


@pytest.mark.parametrize(("left", "kept"), [(20, 5), (10, 5), (8, 4), (1, 0.5), (0, 0), (-3, 0)])
def test_later_routes_have_five_seconds_or_half_of_what_is_left(left: float, kept: float) -> None:
    assert plan.reserve(left) == kept


def test_of_two_routes_the_one_that_is_put_aside_is_the_second() -> None:
    assert plan.order(["a", "b"], lambda route: route == "a") == ["b", "a"]
    assert plan.order(["a"], lambda route: True) == ["a"]


def test_a_retry_in_words() -> None:
    jitter = "full jitter below 0.5 s, doubling to"
    assert Retry().explain(local=True) == f"2 attempts, {jitter} 10 s, patience 3 s"
    assert Retry().explain(local=False) == f"3 attempts, {jitter} 20 s, patience 3 s"
    assert Retry(attempts=1, patience=0.5).explain(local=True) == f"1 attempt, {jitter} 10 s, patience 0.5 s"
    assert Retry(wait=wait_fixed(1)).explain(local=True) == "2 attempts, waits by wait_fixed, patience 3 s"

    def linear(state: Any) -> float:
        raise NotImplementedError

    assert Retry(wait=linear).explain(local=True) == "2 attempts, waits by linear, patience 3 s"  # type: ignore[arg-type]
