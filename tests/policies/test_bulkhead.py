"""The queue of an origin: against a list-and-counter model, then across tasks, loops and threads. No sleeping."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient_llm._errors import CircuitOpen, ConfigError, DeadlineExceeded, LLMError
from resilient_llm.policies.breaker import CircuitBreaker
from resilient_llm.policies.bulkhead import Bulkhead, Slot

pytestmark = pytest.mark.anyio
FAR = 1e6


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Thing:
    """What is taken with a slot; counts how often it was given back."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


def take(now: float) -> Thing:
    return Thing()


def peek(now: float) -> LLMError | None:
    return None


def now() -> float:
    return 0.0


async def settled(bulkhead: Bulkhead, queued: int) -> None:
    """Returns once so many wait."""
    while bulkhead.queued != queued:
        await checkpoint()


class Queue:
    """The model: a list of who waits, a count of slots, and the rule by which that moves."""

    def __init__(self, slots: int, ceiling: int = 0) -> None:
        self.slots, self.ceiling, self.held = slots, ceiling, 0
        self.began: dict[int, float] = {}
        self.answers, self.shrunk = 0, -1.0
        self.waiting: list[int] = []
        self.deadlines: dict[int, float] = {}
        self.groups: dict[int, str] = {}
        self.shut: set[str] = set()
        self.ends: dict[int, str] = {}

    def takes(self, number: int, now: float) -> None:
        self.held += 1
        self.began[number] = now

    def throttled(self, number: int, now: float) -> None:
        if self.ceiling and self.began[number] > self.shrunk:
            self.slots, self.shrunk, self.answers = max(1, self.slots * 7 // 10), now, 0

    def answered(self) -> None:
        if self.slots < self.ceiling and self.held >= self.slots / 2:
            self.answers += 1
            if self.answers == self.slots:
                self.slots, self.answers = self.slots + 1, 0

    def dispatch(self, now: float) -> None:
        while self.held < self.slots and self.waiting:
            first = self.waiting.pop(0)
            if self.deadlines[first] <= now:
                self.ends[first] = "expired"
            elif self.groups[first] in self.shut:
                self.ends[first] = "refused"
            else:
                self.ends[first] = "granted"
                self.takes(first, now)


class BulkheadMachine(RuleBasedStateMachine):
    @initialize(slots=st.integers(1, 3), more=st.sampled_from([None, None, 0, 3]))
    def start(self, slots: int, more: int | None) -> None:
        ceiling = None if more is None else slots + more
        self.loop = asyncio.new_event_loop()
        self.bulkhead, self.model, self.now = Bulkhead(slots, ceiling), Queue(slots, ceiling or 0), 0.0
        self.things: list[Thing] = []
        self.tasks: dict[int, asyncio.Task[Slot[Thing]]] = {}
        self.held: dict[int, Slot[Thing]] = {}

    def teardown(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.run()
        for slot in self.held.values():
            slot.release(self.now)
        assert (self.bulkhead.inflight, self.bulkhead.queued) == (0, 0)
        assert {thing.released for thing in self.things} <= {1}
        self.loop.close()

    def run(self) -> None:
        """Lets every task go as far as it can, and collects the ends."""
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))
        for number in [number for number, task in self.tasks.items() if task.done()]:
            task = self.tasks.pop(number)
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                self.held[number] = task.result()
            end = {CircuitOpen: "refused", DeadlineExceeded: "expired", type(None): "granted"}[type(error)]
            assert self.model.ends[number] == end

    def taker(self, group: str) -> Callable[[float], Thing]:
        def take(now: float) -> Thing:
            if group in self.model.shut:
                raise CircuitOpen("shut")
            self.things.append(Thing())
            return self.things[-1]

        return take

    def peeker(self, group: str) -> Callable[[float], LLMError | None]:
        return lambda now: CircuitOpen("shut") if group in self.model.shut else None

    @rule(group=st.sampled_from("ab"), patience=st.sampled_from([1.0, 5.0, 100.0]))
    def wait(self, group: str, patience: float) -> None:
        if group in self.model.shut:
            return
        number = len(self.model.deadlines)
        self.model.deadlines[number], self.model.groups[number] = self.now + FAR * patience, group
        self.model.waiting.append(number)
        self.model.dispatch(self.now)
        coroutine = self.bulkhead.acquire(
            self.taker(group), self.peeker(group), deadline=self.now + FAR * patience, clock=lambda: self.now
        )
        self.tasks[number] = self.loop.create_task(coroutine)
        self.run()

    @rule(group=st.sampled_from("ab"))
    def try_at_once(self, group: str) -> None:
        number = len(self.model.deadlines)
        free = self.model.held < self.model.slots
        if free and group in self.model.shut:
            with pytest.raises(CircuitOpen):
                self.bulkhead.try_acquire(self.taker(group), self.now)
            return
        slot = self.bulkhead.try_acquire(self.taker(group), self.now)
        assert (slot is not None) == free
        if slot is not None:
            self.model.takes(number, self.now)
            self.model.deadlines[number], self.held[number] = self.now, slot

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 9), twice=st.booleans(), cancel_the_winner=st.booleans())
    def release(self, pick: int, twice: bool, cancel_the_winner: bool) -> None:
        slot = self.held.pop(sorted(self.held)[pick % len(self.held)])
        before = dict(self.model.ends)
        slot.release(self.now)
        if twice:
            slot.release(self.now)
        self.model.held -= 1
        self.model.dispatch(self.now)
        winners = [n for n, end in self.model.ends.items() if end == "granted" and n not in before]
        if cancel_the_winner and winners:  # granted, but its task has not run since
            self.tasks[winners[0]].cancel()
            self.model.held -= 1
            self.model.dispatch(self.now)
        self.run()

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 9))
    def is_throttled(self, pick: int) -> None:
        number = sorted(self.held)[pick % len(self.held)]
        self.bulkhead.throttled(self.held[number], self.now)
        self.model.throttled(number, self.now)

    @precondition(lambda self: self.held)
    @rule(times=st.integers(1, 3))
    def is_answered(self, times: int) -> None:
        for _ in range(times):
            self.bulkhead.answered(self.now)
            self.model.answered()
            self.model.dispatch(self.now)
        self.run()

    @precondition(lambda self: self.model.waiting)
    @rule(pick=st.integers(0, 9))
    def cancel(self, pick: int) -> None:
        number = self.model.waiting.pop(pick % len(self.model.waiting))
        self.tasks[number].cancel()
        self.run()

    @rule(factor=st.sampled_from([0.5, 1.0, 4.0]))
    def pass_time(self, factor: float) -> None:
        self.now += FAR * factor

    @rule(group=st.sampled_from("ab"))
    def shut_or_reopen(self, group: str) -> None:
        self.model.shut ^= {group}
        self.bulkhead.recheck(self.now)
        for number in [number for number in self.model.waiting if self.model.groups[number] in self.model.shut]:
            self.model.waiting.remove(number)
            self.model.ends[number] = "refused"
        self.run()

    @invariant()
    def agrees_with_the_model(self) -> None:
        seen = self.bulkhead.snapshot()
        assert seen.slots == self.model.slots
        assert seen.inflight == self.model.held == len(self.held)
        assert seen.queued == len(self.model.waiting) == len(self.tasks)
        assert sum(not thing.released for thing in self.things) == len(self.held)

    @invariant()
    def no_slot_is_free_while_someone_waits(self) -> None:
        assert not (self.bulkhead.queued and self.bulkhead.inflight < self.model.slots)


