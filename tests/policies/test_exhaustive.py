"""Breaker and bulkhead on every way of ten steps through a small world, beside the models of their own tests.

Chance tries long ways through a large world; here nothing is left out of a small one. Steps are calls, outcomes and
ticks. Two ways that lead to the same state (all that the object knows, and all that its model remembers of it) go on
as one, so that millions of ways come down to some ten thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import pytest

from resilient_llm.policies.bulkhead import Bulkhead

from .test_breaker import BreakerMachine
from .test_bulkhead import FAR, BulkheadMachine, Queue

M = TypeVar("M")
Move = tuple[str, dict[str, Any]]
DEPTH = 10


def walk(begin: Callable[[], M], moves: Callable[[M], list[Move]], look: Callable[[M], Hashable]) -> int:
    """Goes every way of `DEPTH` moves; `look` checks the state after each and tells it apart. Counts the states."""
    ways: dict[Hashable, tuple[Move, ...]] = {look(begin()): ()}
    seen = set(ways)
    for _ in range(DEPTH):
        further: dict[Hashable, tuple[Move, ...]] = {}
        for way in ways.values():
            for move in moves(_after(begin, way)):
                state = look(_after(begin, (*way, move)))
                if state not in seen:
                    seen.add(state)
                    further[state] = (*way, move)
        ways = further
    return len(seen)


def _after(begin: Callable[[], M], way: tuple[Move, ...]) -> M:
    machine = begin()
    for name, arguments in way:
        getattr(machine, name)(**arguments)
    return machine


OUTCOMES = [("ok", None), ("bad", None), ("bad", 9.0), ("slow", None), ("slow-bad", None), ("nothing", None)]


def breaker_moves(machine: BreakerMachine) -> list[Move]:
    """A tick as long as the cooldown, one longer than the lease, a call, and every outcome of the calls under way."""
    moves: list[Move] = [("pass_time", {"seconds": seconds}) for seconds in (5.0, 41.0)]
    if len(machine.live) < 2:
        moves.append(("admit", {}))
    for pick in range(len(machine.live)):
        for what, retry_after in OUTCOMES:
            moves.append(("settle", {"pick": pick, "what": what, "retry_after": retry_after, "again": False}))
    return moves


def breaker_state(machine: BreakerMachine) -> Hashable:
    machine.agrees_with_the_model()
    machine.tells_every_change_once_and_in_order()
    breaker, now = machine.breaker, machine.now
    assert len([one for one in breaker._places if one.role == "probe" and one.lease > now]) <= 1
    return (
        breaker._state, max(breaker._until - now, 0), breaker._limit, breaker._reopened,
        breaker._row, breaker._slow, breaker._good,
        tuple((now - at, failed) for at, failed in breaker._outcomes),
        tuple(one.lease - now for one in breaker._places),
        tuple((one.generation == breaker._generation, one.lease - now) for one, _ in machine.live),
        tuple((now - at, what) for at, what in machine.model.past),
    )  # fmt: skip


def late_verdicts_change_nothing(machine: BreakerMachine) -> None:
    breaker, now = machine.breaker, machine.now
    before = breaker.snapshot(now)
    for permit, _ in machine.live:
        if permit.generation != breaker._generation:
            permit.failure(now)
            permit.success(now)
            assert breaker.snapshot(now) == before


def is_never_stuck(machine: BreakerMachine) -> None:
    """Whoever is under way may be lost for ever: once lease and cooldown are over, good answers close it."""
    breaker, now = machine.breaker, machine.now + 200
    for _ in range(breaker.successes):
        breaker.admit(now).success(now)
    assert breaker.state(now) == "closed"


@pytest.mark.invariant(4, 5, 6, 7, 8, 10)
@pytest.mark.parametrize(
    "values",
    [
        {"failures": 2, "rate": 1.0, "window": 2, "successes": 2},
        {"failures": 3, "rate": 0.5, "window": 3, "successes": 1},
    ],
)
def test_a_breaker_keeps_its_rules_on_every_way_of_ten_steps(values: dict[str, Any]) -> None:
    checked: dict[Hashable, str] = {}

    def begin() -> BreakerMachine:
        machine = BreakerMachine.__new__(BreakerMachine)  # without the engine that would choose the steps
        machine.start(**values)
        return machine

    def look(machine: BreakerMachine) -> Hashable:
        state = breaker_state(machine)
        if state not in checked:
            checked[state] = machine.model.name
            late_verdicts_change_nothing(machine)
            is_never_stuck(machine)
        return state

    assert walk(begin, breaker_moves, look) > 5000
    assert set(checked.values()) == {"closed", "open", "half-open"}


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def bulkhead_moves(machine: BulkheadMachine) -> list[Move]:
    """A tick, a call that does not wait, two that do (one of them for a tick), and every end of those under way."""
    moves: list[Move] = [("pass_time", {"factor": 1.0}), ("shut_or_reopen", {"group": "a"})]
    moves.append(("try_at_once", {"group": "a"}))
    if len(machine.tasks) < 3:
        moves += [("wait", {"group": "a", "patience": 100.0}), ("wait", {"group": "b", "patience": 1.0})]
    for pick in range(len(machine.held)):
        moves.append(("release", {"pick": pick, "twice": True, "cancel_the_winner": False}))
        if machine.tasks:
            moves.append(("release", {"pick": pick, "twice": False, "cancel_the_winner": True}))
    return moves + [("cancel", {"pick": pick}) for pick in range(len(machine.model.waiting))]


def bulkhead_state(machine: BulkheadMachine) -> Hashable:
    machine.agrees_with_the_model()
    machine.no_slot_is_free_while_someone_waits()
    bulkhead, model = machine.bulkhead, machine.model
    left = {number: model.deadlines[number] - machine.now for number in model.waiting}
    return (
        bulkhead._tokens.balance,
        tuple(waiter.end is None for lane in bulkhead._queue._lanes.values() for _, waiter in lane),
        tuple((model.groups[number], max(0.0, min(left[number], 2 * FAR))) for number in model.waiting),
        frozenset(model.shut),
    )


@pytest.mark.invariant(1, 2, 3, 27)
@pytest.mark.parametrize("slots", [1, 2])
def test_a_bulkhead_keeps_its_rules_on_every_way_of_ten_steps(slots: int, loop: asyncio.AbstractEventLoop) -> None:
    def begin() -> BulkheadMachine:
        machine = BulkheadMachine.__new__(BulkheadMachine)
        machine.loop, machine.now = loop, 0.0
        machine.bulkhead, machine.model = Bulkhead(slots), Queue(slots)
        machine.things, machine.tasks, machine.held = [], {}, {}
        return machine

    def look(machine: BulkheadMachine) -> Hashable:
        state = bulkhead_state(machine)
        for task in machine.tasks.values():
            task.cancel()
        machine.run()
        for slot in machine.held.values():
            slot.release(machine.now)
        assert (machine.bulkhead.inflight, machine.bulkhead.queued) == (0, 0)
        assert {thing.released for thing in machine.things} <= {1}
        return state

    assert walk(begin, bulkhead_moves, look) > 300
