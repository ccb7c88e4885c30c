"""The retry budget beside a model of integers, its bound for any history, and from many threads."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient_llm import ConfigError, RetryBudget


class BudgetMachine(RuleBasedStateMachine):
    """A budget whose ratio is a whole number of hundredths, beside an account in hundredths."""

    @initialize(ratio=st.integers(0, 100), burst=st.integers(0, 20))
    def start(self, ratio: int, burst: int) -> None:
        self.budget = RetryBudget(ratio / 100, burst)
        self.ratio, self.burst, self.account = ratio, burst * 100, burst * 100
        self.calls = self.repeats = self.drawn = 0

    @rule()
    def call(self) -> None:
        self.budget.deposit()
        self.calls += 1
        self.account = min(self.burst, self.account + self.ratio)

    @rule()
    def repeat(self) -> None:
        near = abs(self.account - 100) <= 1  # floating point may see it a hair below one
        drawn = self.budget.draw()
        assert near or drawn == (self.account >= 100)
        if drawn:
            self.account -= 100
            self.drawn += 1
            self.repeats += 1

    @rule()
    def refund(self) -> None:
        if self.drawn:
            self.drawn -= 1
            self.repeats -= 1
            self.budget.refund()
            self.account = min(self.burst, self.account + 100)

    @invariant()
    def agrees(self) -> None:
        assert self.budget.balance == pytest.approx(self.account / 100, abs=0.02)
        assert 0 <= self.budget.balance <= self.budget.burst
        assert self.repeats <= self.budget.burst + self.budget.ratio * self.calls + 1e-6


TestBudgetAgainstItsModel = BudgetMachine.TestCase
TestBudgetAgainstItsModel.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@pytest.mark.invariant(15, 16)
@given(st.lists(st.booleans(), max_size=400), st.floats(0, 1), st.floats(0, 30))
def test_repeats_are_at_most_the_burst_and_the_ratio_of_the_calls(
    history: list[bool], ratio: float, burst: float
) -> None:
    budget, calls, repeats = RetryBudget(ratio, burst), 0, 0
    for repeated in history:
        if repeated:
            repeats += budget.draw()
        else:
            calls += 1
            budget.deposit()
        assert 0 <= budget.balance <= burst
    assert repeats <= burst + ratio * calls + 1e-6


@pytest.mark.invariant(15)
def test_threads_that_share_a_budget_draw_no_more_than_there_is() -> None:
    budget = RetryBudget(ratio=0, burst=1000)
    start, drawn = threading.Barrier(4), [0] * 4

    def work(number: int) -> None:
        start.wait()
        for _ in range(2000):
            if budget.draw():
                drawn[number] += 1

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        sys.setswitchinterval(switch)
    assert sum(drawn) == 1000
    assert budget.balance == 0


def test_a_finaliser_that_gives_back_inside_a_step_does_not_wait_for_itself() -> None:
    budget = RetryBudget(burst=5)
    assert budget.draw()
    with budget._lock:  # what it meets when the garbage collector runs inside the step
        budget.refund()
    assert budget.balance == 5


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"ratio": -0.1}, "ratio: -0.1"),
        ({"ratio": 1.01}, "ratio: 1.01"),
        ({"ratio": math.nan}, "ratio: nan"),
        ({"ratio": "0.1"}, "ratio: '0.1'"),
        ({"ratio": True}, "ratio: True"),
        ({"burst": -1}, "burst: -1"),
        ({"burst": math.inf}, "burst: inf"),
        ({"burst": math.nan}, "burst: nan"),
        ({"burst": None}, "burst: None"),
    ],
)
def test_impossible_values_are_refused_and_shown(values: dict[str, Any], shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RetryBudget(**values)
    assert caught.value.message.startswith(shown)


def test_its_repr_says_what_is_left() -> None:
    budget = RetryBudget(burst=10)
    budget.draw()
    assert repr(budget) == "RetryBudget(9.0 of 10 left, +0.1 a call)"


def test_the_defaults_are_a_tenth_and_ten() -> None:
    budget = RetryBudget()
    assert (budget.ratio, budget.burst, budget.balance) == (0.1, 10, 10)


def test_a_child_of_fork_waits_for_nobody() -> None:
    budget = RetryBudget(ratio=0.5, burst=1)
    holder = threading.Thread(target=budget._lock.acquire)
    holder.start()
    holder.join()
    budget.after_fork()
    assert budget.draw()
