"""A deadline as a value: which of its instants counts when, and how it crosses into a thread."""

from __future__ import annotations

import contextvars
import math

import anyio
import pytest

from resilient_llm import ConfigError, bind, deadline
from resilient_llm._deadline import CEILING, INSIDE, Deadline, take

pytestmark = pytest.mark.anyio


def now() -> float:
    return 100.0


def test_what_is_kept_for_later_routes_is_taken_from_whichever_clock_ends_first() -> None:
    each = Deadline(10, 20, ambient=5)
    assert each.left(1) == 4
    assert each.first_token_by(2) == 3
    assert each.first_token_by(0) == 10  # with nothing kept the caller's own scope ends it in its own way
    assert Deadline(10, 20).first_token_by(2) == 8


def test_after_the_first_token_only_the_end_counts() -> None:
    assert Deadline(1, 2, ambient=3).begun() == Deadline(2, 2, 3)
    hard = Deadline(2, 2, 3)
    assert hard.begun() is hard


def test_without_a_deadline_there_is_a_default_to_the_first_token_and_then_a_ceiling() -> None:
    async def taken() -> tuple[Deadline, Deadline, Deadline]:
        with deadline(5, clock=now), deadline(9, clock=now):
            inside = take(7, now, default=60)
        return take(None, now, default=60), take(7, now, default=60), inside

    default, given, inside = anyio.run(taken)
    assert default == Deadline(160, 100 + CEILING)
    assert given == Deadline(107, 107)
    assert inside == Deadline(105, 105)


async def test_the_scope_that_is_there_is_planned_with() -> None:
    clock = anyio.current_time
    with anyio.fail_after(3):
        hard, soft = take(10, clock, default=60), take(None, clock, default=60)
    assert hard.ambient - clock() == pytest.approx(3, abs=1)
    assert hard.at - hard.ambient == pytest.approx(7, abs=0.1)
    assert soft.ambient == pytest.approx(hard.ambient, abs=0.1)
    assert take(10, clock, default=60).ambient == math.inf


@pytest.mark.parametrize(
    ("attempt", "scope", "left"),
    [(2, 60, 2), (0.5, 60, 0.5), (9, 3, 3), (2, None, 2), (0, 60, 60), (-1, None, math.inf)],
)
async def test_an_attempt_around_it_is_planned_with_and_one_that_is_over_is_not(
    attempt: float, scope: float | None, left: float
) -> None:
    token = INSIDE.set(lambda: attempt)
    with anyio.move_on_after(math.inf if scope is None else scope):
        assert take(None, now, default=60).ambient == pytest.approx(100 + left, abs=0.2)
    INSIDE.reset(token)


def test_a_function_that_is_bound_takes_the_deadline_along() -> None:
    def work(one: int, *, two: int) -> tuple[int, int, float]:
        async def left() -> float:
            return take(None, now, default=60).at

        return one, two, anyio.run(left)

    with deadline(5, clock=now):
        bound = bind(work)
    elsewhere = contextvars.Context()
    assert elsewhere.run(bound, 1, two=2) == (1, 2, 105)
    assert elsewhere.run(work, 1, two=2) == (1, 2, 100 + CEILING)


def test_a_timeout_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^timeout: -1 is not a number of seconds above 0"):
        take(-1, now, default=60)
