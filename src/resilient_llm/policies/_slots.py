"""What a bulkhead hands out, who waits for it, and how many there are of it.

The bulkhead decides; nothing here knows its queue. What is decided here is decided once, by an atomic step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import anyio

from resilient_llm._deadline import Clock
from resilient_llm._errors import DeadlineExceeded, LLMError
from resilient_llm._loops import here

if TYPE_CHECKING:
    from resilient_llm.policies._shared import Place

ABANDONED = 60.0  # seconds without a read, after which a stream gives up its slot to others that wait
MOST = 1_000_000  # slots; each is a place in memory, and no machine has so many connections
SHRINK = 0.7  # what is left of the slots after a throttle: gentler than TCP's half, because a 429 comes early


class Held(Protocol):
    """What is taken together with a slot, such as a breaker's permit."""

    def release(self) -> None:
        """Gives it back without a verdict; nothing if it had one before."""


class Reader(Protocol):
    """Who holds a slot and may have forgotten it: a stream, which is read when its reader likes."""

    def progress(self) -> object:
        """Something that changes whenever anything is read; `None` while it waits for the server."""

    def revoke(self) -> None:
        """Ends it, from any thread or loop: nobody reads it, and others wait for its slot."""


class Home(Protocol):
    """Where a slot goes back to."""

    def give_back(self, slot: Slot[Held], tokens: Tokens, now: float) -> None:
        """It is free, for whoever comes first. `tokens` is where it was taken from."""


T = TypeVar("T", bound=Held)
S = TypeVar("S", bound=Held, covariant=True)


class BulkheadSnapshot(NamedTuple):
    """How full it is.

    Attributes:
        slots: how many attempts may be in flight now.
        inflight: how many are.
        queued: how many wait.
    """

    slots: int | None
    inflight: int
    queued: int


class Slot(Generic[S]):
    """The right to have one attempt in flight.

    Attributes:
        held: what was taken with it.
        place: its part of a limit that all processes of the machine share.
        began: the instant at which it was taken.
        reader: who may have forgotten it.
        seen: what its reader had read, and since when that is so.
    """

    __slots__ = ("_home", "began", "held", "place", "reader", "seen")

    def __init__(self, home: Home, tokens: Tokens, held: S, now: float, place: Place | None = None) -> None:
        self._home = [(home, tokens)]
        self.held, self.began, self.place = held, now, place
        self.reader: Reader | None = None
        self.seen: tuple[object, float] = (None, now)

    def release(self, now: float) -> None:
        """Gives the slot back, and what is held with it. From any thread, loop or finaliser; once is enough."""
        try:
            home, tokens = self._home.pop()  # atomic: only the first of two threads gets it
        except IndexError:
            return
        try:
            self.held.release()
            if self.place is not None:
                self.place.release()
        finally:
            home.give_back(self, tokens, now)

    def look(self, now: float) -> None:
        """Ends its stream, if nobody has read it for long."""
        progress = self.reader.progress() if self.reader is not None else None
        if progress is None or progress != self.seen[0]:
            self.seen = progress, now
        elif now - self.seen[1] >= ABANDONED and self.reader is not None:
            self.reader.revoke()

    def __repr__(self) -> str:
        return f"Slot({'held' if self._home else 'released'})"