TestBulkheadAgainstItsModel = BulkheadMachine.TestCase
TestBulkheadAgainstItsModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.invariant(25)
async def test_waiters_are_served_in_the_order_in_which_they_came() -> None:
    bulkhead, served = Bulkhead(1), []
    slot = bulkhead.try_acquire(take, 0)

    async def call(number: int) -> None:
        mine = await bulkhead.acquire(take, peek, deadline=FAR, clock=now)
        served.append(number)
        mine.release(0)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(call, number)
            await settled(bulkhead, number + 1)
        slot.release(0)
    assert served == [0, 1, 2, 3, 4]
    assert bulkhead.inflight == 0


@pytest.mark.invariant(27)
async def test_a_freed_slot_is_taken_in_the_same_step() -> None:
    bulkhead, granted = Bulkhead(1), []
    slot = bulkhead.try_acquire(take, 0)

    def note(now: float) -> Thing:
        granted.append(now)
        return Thing()

    async def call() -> None:
        (await bulkhead.acquire(note, peek, deadline=FAR, clock=now)).release(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await settled(bulkhead, 1)
        slot.release(7)
        assert (granted, bulkhead.inflight, bulkhead.queued) == ([7], 1, 0)


@pytest.mark.invariant(25)
async def test_who_was_told_to_come_back_is_asked_as_soon_as_something_is_given_back() -> None:
    bulkhead, room = Bulkhead(2), list[bool]()
    held = bulkhead.try_acquire(take, 0)
    assert held is not None

    async def wait() -> None:
        slot = await bulkhead.acquire(lambda at: take(at) if room else 100.0, peek, deadline=FAR, clock=now)
        assert slot.began == 5

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await settled(bulkhead, 1)
        room.append(True)
        held.release(5)
        assert bulkhead.snapshot() == (2, 1, 0)  # in the same step


async def test_nobody_overtakes_the_queue() -> None:
    bulkhead = Bulkhead(1)
    slot = bulkhead.try_acquire(take, 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: bulkhead.acquire(take, peek, deadline=FAR, clock=now))
        await settled(bulkhead, 1)
        assert bulkhead.try_acquire(take, 0) is None
        slot.release(0)


@pytest.mark.invariant(26)
async def test_an_expired_waiter_is_never_served() -> None:
    bulkhead, ends, time = Bulkhead(1), [], [0.0]
    slot = bulkhead.try_acquire(take, 0)

    async def call() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            await bulkhead.acquire(take, peek, deadline=50, clock=lambda: time[0])
        ends.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await settled(bulkhead, 1)
        time[0] = 50.0
        slot.release(50)
    assert (ends[0].phase, ends[0].message) == ("queue", "no free slot within 50 s")
    assert bulkhead.inflight == 0


async def test_waiting_ends_at_the_deadline_though_no_slot_is_freed() -> None:
    bulkhead = Bulkhead(1)
    bulkhead.try_acquire(take, 0)
    with pytest.raises(DeadlineExceeded), anyio.fail_after(5):
        await bulkhead.acquire(take, peek, deadline=0.001, clock=now)
    assert bulkhead.queued == 0


async def test_a_deadline_that_is_over_is_not_waited_for() -> None:
    with pytest.raises(DeadlineExceeded):
        await Bulkhead(1).acquire(take, peek, deadline=0, clock=now)


@pytest.mark.invariant(23)
async def test_a_cancellation_from_outside_is_not_taken_for_the_own_deadline() -> None:
    bulkhead = Bulkhead(1)
    bulkhead.try_acquire(take, 0)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: bulkhead.acquire(take, peek, deadline=FAR, clock=now))
            await settled(bulkhead, 1)
            scope.cancel()
    assert scope.cancelled_caught
    assert bulkhead.queued == 0


