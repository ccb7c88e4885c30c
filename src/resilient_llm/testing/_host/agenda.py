"""What is to happen, and when: a heap of actions in virtual time.

Rules of the file: time only moves in `advance`, forward, and an action sees the time that it was planned for; of two
actions at one instant the one that was planned first comes first, so that a run replays.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Entry:
    """One action still to come; without one it was called off."""

    __slots__ = ("action", "at", "number")

    def __init__(self, at: float, number: int, action: Callable[[], None]) -> None:
        self.at, self.number = at, number
        self.action: Callable[[], None] | None = action

    def __lt__(self, other: Entry) -> bool:
        return (self.at, self.number) < (other.at, other.number)

    def cancel(self) -> None:
        """Calls it off; it stays in the heap until its time."""
        self.action = None


class Agenda:
    """Actions in the order of their times.

    Attributes:
        now: the present, in seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[Entry] = []
        self._planned = 0

    def after(self, seconds: float, action: Callable[[], None]) -> Entry:
        """Plans an action."""
        self._planned += 1
        entry = Entry(self.now + seconds, self._planned, action)
        heapq.heappush(self._heap, entry)
        return entry

    @property
    def next(self) -> float | None:
        """When the next action is due; `None` if there is none."""
        heap = self._heap
        while heap and heap[0].action is None:
            heapq.heappop(heap)
        return heap[0].at if heap else None

    def advance(self, until: float) -> None:
        """Does all that is due up to this time, which is the present then."""
        heap = self._heap
        while heap and heap[0].at <= until:
            entry = heapq.heappop(heap)
            if entry.action is not None:
                self.now = max(self.now, entry.at)
                action, entry.action = entry.action, None
                action()
        self.now = max(self.now, until)