class Tokens:
    """The slots that are free. Nothing here waits, and a deque's `append` and `pop` are atomic."""

    __slots__ = ("_free", "_owed")

    def __init__(self, number: int = 0) -> None:
        self._free = deque([None] * number)
        self._owed: deque[None] = deque()  # to be swallowed when they come back: there are fewer slots now

    def take(self) -> bool:
        """Takes one, if there is one."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def give(self) -> None:
        """Gives one back, or adds one."""
        if self._owed:
            try:
                self._owed.pop()
            except IndexError:  # another thread was faster
                pass
            else:
                return
        self._free.append(None)

    def resize(self, change: int) -> None:
        """So many more, or less: now, or as soon as they come back."""
        for _ in range(change):
            self.give()
        for _ in range(-change):
            if not self.take():
                self._owed.append(None)

    @property
    def balance(self) -> int:
        """How many are free, less those that are owed."""
        return len(self._free) - len(self._owed)

    def __bool__(self) -> bool:
        return bool(self._free)

    def __repr__(self) -> str:
        return f"Tokens({len(self._free)} free, {len(self._owed)} owed)"


class Waiter(Generic[T]):
    """Who waits, until its end is decided.

    Attributes:
        again: the instant at which it is worth asking again, if it is at the head and a slot is not what it waits for.
        lane: those of one need the same things beside a slot.
    """

    __slots__ = ("_end", "_soon", "again", "began", "deadline", "event", "lane", "peek", "take")

    def __init__(
        self,
        take: Callable[[float], T | float],
        peek: Callable[[float], LLMError | None],
        began: float,
        deadline: float,
        lane: Hashable = None,
    ) -> None:
        self.lane = lane
        self.take, self.peek, self.began, self.deadline = take, peek, began, deadline
        self.again: float | None = None
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

    def put_off(self, again: float) -> None:
        """It is at the head, and what it needs beside a slot is there at `again`. Wakes it, to wait until then."""
        self.again = again
        self._soon(self.event.set)

    def put_off_beyond(self, now: float) -> bool:
        """It was asked before, and is not to be asked yet."""
        return self.again is not None and self.again > now

    async def wait(self, now: float, longest: float, clock: Clock) -> tuple[float, bool]:
        """Waits for news, or until it is time to look, at most `longest` s. The instant, and whether none came."""
        until = min(self.deadline, now + longest, math.inf if self.again is None else self.again)
        with anyio.move_on_after(until - now) as scope:
            await self.event.wait()
        if self.event.is_set():
            self.event = anyio.Event()  # before what it tells is looked at: what comes next is told anew
        return (max(clock(), until), True) if scope.cancelled_caught else (clock(), False)

    def expired(self, now: float) -> DeadlineExceeded:
        """The error for waiting too long."""
        return DeadlineExceeded(f"no free slot within {now - self.began:.3g} s", phase="queue")

    def __repr__(self) -> str:
        return f"Waiter({self.end or 'waits'!s}, from {self.began:g} to {self.deadline:g}, again at {self.again})"


class Limit:
    """How many slots there are: a fixed number, or one that a hosted server's throttling moves.

    It shrinks to 70 % when the server throttles an attempt that began after the last time it shrank: a hundred 429s
    at once are one answer to one load (TCP's epoch). It grows by one for as many answers as there are slots, and only
    while at least half of them are in use: an idle client learns nothing.

    Args:
        slots: to begin with.
        ceiling: the most; `None` for a fixed number.
    """

    __slots__ = ("_good", "_shrunk", "ceiling", "slots")

    def __init__(self, slots: int, ceiling: int | None = None) -> None:
        self.slots, self.ceiling = slots, ceiling
        self._good, self._shrunk = 0, -math.inf

    def throttled(self, began: float, now: float) -> int:
        """The server throttled an attempt that began then. By how much the number changed."""
        if self.ceiling is None or began <= self._shrunk:
            return 0
        before, self.slots = self.slots, max(1, int(self.slots * SHRINK))
        self._shrunk, self._good = now, 0
        return self.slots - before

    def answered(self, inflight: int) -> int:
        """The server answered an attempt while so many were in flight. By how much the number changed."""
        if self.ceiling is None or self.slots >= self.ceiling or 2 * inflight < self.slots:
            return 0
        self._good += 1
        if self._good < self.slots:
            return 0
        self.slots, self._good = self.slots + 1, 0
        return 1

    def __repr__(self) -> str:
        most = f" of at most {self.ceiling}" if self.ceiling is not None else ""
        return f"Limit({self.slots}{most}, {self._good} answers towards the next)"
