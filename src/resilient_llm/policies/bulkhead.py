"""The one queue of an origin: at most `slots` attempts in flight, the others wait in the order in which they came.

A local server's own queue is unbounded and silent (ollama/ollama#7758), so the waiting happens here, where a deadline
ends it and an opening breaker empties it.

Rules of the file:
  1. At the head of the queue one synchronous step takes everything that an attempt needs, or nothing.
  2. A free slot goes to the first waiter that is still there in the same step in which it became free; only the
     wake-up travels to the waiter's own loop.
  3. A waiter's end is decided once: a slot, an error, or its leaving. Who comes second gives back what it brought.
  4. Giving back never waits for a lock: a finaliser may do it, and one can run inside the step that holds the lock.
     Free slots are tokens in a deque, whose `append` and `pop` are atomic; who holds the lock dispatches afterwards.
  5. Nothing belongs to an event loop but a waiter's event; foreign code never runs under the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import anyio

from resilient_llm._deadline import Clock
from resilient_llm._errors import ConfigError, DeadlineExceeded, LLMError
from resilient_llm._fork import forgets
from resilient_llm._loops import here

_GONE = LLMError("the caller left the queue")
_TIDY_ABOVE = 64  # waiters that have left; fewer are not worth a pass over the queue


class Held(Protocol):
    """What is taken together with a slot, such as a breaker's permit."""

    def release(self) -> None:
        """Gives it back without a verdict; nothing if it had one before."""


T = TypeVar("T", bound=Held)


@dataclass(frozen=True, slots=True)
class BulkheadSnapshot:
    """How full it is."""

    slots: int | None
    inflight: int
    queued: int


class Slot(Generic[T]):
    """The right to have one attempt in flight.

    Attributes:
        held: what was taken with it.
    """

    __slots__ = ("_owner", "held")

    def __init__(self, owner: Bulkhead, held: T) -> None:
        self._owner = [(owner, owner._free)]
        self.held = held

    def release(self, now: float) -> None:
        """Gives the slot back, and what is held with it. From any thread, loop or finaliser; once is enough."""
        try:
            owner, free = self._owner.pop()  # atomic: only the first of two threads gets it
        except IndexError:
            return
        try:
            self.held.release()
        finally:
            free.append(None)  # to where it was taken from: after a fork that is not the owner's any more
            owner._dispatch(now)

    def __repr__(self) -> str:
        return f"Slot({'held' if self._owner else 'released'})"


class _Waiter(Generic[T]):
    """Who waits, until its end is decided."""

    __slots__ = ("_end", "_soon", "began", "deadline", "event", "peek", "take")

    def __init__(
        self, take: Callable[[float], T], peek: Callable[[float], LLMError | None], began: float, deadline: float
    ) -> None:
        self.take, self.peek, self.began, self.deadline = take, peek, began, deadline
        self._soon, self.event = here(), anyio.Event()
        self._end: dict[str, Slot[T] | BaseException] = {}

    @property
    def end(self) -> Slot[T] | BaseException | None:
        """What was decided; `None` while it waits."""
        return self._end.get("")

    def settle(self, end: Slot[T] | BaseException) -> bool:
        """Decides its end, unless it was decided before."""
        if self._end.setdefault("", end) is not end:  # atomic, unlike a test and an assignment
            return False
        self._soon(self.event.set)
        return True

    def expired(self, now: float) -> DeadlineExceeded:
        """The error for waiting too long."""
        return DeadlineExceeded(f"no free slot within {now - self.began:.3g} s", phase="queue")


