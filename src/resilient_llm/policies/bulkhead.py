"""The one queue of an origin: at most `slots` attempts in flight, the others wait in the order in which they came.

A local server's own queue is unbounded and silent (ollama/ollama#7758), so the waiting happens here, where a deadline
ends it and an opening breaker empties it.

Rules of the file:
  1. At the head of the queue one synchronous step takes everything that an attempt needs, or nothing.
  2. A free slot goes to the first waiter that is still there in the same step in which it became free; only the
     wake-up travels to the waiter's own loop. Who is at the head and needs more than a slot (room in a rate limit, a
     turn at a breaker, a slot of another process) looks again by itself; nobody who needs the same overtakes it.
  3. A waiter's end is decided once: a slot, an error, or its leaving. Who comes second gives back what it brought.
  4. Giving back never waits for a lock: a finaliser may do it, and one can run inside the step that holds the lock.
     Who holds the lock dispatches afterwards.
  5. Nothing belongs to an event loop but a waiter's event; foreign code never runs under the lock.
  6. A stream that nobody reads keeps its slot while nobody else wants it, and then 60 s.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

from resilient_llm._deadline import Clock
from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._fork import forgets
from resilient_llm._numbers import whole
from resilient_llm.policies._queue import Queue
from resilient_llm.policies._slots import MOST, BulkheadSnapshot, Held, Limit, Reader, Slot, Tokens, Waiter

if TYPE_CHECKING:
    from resilient_llm.policies._shared import SharedSlots

__all__ = ["Bulkhead", "BulkheadSnapshot", "Slot"]

LOOK = 15.0  # seconds between two looks for such streams
_GONE = LLMError("the caller left the queue")
_TIDY_ABOVE = 64  # waiters that have left; fewer are not worth a pass over the queue
T = TypeVar("T", bound=Held)


class Bulkhead:
    """At most `slots` attempts in flight; the others queue, first come, first served, each until its deadline.

    One object serves all loops and threads of the process. Routes to one origin share one.

    Args:
        slots: from 1. Default: what the server can do at once, 1 local (`OLLAMA_NUM_PARALLEL`'s default), 64 hosted.
        max_slots: the number may move, up to here: it shrinks to 70 % when the server answers 429 or 503, and grows by
            one for as many answers as there are slots. Default: 1,000 hosted; a local number, and one that you give
            without this, is fixed.
        shared: a name. All processes of this user on this machine that use it have `slots` together, by file locks
            that the kernel frees when one dies (POSIX only). The number is then fixed.

    Raises:
        ConfigError: a number is not a whole one from 1 to 1,000,000; `max_slots` is below `slots`; no `shared` here.
    """

    def __init__(self, slots: int | None = None, max_slots: int | None = None, shared: str | None = None) -> None:
        for name, number in (("slots", slots), ("max_slots", max_slots)):
            if number is not None:
                whole(name, number, most=MOST)
        if slots is not None and max_slots is not None and max_slots < slots:
            raise ConfigError(f"max_slots: {max_slots!r} is below the {slots!r} slots to begin with")
        if shared is not None and max_slots is not None:
            raise ConfigError("max_slots: a number that processes share is fixed; leave max_slots or shared out")
        self._limit = Limit(0)  # not known yet
        self._shared: SharedSlots | None = None
        if shared is not None:
            from resilient_llm.policies._shared import SharedSlots  # few need it, and what it imports is not small

            self._shared = SharedSlots(shared)
        self._given = slots, max_slots
        self._tokens, self._queue = Tokens(), Queue()
        self._read: set[Slot[Any]] = set()  # slots of streams
        self._lock = threading.Lock()  # for what changes the queue
        self._left = 0  # waiters that have left, roughly
        self._anew = False  # something was given back: who was told to ask again later may have it now
        if slots is not None:
            self.resolve(slots)
        forgets(self)

    @property
    def slots(self) -> int | None:
        """How many attempts may be in flight now; `None` while nobody has said."""
        return self._limit.slots or None

    def after_fork(self) -> None:
        """In the child nobody holds a slot and nobody waits."""
        self._tokens, self._queue, self._read = Tokens(self.slots or 0), Queue(), set()
        self._lock, self._left = threading.Lock(), 0

    def resolve(self, slots: int, max_slots: int | None = None) -> None:
        """Sets the number of slots, unless the user or an earlier owner did.

        Args:
            slots: what the server can do at once.
            max_slots: how far the number may grow, where the user gave neither.

        Raises:
            ConfigError: a number is not a whole one from 1 to 1,000,000.
        """
        whole("slots", slots, most=MOST)
        with self._lock:
            if self._limit.slots:
                return
            ceiling = max_slots if self._given == (None, None) else self._given[1]
            if self._shared is not None:
                self._shared.slots, ceiling = slots, None
            self._limit = Limit(slots if ceiling is None else min(slots, ceiling), ceiling)
            self._tokens = Tokens(self._limit.slots)

    def try_acquire(self, take: Callable[[float], T | float], now: float) -> Slot[T] | None:
        """A slot at once, or `None`: all are taken or others wait. `take(now)` is called only if there is one.

        Raises:
            LLMError: whatever `take` raises; the slot is then free again.
        """
        if self._queue or not self._tokens.take():
            return None
        try:
            granted = self._grant(take, now)
        except BaseException:
            self._dispatch(now)
            raise
        return granted if isinstance(granted, Slot) else None

    async def acquire(
        self, take: Callable[[float], T | float], peek: Callable[[float], LLMError | None], *,
        deadline: float, clock: Clock, lane: Hashable = None,
    ) -> Slot[T]:  # fmt: skip
        """Waits for a slot. Cancelled while it waits, or at the moment of getting one, it holds nothing.

        Args:
            take: takes what else the attempt needs, at the head of the queue, in one step with the slot; or gives the
                instant at which it is worth asking again.
            peek: why the waiting is in vain, or `None`; takes nothing. Asked on entering and on `recheck`.
            deadline: the instant on `clock` at which the waiting ends.
            clock: the clock of every instant here.
            lane: who has another one needs other things beside a slot, and does not wait while these are waited for.

        Raises:
            DeadlineExceeded: no slot by the deadline; `phase` is `queue`.
            LLMError: what `take` raised or `peek` returned.
            ConfigError: nobody has said how many slots there are.
        """
        if not self._limit.slots:
            raise ConfigError("slots: not known; use Bulkhead(slots) when it stands alone")
        now = clock()
        if (refusal := peek(now)) is not None:
            raise refusal
        waiter = Waiter(take, peek, now, deadline, lane)
        if deadline <= now:
            raise waiter.expired(now)
        with self._lock:
            self._queue.add(waiter)
        if isinstance(end := await self._wait(waiter, clock), Slot):
            return end
        raise end

    async def _wait(self, waiter: Waiter[T], clock: Clock) -> Slot[T] | BaseException:
        now = waiter.began
        try:
            self._dispatch(now)
            while waiter.end is None:
                now, came = await waiter.wait(now, LOOK, clock)
                if waiter.end is None and now >= waiter.deadline:
                    self._leave(waiter, waiter.expired(now), now)
                elif came:
                    for slot in tuple(self._read):
                        slot.look(now)
                    self._dispatch(now)
        except BaseException:
            if not self._leave(waiter, _GONE, clock()) and isinstance(waiter.end, Slot):
                waiter.end.release(clock())
            raise
        return waiter.end

    def recheck(self, now: float) -> None:
        """Sends away every waiter whose `peek` says that its waiting is in vain. Call it when a breaker has changed."""
        for waiter in self._queue.waiting():
            if (refusal := waiter.peek(now)) is not None:
                self._leave(waiter, refusal, now)

    def read_by(self, reader: Reader, slot: Slot[Any]) -> None:
        """The slot belongs to a stream now, which its reader may forget."""
        self._read.add(slot)
        slot.reader = reader

    def throttled(self, slot: Slot[Any], now: float) -> int:
        """The server said to the attempt of this slot that there is too much. By how much the slots changed."""
        change = self._limit.throttled(slot.began, now)
        self._tokens.resize(change)
        return change

    def answered(self, now: float) -> int:
        """The server answered an attempt whose slot is still held. By how much the slots changed."""
        if change := self._limit.answered(self.inflight):
            self._tokens.resize(change)
            self._dispatch(now)
        return change

    def give_back(self, slot: Slot[Any], tokens: Tokens, now: float) -> None:
        """A slot is free again. Called by it, once."""
        self._read.discard(slot)
        tokens.give()  # to where it was taken from: after a fork these are not ours any more
        self._anew = True
        self._dispatch(now)

    @property
    def inflight(self) -> int:
        """Slots that are taken."""
        return (self.slots or 0) - self._tokens.balance

    @property
    def queued(self) -> int:
        """Attempts that wait."""
        return len(self._queue.waiting())

    def snapshot(self) -> BulkheadSnapshot:
        """How full it is."""
        return BulkheadSnapshot(self.slots, self.inflight, self.queued)

    def _grant(self, take: Callable[[float], T | float], now: float) -> Slot[T] | float:
        """With a token in hand: takes the rest, or puts the token back and says when to ask again."""
        tokens, place, slot = self._tokens, None, None
        try:
            if self._shared is not None and (place := self._shared.try_take()) is None:
                return now + self._shared.poll()
            held = take(now)
            if isinstance(held, (int, float)):
                return held
            slot = Slot(self, tokens, held, now, place)
            return slot
        finally:
            if slot is None:
                if place is not None:
                    place.release()
                tokens.give()

    def _dispatch(self, now: float) -> None:
        """Grants free slots to waiters. Returns at once if another thread is choosing: that one then goes on."""
        while self._queue and self._tokens and self._lock.acquire(blocking=False):
            try:
                if self._anew:
                    self._anew = False
                    self._queue.ask_anew()
                place = self._queue.first(now)
                if place is not None:
                    if not self._tokens.take():
                        continue  # `try_acquire` was faster
                    self._queue.take(place)
            finally:
                self._lock.release()
            if place is not None:
                self._serve(place, now)
            elif not self._anew:  # there is nobody, or each has said when to ask again, and looks by itself
                return

    def _serve(self, place: tuple[int, Waiter[Any]], now: float) -> None:
        """With a token in hand: decides its end, or puts it back, to be asked later."""
        waiter = place[1]
        if waiter.deadline <= now:
            self._tokens.give()
            waiter.settle(waiter.expired(now))
            return
        try:
            granted = self._grant(waiter.take, now)
        except BaseException as refusal:
            waiter.settle(refusal)
            if not isinstance(refusal, Exception):
                raise
            return
        if not isinstance(granted, Slot):
            waiter.put_off(max(granted, math.nextafter(now, math.inf)))
            with self._lock:
                self._queue.back(place)
        elif not waiter.settle(granted):  # it left while we took
            granted.release(now)

    def _leave(self, waiter: Waiter[T], why: BaseException, now: float) -> bool:
        """Ends a waiting without a slot, unless its end was decided before."""
        if not waiter.settle(why):
            return False
        self._left += 1
        # Those who have left are dropped when they are most of the queue: each costs the same however many wait.
        if self._left > _TIDY_ABOVE and 2 * self._left > len(self._queue) and self._lock.acquire(blocking=False):
            try:
                self._queue.tidy()
                self._left = 0
            finally:
                self._lock.release()
        self._dispatch(now)  # it may have been at the head, and have waited for something else than a slot
        return True

    def __repr__(self) -> str:
        shared = f" shared as {self._shared.name!r}" if self._shared is not None else ""
        most = f", at most {self._limit.ceiling}" if self._limit.ceiling is not None else ""
        return f"Bulkhead({self.inflight} of {self.slots} slots in use{most}{shared}, {self.queued} queued)"
