"""The order in which waiters are asked: by when they came, but for a lane whose first was told to come back."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm._errors import LLMError
from resilient_llm.policies._queue import Queue
from resilient_llm.policies._slots import Waiter

from .test_bulkhead import peek, take

pytestmark = pytest.mark.anyio


def waiter(lane: object) -> Waiter[Any]:
    return Waiter(take, peek, 0.0, 1e6, lane)


def gone(queue: Queue) -> Waiter[Any]:
    """The first goes."""
    place = queue.first(0.0)
    assert place is not None
    queue.take(place)
    return place[1]


async def test_who_came_first_is_first_whatever_lane_it_is_in() -> None:
    queue, everyone = Queue(), [waiter(lane) for lane in "abbacb"]
    for one in everyone:
        queue.add(one)
    assert repr(queue) == "Queue(6 in 3 lanes)"
    assert [gone(queue) for _ in everyone] == everyone
    assert (queue.first(0.0), len(queue), bool(queue)) == (None, 0, False)


async def test_a_lane_that_was_told_to_come_back_holds_up_no_other() -> None:
    queue, (first, second, third) = Queue(), [waiter(lane) for lane in "aab"]
    for one in (first, second, third):
        queue.add(one)
    place = queue.first(0.0)
    assert place is not None
    queue.take(place)
    first.put_off(5.0)
    queue.back(place)
    assert queue.first(1.0)[1] is third  # type: ignore[index]
    assert queue.first(5.0)[1] is first  # type: ignore[index]
    assert queue.waiting() == [first, second, third]


async def test_who_comes_back_to_a_lane_that_was_forgotten_is_its_first() -> None:
    queue, one = Queue(), waiter("a")
    queue.add(one)
    place = queue.first(0.0)
    assert place is not None
    queue.take(place)
    assert queue.first(0.0) is None
    queue.back(place)
    assert gone(queue) is one


async def test_who_has_left_is_passed_over_and_dropped() -> None:
    queue, (first, second, third) = Queue(), [waiter(lane) for lane in "abb"]
    for one in (first, second, third):
        queue.add(one)
    for one in (first, third):
        one.settle(LLMError("it left"))
    assert queue.waiting() == [second]
    assert len(queue) == 3
    queue.tidy()
    assert len(queue) == 1
    assert gone(queue) is second


async def test_the_first_of_each_lane_can_be_asked_before_it_was_told_to_come_back() -> None:
    queue, (gone_now, first, second, third) = Queue(), [waiter(lane) for lane in "caab"]
    for one in (gone_now, first, second, third):
        queue.add(one)
    assert gone(queue) is gone_now  # whose lane is empty
    for one in (first, second, third):
        one.put_off(5.0)
    queue.ask_anew()
    assert [one.again for one in (first, second, third)] == [None, 5.0, None]
    assert queue.first(1.0)[1] is first  # type: ignore[index]