@pytest.mark.invariant(1, 24)
async def test_a_waiter_cancelled_with_a_slot_in_hand_gives_back_slot_and_permit() -> None:
    bulkhead, thing = Bulkhead(1), Thing()
    slot = bulkhead.try_acquire(take, 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: bulkhead.acquire(lambda now: thing, peek, deadline=FAR, clock=now))
        await settled(bulkhead, 1)
        slot.release(0)
        assert bulkhead.inflight == 1
        tasks.cancel_scope.cancel()
    assert (bulkhead.inflight, thing.released) == (0, 1)


async def test_who_is_refused_at_the_head_leaves_and_the_next_is_served() -> None:
    bulkhead, ends = Bulkhead(1), []
    slot = bulkhead.try_acquire(take, 0)

    def refused(now: float) -> Thing:
        raise CircuitOpen("open")

    async def call(taker: Callable[[float], Thing]) -> None:
        try:
            (await bulkhead.acquire(taker, peek, deadline=FAR, clock=now)).release(0)
            ends.append("served")
        except CircuitOpen:
            ends.append("refused")

    async with anyio.create_task_group() as tasks:
        for number, taker in enumerate([refused, take]):
            tasks.start_soon(call, taker)
            await settled(bulkhead, number + 1)
        slot.release(0)
    assert sorted(ends) == ["refused", "served"]
    assert bulkhead.inflight == 0


