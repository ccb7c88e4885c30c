"""How many slots there are, and who waits for more than a slot. Time is an argument, or virtual."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm._errors import ConfigError, DeadlineExceeded
from resilient_llm.policies._slots import ABANDONED, BulkheadSnapshot, Limit, Slot, Tokens
from resilient_llm.policies.bulkhead import Bulkhead

from .test_bulkhead import Thing, peek

OUTCOMES = st.lists(
    st.one_of(
        st.tuples(st.just("throttled"), st.integers(0, 50), st.integers(0, 50)),
        st.tuples(st.just("answered"), st.integers(1, 100), st.just(0)),
    )
)


@pytest.mark.invariant(28)
@given(OUTCOMES, st.integers(1, 80), st.integers(0, 40))
def test_a_number_stays_within_its_bounds_and_tells_every_change(
    outcomes: list[tuple[str, int, int]], slots: int, more: int
) -> None:
    limit, number = Limit(slots, slots + more), slots
    for kind, value, later in outcomes:
        number += limit.throttled(value, value + later) if kind == "throttled" else limit.answered(value)
        assert limit.slots == number
        assert 1 <= limit.slots <= slots + more


@given(OUTCOMES, st.integers(1, 80))
def test_a_fixed_number_stays(outcomes: list[tuple[str, int, int]], slots: int) -> None:
    limit = Limit(slots)
    for kind, value, later in outcomes:
        assert (limit.throttled(value, value + later) if kind == "throttled" else limit.answered(value)) == 0
    assert limit.slots == slots


class Reader:
    """A stream whose progress the test says."""

    def __init__(self) -> None:
        self.at: object = None
        self.revoked = 0

    def progress(self) -> object:
        return self.at

    def revoke(self) -> None:
        self.revoked += 1


def test_only_a_reader_who_reads_nothing_for_a_minute_is_sent_away() -> None:
    (slot,) = [Bulkhead(1).try_acquire(lambda now: Thing(), 0.0)]
    assert slot is not None
    slot.look(1000)  # no stream: nobody can have forgotten it
    slot.reader = reader = Reader()
    slot.look(1000)
    slot.look(2000)  # it waits for its server
    reader.at = "first"
    slot.look(2001)
    slot.look(2001 + ABANDONED - 0.1)
    assert reader.revoked == 0
    slot.look(2001 + ABANDONED)
    assert reader.revoked == 1
    reader.at = "second"
    slot.look(2100)
    slot.look(2100 + ABANDONED - 0.1)
    assert reader.revoked == 1
    reader.at = None
    slot.look(2100 + ABANDONED)
    reader.at = "second"
    slot.look(2101 + ABANDONED)
    assert reader.revoked == 1


@pytest.mark.anyio
async def test_who_waits_gets_a_slot_in_the_step_in_which_the_number_grows() -> None:
    bulkhead, got = Bulkhead(1, 2), []

    async def wait() -> None:
        got.append(await bulkhead.acquire(lambda now: Thing(), peek, deadline=1e6, clock=lambda: 0.0))

    assert bulkhead.try_acquire(lambda now: Thing(), 0.0)
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        while not bulkhead.queued:
            await anyio.lowlevel.checkpoint()
        assert bulkhead.answered(0.0) == 1
        assert (bulkhead.slots, bulkhead.inflight, bulkhead.queued) == (2, 2, 0)
    assert len(got) == 1


def test_a_stream_is_the_reader_of_its_slot_and_a_child_of_fork_has_neither() -> None:
    bulkhead, reader = Bulkhead(2), Reader()
    slot = bulkhead.try_acquire(lambda now: Thing(), 0.0)
    assert slot is not None
    bulkhead.read_by(reader, slot)
    assert slot.reader is reader
    assert bulkhead._read == {slot}
    slot.release(1.0)
    assert bulkhead._read == set()
    bulkhead.try_acquire(lambda now: Thing(), 2.0)
    bulkhead.after_fork()
    assert (bulkhead.inflight, bulkhead.queued, bulkhead._read) == (0, 0, set())
    unknown = Bulkhead()
    unknown.after_fork()
    assert unknown.inflight == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("waiters", "leave", "kept"),
    [
        (200, 150, 99),  # 101 of 200 are most of them: 99 stay; of these 49 leave, too few for another pass
        (100, 65, 35),  # 64 are never worth one
        (100, 64, 100),
    ],
)
async def test_who_has_left_is_dropped_when_most_have(waiters: int, leave: int, kept: int) -> None:
    bulkhead, served, scopes = Bulkhead(1), [], [anyio.CancelScope() for _ in range(waiters)]
    first = bulkhead.try_acquire(lambda now: Thing(), 0.0)
    assert first is not None

    async def wait(number: int) -> None:
        with scopes[number]:
            slot = await bulkhead.acquire(lambda now: Thing(), peek, deadline=1e6, clock=lambda: 0.0)
            served.append(number)
            slot.release(0.0)

    async with anyio.create_task_group() as group:
        for number in range(waiters):
            group.start_soon(wait, number)
            while bulkhead.queued <= number:
                await anyio.lowlevel.checkpoint()
        for scope in scopes[:leave]:
            scope.cancel()
        while bulkhead.queued > waiters - leave:
            await anyio.lowlevel.checkpoint()
        assert bulkhead.snapshot() == BulkheadSnapshot(1, 1, waiters - leave)
        assert len(bulkhead._queue) == kept
        first.release(0.0)
    assert served == list(range(leave, waiters))


@pytest.mark.anyio
async def test_who_came_too_late_is_told_how_long_it_waited() -> None:
    with pytest.raises(DeadlineExceeded, match="no free slot within 0 s"):
        await Bulkhead(1).acquire(lambda now: Thing(), peek, deadline=7.0, clock=lambda: 7.0)


def test_a_throttle_counts_from_when_its_attempt_began() -> None:
    bulkhead = Bulkhead(10, 20)

    def slot(now: float) -> Slot[Thing]:
        given = bulkhead.try_acquire(lambda now: Thing(), now)
        assert given is not None
        return given

    first, second = slot(1.0), slot(1.0)
    assert (bulkhead.throttled(first, 2.0), bulkhead.slots) == (-3, 7)
    assert (bulkhead.throttled(second, 3.0), bulkhead.slots) == (0, 7)
    assert (bulkhead.throttled(slot(2.5), 3.0), bulkhead.slots) == (-3, 4)
    assert (bulkhead.throttled(slot(3.0), 4.0), bulkhead.slots) == (0, 4)


def test_a_number_that_the_user_fixed_moves_by_nothing() -> None:
    bulkhead = Bulkhead(1)
    slot = bulkhead.try_acquire(lambda now: Thing(), 0.0)
    assert slot is not None
    assert [bulkhead.answered(1.0), bulkhead.throttled(slot, 2.0), bulkhead.slots] == [0, 0, 1]


def test_its_repr_names_what_it_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert repr(Bulkhead(2, shared="box")) == "Bulkhead(0 of 2 slots in use shared as 'box', 0 queued)"
    assert repr(Bulkhead(2)) == "Bulkhead(0 of 2 slots in use, 0 queued)"


def test_its_repr_says_whether_it_is_held() -> None:
    bulkhead = Bulkhead(1)
    slot = bulkhead.try_acquire(lambda now: Thing(), 0.0)
    assert isinstance(slot, Slot)
    assert repr(slot) == "Slot(held)"
    slot.release(1.0)
    assert repr(slot) == "Slot(released)"


@pytest.mark.invariant(28)
def test_one_epoch_shrinks_once() -> None:
    """What began before the number shrank says nothing about the number that there is now."""
    limit = Limit(100, 100)
    assert [limit.throttled(began=1.0, now=5.0) for _ in range(20)] == [-30] + [0] * 19
    assert limit.throttled(began=5.0, now=6.0) == 0
    assert limit.throttled(began=5.1, now=6.0) == -21
    assert limit.slots == 49


@pytest.mark.invariant(29)
def test_it_grows_by_one_for_as_many_answers_as_there_are_slots_and_only_if_half_are_used() -> None:
    limit = Limit(4, 6)
    assert [limit.answered(1) for _ in range(20)] == [0] * 20
    assert [limit.answered(2) for _ in range(4)] == [0, 0, 0, 1]
    assert [limit.answered(3) for _ in range(5)] == [0, 0, 0, 0, 1]
    assert [limit.answered(6) for _ in range(20)] == [0] * 20
    assert limit.slots == 6
    odd = Limit(5, 6)
    assert [odd.answered(2) for _ in range(20)] == [0] * 20


def test_a_throttle_begins_the_count_of_answers_anew() -> None:
    limit = Limit(4, 6)
    assert [limit.answered(4) for _ in range(3)] == [0, 0, 0]
    assert limit.throttled(1.0, 2.0) == -2
    assert [limit.answered(2), limit.answered(2)] == [0, 1]


@given(st.lists(st.one_of(st.just("take"), st.just("give"), st.integers(-3, 3))), st.integers(0, 5))
def test_tokens_keep_count(steps: list[str | int], number: int) -> None:
    tokens, total, taken = Tokens(number), number, 0
    for step in steps:
        if step == "take":
            free = total - taken
            assert tokens.take() is (free > 0)
            taken += free > 0
        elif step == "give":
            if taken:
                tokens.give()
                taken -= 1
        elif isinstance(step, int) and total + step >= 0:
            tokens.resize(step)
            total += step
        assert tokens.balance == total - taken
        assert bool(tokens) is (total > taken)


class Later:
    """Gives what an attempt needs from an instant on, and says so before."""

    def __init__(self, at: float) -> None:
        self.at, self.asked = at, 0

    def __call__(self, now: float) -> Thing | float:
        self.asked += 1
        return Thing() if now >= self.at else self.at


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    from trio.testing import MockClock

    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.mark.invariant(25)
@pytest.mark.anyio
async def test_who_needs_more_than_a_slot_waits_at_the_head_and_nobody_overtakes() -> None:
    bulkhead, order = Bulkhead(2), list[tuple[str, float]]()
    first, second = Later(anyio.current_time() + 10), Later(0)

    async def take(name: str, what: Later) -> None:
        slot = await bulkhead.acquire(what, peek, deadline=math.inf, clock=anyio.current_time)
        order.append((name, anyio.current_time() - began))
        slot.release(anyio.current_time())

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(take, "first", first)
        await anyio.wait_all_tasks_blocked()
        assert bulkhead.inflight == 0  # it waits without a slot
        assert bulkhead.try_acquire(second, anyio.current_time()) is None
        group.start_soon(take, "second", second)
    assert order == [("first", 10.0), ("second", 10.0)]
    assert first.asked == 2  # on coming, and when it was time: not in between
    assert (bulkhead.inflight, bulkhead.queued) == (0, 0)


@pytest.mark.invariant(25)
@pytest.mark.anyio
async def test_who_is_told_once_more_to_come_back_stays_before_those_behind() -> None:
    """A slot that is given back has the head asked before its time; it needs more than the slot still."""
    bulkhead, order = Bulkhead(2), list[str]()
    began = anyio.current_time()
    first, second = Later(began + 10), Later(0)
    held = bulkhead.try_acquire(second, began)
    assert held is not None

    async def take(name: str, what: Later) -> None:
        slot = await bulkhead.acquire(what, peek, deadline=math.inf, clock=anyio.current_time)
        order.append(name)
        slot.release(anyio.current_time())

    async with anyio.create_task_group() as group:
        for name, what in ("first", first), ("second", second):
            group.start_soon(take, name, what)
            await anyio.wait_all_tasks_blocked()
        await anyio.sleep(5)
        held.release(anyio.current_time())
    assert (order, first.asked) == (["first", "second"], 3)


@pytest.mark.invariant(27)
@pytest.mark.anyio
@pytest.mark.parametrize("leaves", ["deadline", "cancelled"])
async def test_when_the_head_leaves_the_next_is_served_in_the_same_step(leaves: str) -> None:
    bulkhead = Bulkhead(1)
    began = anyio.current_time()
    got: list[float] = []

    async def head() -> None:
        with anyio.move_on_after(3 if leaves == "cancelled" else math.inf):
            with pytest.raises(TimeoutError) if leaves == "deadline" else anyio.CancelScope():
                await bulkhead.acquire(
                    Later(began + 100), peek, deadline=began + (3 if leaves == "deadline" else 50),
                    clock=anyio.current_time,
                )  # fmt: skip

    async def behind() -> None:
        slot = await bulkhead.acquire(Later(0), peek, deadline=math.inf, clock=anyio.current_time)
        got.append(anyio.current_time() - began)
        slot.release(anyio.current_time())

    async with anyio.create_task_group() as group:
        group.start_soon(head)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(behind)
    assert got == [3.0]


def test_a_slot_of_before_a_fork_is_not_given_back_to_the_child() -> None:
    bulkhead = Bulkhead(1)
    before = bulkhead.try_acquire(Later(0), 0)
    assert before is not None
    bulkhead.after_fork()
    assert bulkhead.inflight == 0
    mine = bulkhead.try_acquire(Later(0), 0)
    before.release(1)
    assert bulkhead.inflight == 1
    assert bulkhead.try_acquire(Later(0), 1) is None
    assert mine is not None
    mine.release(2)
    assert bulkhead.inflight == 0


@pytest.mark.anyio
async def test_a_head_that_is_told_to_ask_at_once_again_does_so_until_it_is_served() -> None:
    bulkhead, asked = Bulkhead(1), 0

    def take(now: float) -> Thing | float:
        nonlocal asked
        asked += 1
        return Thing() if asked == 5 else now

    slot = await bulkhead.acquire(take, peek, deadline=math.inf, clock=anyio.current_time)
    assert asked == 5
    slot.release(anyio.current_time())
    assert bulkhead.inflight == 0


def test_the_owners_numbers_hold_where_the_user_gave_none_and_are_checked_as_his() -> None:
    bulkhead = Bulkhead()
    for slots in (0, 10**6 + 1):
        with pytest.raises(ConfigError, match=f"^slots: {slots} "):
            bulkhead.resolve(slots)
    bulkhead.resolve(64, 10)
    assert bulkhead.slots == 10
    moving = Bulkhead()
    moving.resolve(1, 2)
    slot = moving.try_acquire(lambda now: Thing(), 0.0)
    moving.answered(0.0)
    assert (slot is not None, moving.slots) == (True, 2)


def test_who_is_told_to_ask_later_gets_no_slot_at_once() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.try_acquire(lambda now: now + 1, 0.0) is None
    assert bulkhead.inflight == 0


def test_two_of_one_name_share_their_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one, other = Bulkhead(1, shared="box"), Bulkhead(1, shared="box")
    slot = one.try_acquire(lambda now: Thing(), 0.0)
    assert slot is not None
    assert other.try_acquire(lambda now: Thing(), 0.0) is None
    slot.release(1.0)
    again = other.try_acquire(lambda now: Thing(), 1.0)
    assert again is not None
    again.release(2.0)


@pytest.mark.anyio
async def test_a_lane_that_waits_for_more_than_a_slot_holds_up_no_other() -> None:
    bulkhead, served, asked = Bulkhead(1), [], []

    async def wait(name: str, take: Callable[[float], Thing | float], lane: str) -> None:
        slot = await bulkhead.acquire(take, peek, deadline=1e6, clock=lambda: 0.0, lane=lane)
        served.append(name)
        slot.release(0.0)

    def later(now: float) -> float:
        asked.append(now)
        return now + 1e5

    async with anyio.create_task_group() as group:
        group.start_soon(wait, "first", later, "a")
        while not asked:
            await anyio.lowlevel.checkpoint()
        group.start_soon(wait, "behind it", lambda now: Thing(), "a")
        while bulkhead.queued < 2:
            await anyio.lowlevel.checkpoint()
        group.start_soon(wait, "beside it", lambda now: Thing(), "b")
        while not served:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert served == ["beside it"]


@pytest.mark.anyio
async def test_a_deadline_is_kept_on_whatever_clock_it_is() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.try_acquire(lambda now: Thing(), 0.0)
    with anyio.fail_after(20):
        with pytest.raises(DeadlineExceeded):
            clock = lambda: anyio.current_time() + 1e6  # noqa: E731
            await bulkhead.acquire(lambda now: Thing(), peek, deadline=clock() + 0.02, clock=clock)
