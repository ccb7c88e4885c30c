"""What loads tell: how long one takes, when one was not expected, and when there are too many."""

from __future__ import annotations

import math

from resilient_llm.policies.loads import Loads


def test_the_budget_is_three_times_the_longest_of_the_last_five_loads() -> None:
    loads = Loads()
    assert loads.budget is None
    for seconds in (90, 20, 20, 20, 20):
        loads.add(seconds)
    assert loads.budget == 270
    loads.add(20)
    assert (loads.budget, loads.count) == (60, 6)


def test_a_budget_from_quick_loads_leaves_room_for_one_from_a_cold_disk() -> None:
    loads = Loads()
    loads.add(0.3)
    assert loads.budget == 30


def test_before_there_is_anything_to_compare_with_a_second_is_a_load() -> None:
    loads = Loads()
    assert not loads.unexpected(0.9)
    assert loads.unexpected(1.1)


def test_afterwards_five_times_the_usual_is_one_and_half_a_second_never_less() -> None:
    quick, slow = Loads(), Loads()
    for _ in range(5):
        assert not quick.unexpected(0.03)
        assert not slow.unexpected(0.2)
    assert not quick.unexpected(0.4)
    assert quick.unexpected(0.6)
    assert not slow.unexpected(0.9)
    assert slow.unexpected(1.1)


def test_a_load_does_not_become_what_is_usual() -> None:
    loads = Loads()
    for _ in range(3):
        loads.unexpected(0.03)
    assert all(loads.unexpected(5.0) for _ in range(50))


def test_three_losses_within_ten_minutes_are_thrash_and_are_told_once() -> None:
    loads = Loads()
    assert [loads.lost(now, None) for now in (0, 100, 200, 300)] == [False, False, True, False]
    assert loads.thrash(300)
    assert not loads.thrash(5000)
    assert [loads.lost(now, None) for now in (5000, 5100, 5200)] == [False, False, True]  # a series of its own


def test_losses_that_lie_far_apart_are_none() -> None:
    loads = Loads()
    assert not any(loads.lost(now, None) for now in range(0, 10_000, 400))


def test_the_last_known_reason_is_kept() -> None:
    loads = Loads()
    loads.lost(0, "num_ctx: 8192 instead of 4096")
    loads.lost(1, None)
    assert loads.why == "num_ctx: 8192 instead of 4096"


def test_what_is_usual_is_taken_over_the_last_twenty_answers_and_from_three_on() -> None:
    loads = Loads()
    assert not loads.unexpected(1.0)  # what is exactly a second is none
    for seconds in (0.01, 0.01):
        assert not loads.unexpected(seconds)
    assert loads.unexpected(0.6)  # three are enough
    slow = Loads()
    for seconds in [0.4] * 60:
        assert not slow.unexpected(seconds)
    assert not slow.unexpected(1.9)
    for _ in range(20):
        slow.unexpected(0.05)
    assert slow.unexpected(0.6)


def test_losses_of_exactly_ten_minutes_are_thrash() -> None:
    loads = Loads()
    assert loads.why is None
    assert [loads.lost(now, None) for now in (0, 300, 600)] == [False, False, True]
    assert not loads.thrash(600.1)


def test_a_loss_is_untold_until_an_answer_tells_of_it() -> None:
    loads = Loads()
    assert (loads.lost_at, loads.untold) == (-math.inf, False)
    loads.lost(7, "gone")
    assert (loads.lost_at, loads.untold) == (7, True)
