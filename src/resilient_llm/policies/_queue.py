"""Who waits at a bulkhead, in the order in which they came.

Waiters of one lane need the same things beside a slot: room in one rate limit, a turn at one breaker. Where the first
of a lane has been told to come back later, its lane waits behind it, and the others do not.

Rules of the file: what changes it is called with the bulkhead's lock held, what reads it without.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from resilient_llm.policies._slots import Waiter


class Queue:
    """One deque a lane, and a number for each waiter. A lane that is empty is forgotten."""

    __slots__ = ("_came", "_lanes")

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[tuple[int, Waiter[Any]]]] = {}
        self._came = 0

    def add(self, waiter: Waiter[Any]) -> None:
        """It comes, as the last."""
        self._came += 1
        self._lanes.setdefault(waiter.lane, deque()).append((self._came, waiter))

    def first(self, now: float) -> tuple[int, Waiter[Any]] | None:
        """The first who still waits and may be asked now; `None`: nobody may. Drops those who have left before it."""
        found = None
        for lane, waiting in tuple(self._lanes.items()):
            while waiting and waiting[0][1].end is not None:
                waiting.popleft()
            if not waiting:
                del self._lanes[lane]
            elif not waiting[0][1].put_off_beyond(now) and (found is None or waiting[0][0] < found[0]):
                found = waiting[0]
        return found

    def ask_anew(self) -> None:
        """What the first of each lane was waiting for may be there before it was said to be."""
        for waiting in self._lanes.values():
            if waiting:
                waiting[0][1].again = None

    def take(self, place: tuple[int, Waiter[Any]]) -> None:
        """It was the first, and goes."""
        self._lanes[place[1].lane].popleft()

    def back(self, place: tuple[int, Waiter[Any]]) -> None:
        """It is the first of its lane again."""
        self._lanes.setdefault(place[1].lane, deque()).appendleft(place)

    def tidy(self) -> None:
        """Drops all who have left."""
        for lane, waiting in tuple(self._lanes.items()):
            self._lanes[lane] = deque(place for place in waiting if place[1].end is None)

    def waiting(self) -> list[Waiter[Any]]:
        """All who still wait, lane by lane."""
        while True:
            try:
                lanes = [tuple(lane) for lane in tuple(self._lanes.values())]
            except RuntimeError:  # another thread changed it meanwhile
                continue
            return [waiter for lane in lanes for _, waiter in lane if waiter.end is None]

    def __len__(self) -> int:
        return sum(len(lane) for lane in tuple(self._lanes.values()))

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __repr__(self) -> str:
        return f"Queue({len(self)} in {len(self._lanes)} lanes)"