async def test_when_a_breaker_opens_its_waiters_leave_at_once_and_others_stay() -> None:
    bulkhead, breaker, ends = Bulkhead(1), CircuitBreaker(failures=1), Counter()
    breaker.on_change.append(lambda change: bulkhead.recheck(change.at))
    slot = bulkhead.try_acquire(breaker.admit, 0)

    async def doomed() -> None:
        with pytest.raises(CircuitOpen):
            await bulkhead.acquire(breaker.admit, breaker.check, deadline=FAR, clock=now)
        ends["refused"] += 1

    async def other() -> None:
        (await bulkhead.acquire(take, peek, deadline=FAR, clock=now)).release(0)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(doomed)
        tasks.start_soon(other)
        await settled(bulkhead, 4)
        slot.held.failure(0)
        assert bulkhead.queued == 1  # before the slot is given back
        slot.release(0)
    assert ends["refused"] == 3


async def test_a_breaker_that_turns_half_open_inside_the_step_does_not_stop_the_queue() -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(failures=1)
    breaker.on_change.append(lambda change: bulkhead.recheck(change.at))
    breaker.admit(0).failure(0)
    slot = bulkhead.try_acquire(take, 5)
    roles: list[str] = []

    async def call() -> None:
        mine = await bulkhead.acquire(breaker.admit, breaker.check, deadline=FAR, clock=lambda: 5.0)
        roles.append(mine.held.role)
        mine.release(5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await settled(bulkhead, 1)
        slot.release(5)
    assert roles == ["probe"]


async def test_an_open_breaker_is_told_before_queueing() -> None:
    bulkhead = Bulkhead(1)
    bulkhead.try_acquire(take, 0)
    with pytest.raises(CircuitOpen):
        await bulkhead.acquire(take, lambda now: CircuitOpen("open"), deadline=FAR, clock=now)


async def test_a_taker_with_a_bug_fails_its_own_call_and_nobody_elses() -> None:
    bulkhead = Bulkhead(1)
    slot = bulkhead.try_acquire(take, 0)

    def broken(now: float) -> Thing:
        raise ZeroDivisionError

    async def call() -> None:
        with pytest.raises(ZeroDivisionError):
            await bulkhead.acquire(broken, peek, deadline=FAR, clock=now)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await settled(bulkhead, 1)
        slot.release(0)
    assert bulkhead.inflight == 0


async def test_giving_back_inside_the_step_that_holds_the_lock_neither_waits_nor_is_lost() -> None:
    bulkhead, served = Bulkhead(1), []
    slot = bulkhead.try_acquire(take, 0)

    async def call(number: int) -> None:
        mine = await bulkhead.acquire(take, peek, deadline=FAR, clock=now)
        served.append(number)
        mine.release(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, 1)
        await settled(bulkhead, 1)
        with bulkhead._lock:  # what a finaliser meets that the garbage collector runs inside the step
            slot.release(0)
            assert bulkhead.try_acquire(take, 0) is None  # the free slot belongs to who waits
        tasks.start_soon(call, 2)
    assert served == [1, 2]


async def test_a_slot_for_someone_who_left_while_it_was_taken_is_free_again() -> None:
    bulkhead, thing = Bulkhead(1), Thing()
    slot = bulkhead.try_acquire(take, 0)

    def leave_and_take(now: float) -> Thing:
        waiter.settle(CircuitOpen("left"))  # as another thread may do at this moment
        return thing

    async def call() -> None:
        with pytest.raises(CircuitOpen, match="left"):
            await bulkhead.acquire(leave_and_take, peek, deadline=FAR, clock=now)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await settled(bulkhead, 1)
        (waiter,) = bulkhead._queue.waiting()
        slot.release(0)
    assert (bulkhead.inflight, thing.released) == (0, 1)


async def test_ten_thousand_who_leave_cost_the_queue_nothing_afterwards() -> None:
    bulkhead = Bulkhead(1)
    slot = bulkhead.try_acquire(take, 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: bulkhead.acquire(take, peek, deadline=FAR, clock=now))
        await settled(bulkhead, 1)
        async with anyio.create_task_group() as crowd:
            for _ in range(10_000):
                crowd.start_soon(lambda: bulkhead.acquire(take, peek, deadline=FAR, clock=now))
            await checkpoint()
            while len(bulkhead._queue) < 10_001:
                await checkpoint()
            crowd.cancel_scope.cancel()
        assert bulkhead.queued == 1
        assert len(bulkhead._queue) < 200  # the dead behind a patient head are dropped too
        slot.release(0)
    assert bulkhead.inflight == 1


@pytest.mark.invariant(2, 25)
def test_loops_and_threads_share_the_slots_and_nobody_is_forgotten() -> None:
    bulkhead, lock = Bulkhead(3), threading.Lock()
    running, most, served = [0], [0], Counter[str]()

    async def call(name: str) -> None:
        slot = await bulkhead.acquire(take, peek, deadline=FAR, clock=now)
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        await checkpoint()
        with lock:
            running[0] -= 1
            served[name] += 1
        slot.release(0)

    async def crowd(name: str) -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(call, name)

    names = ["asyncio", "trio", "asyncio", "trio"]
    threads = [threading.Thread(target=anyio.run, args=(crowd, name), kwargs={"backend": name}) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert served == {"asyncio": 100, "trio": 100}
    assert most[0] <= 3
    assert (bulkhead.inflight, bulkhead.queued) == (0, 0)


async def test_a_slot_may_be_given_back_from_another_thread() -> None:
    bulkhead = Bulkhead(1)
    slot = bulkhead.try_acquire(take, 0)

    async def give_back() -> None:
        await settled(bulkhead, 1)
        await anyio.to_thread.run_sync(slot.release, 0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_back)
        with anyio.fail_after(5):
            mine = await bulkhead.acquire(take, peek, deadline=FAR, clock=now)
    assert (bulkhead.inflight, slot.held.released, mine.held.released) == (1, 1, 0)


def test_a_refused_try_leaves_the_slot_free() -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(mode="forced_open")
    with pytest.raises(CircuitOpen):
        bulkhead.try_acquire(breaker.admit, 0)
    assert bulkhead.inflight == 0


@pytest.mark.invariant(1)
def test_releasing_gives_back_what_is_held_without_a_verdict_once() -> None:
    bulkhead, thing = Bulkhead(2), Thing()
    slot = bulkhead.try_acquire(lambda now: thing, 0)
    slot.release(0)
    slot.release(0)
    assert (thing.released, bulkhead.inflight) == (1, 0)
    assert repr(slot) == "Slot(released)"


@pytest.mark.parametrize("slots", [0, -1, 1.5, True, "2"])
def test_impossible_slots_are_refused_and_shown(slots: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Bulkhead(slots)
    assert repr(slots) in str(caught.value)


def test_the_owners_default_counts_only_if_the_user_gave_none() -> None:
    given, open_ = Bulkhead(2), Bulkhead()
    given.resolve(64)
    open_.resolve(64)
    open_.resolve(1)
    assert (given.slots, open_.slots) == (2, 64)
    assert repr(open_) == "Bulkhead(0 of 64 slots in use, 0 queued)"


async def test_without_a_number_of_slots_waiting_is_an_error_not_a_hang() -> None:
    bulkhead = Bulkhead()
    assert bulkhead.try_acquire(take, 0) is None
    with pytest.raises(ConfigError, match="Bulkhead"):
        await bulkhead.acquire(take, peek, deadline=FAR, clock=now)