class Bulkhead:
    """At most `slots` attempts in flight; the others queue, first come, first served, each until its deadline.

    One object serves all loops and threads of the process. Routes to one origin share one.

    Args:
        slots: from 1. Default: what the server can do at once, 1 local (`OLLAMA_NUM_PARALLEL`'s default), 64 hosted.

    Raises:
        ConfigError: `slots` is not a whole number of 1 or more.
    """

    def __init__(self, slots: int | None = None) -> None:
        self.slots: int | None = None
        self._free: deque[None] = deque()
        self._queue: deque[_Waiter[Held]] = deque()
        self._lock = threading.Lock()  # for what changes the queue
        self._left = 0  # waiters that have left, roughly
        if slots is not None:
            self.resolve(slots)
        forgets(self)

    def after_fork(self) -> None:
        """In the child nobody holds a slot and nobody waits."""
        self._free, self._queue = deque([None] * (self.slots or 0)), deque()
        self._lock, self._left = threading.Lock(), 0

    def resolve(self, slots: int) -> None:
        """Sets the number of slots, unless the user or an earlier owner did.

        Raises:
            ConfigError: `slots` is not a whole number of 1 or more.
        """
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise ConfigError(f"slots: {slots!r} is not a whole number of 1 or more")
        with self._lock:
            if self.slots is None:
                self.slots = slots
                self._free.extend([None] * slots)

    def try_acquire(self, take: Callable[[float], T], now: float) -> Slot[T] | None:
        """A slot at once, or `None`: all are taken or others wait. `take(now)` is called only if there is one.

        Raises:
            LLMError: whatever `take` raises; the slot is then free again.
        """
        if self._queue:
            return None
        try:
            self._free.pop()
        except IndexError:
            return None
        try:
            return self._grant(take, now)
        except BaseException:
            self._dispatch(now)
            raise

    async def acquire(
        self, take: Callable[[float], T], peek: Callable[[float], LLMError | None], *, deadline: float, clock: Clock
    ) -> Slot[T]:
        """Waits for a slot. Cancelled while it waits, or at the moment of getting one, it holds nothing.

        Args:
            take: takes what else the attempt needs, at the head of the queue, in one step with the slot.
            peek: why the waiting is in vain, or `None`; takes nothing. Asked on entering and on `recheck`.
            deadline: the instant on `clock` at which the waiting ends.
            clock: the clock of every instant here.

        Raises:
            DeadlineExceeded: no slot by the deadline; `phase` is `queue`.
            LLMError: what `take` raised or `peek` returned.
            ConfigError: nobody has said how many slots there are.
        """
        if self.slots is None:
            raise ConfigError("slots: not known; use Bulkhead(slots) when it stands alone")
        now = clock()
        if (refusal := peek(now)) is not None:
            raise refusal
        waiter = _Waiter(take, peek, now, deadline)
        if deadline <= now:
            raise waiter.expired(now)
        with self._lock:
            self._queue.append(waiter)  # type: ignore[arg-type]  # the queue holds waiters for different things
        end = await self._wait(waiter, clock)
        if isinstance(end, Slot):
            return end
        raise end

    async def _wait(self, waiter: _Waiter[T], clock: Clock) -> Slot[T] | BaseException:
        try:
            self._dispatch(waiter.began)
            if waiter.end is None:
                with anyio.move_on_after(waiter.deadline - waiter.began):
                    await waiter.event.wait()
        except BaseException:
            if not self._leave(waiter, _GONE, clock()) and isinstance(waiter.end, Slot):
                waiter.end.release(clock())
            raise
        if waiter.end is None:
            self._leave(waiter, waiter.expired(clock()), clock())
        assert waiter.end is not None  # by now somebody has decided it
        return waiter.end

    def recheck(self, now: float) -> None:
        """Sends away every waiter whose `peek` says that its waiting is in vain. Call it when a breaker has changed."""
        for waiter in self._waiting():
            if (refusal := waiter.peek(now)) is not None:
                self._leave(waiter, refusal, now)

    @property
    def inflight(self) -> int:
        """Slots that are taken."""
        return (self.slots or 0) - len(self._free)

    @property
    def queued(self) -> int:
        """Attempts that wait."""
        return len(self._waiting())

    def snapshot(self) -> BulkheadSnapshot:
        """How full it is."""
        return BulkheadSnapshot(self.slots, self.inflight, self.queued)

    def _waiting(self) -> list[_Waiter[Held]]:
        while True:
            try:
                return [waiter for waiter in tuple(self._queue) if waiter.end is None]
            except RuntimeError:  # another thread changed the queue meanwhile
                continue

    def _grant(self, take: Callable[[float], T], now: float) -> Slot[T]:
        """With a token in hand: takes the rest, or puts the token back."""
        try:
            return Slot(self, take(now))
        except BaseException:
            self._free.append(None)
            raise

    def _dispatch(self, now: float) -> None:
        """Grants free slots to waiters. Returns at once if another thread is choosing: that one then goes on."""
        while self._queue and self._free and self._lock.acquire(blocking=False):
            try:
                waiter = self._next()
            finally:
                self._lock.release()
            if waiter is not None:
                self._serve(waiter, now)

    def _next(self) -> _Waiter[Held] | None:
        """The first who still waits, and a token for it."""
        while self._queue and self._queue[0].end is not None:
            self._queue.popleft()
        if not self._queue:
            return None
        try:
            self._free.pop()
        except IndexError:  # `try_acquire` was faster
            return None
        return self._queue.popleft()

    def _serve(self, waiter: _Waiter[Held], now: float) -> None:
        if waiter.deadline <= now:
            self._free.append(None)
            waiter.settle(waiter.expired(now))
            return
        try:
            slot = self._grant(waiter.take, now)
        except BaseException as refusal:
            waiter.settle(refusal)
            if not isinstance(refusal, Exception):
                raise
        else:
            if not waiter.settle(slot):  # it left while we took
                slot.release(now)

    def _leave(self, waiter: _Waiter[T], why: BaseException, now: float) -> bool:
        """Ends a waiting without a slot, unless its end was decided before."""
        if not waiter.settle(why):
            return False
        self._left += 1
        # Those who have left are dropped when they are most of the queue: each costs the same however many wait.
        if self._left > _TIDY_ABOVE and 2 * self._left > len(self._queue) and self._lock.acquire(blocking=False):
            try:
                self._queue = deque(other for other in self._queue if other.end is None)
                self._left = 0
            finally:
                self._lock.release()
            self._dispatch(now)
        return True

    def __repr__(self) -> str:
        return f"Bulkhead({self.inflight} of {self.slots} slots in use, {self.queued} queued)"
