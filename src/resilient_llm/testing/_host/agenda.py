"""What is to happen, and when: a heap of actions in virtual time.

Rules of the file: time only moves in `advance`, forward, and an action sees the time that it was planned for; of two
actions at one instant the one that was planned first comes first, so that a run replays.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Entry:
    """One action still to come; without one it was called off."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

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
        self._heap: list[tuple[float, int, Entry]] = []
        self._planned = 0

    def after(self, seconds: float, action: Callable[[], None]) -> Entry:
        """Plans an action."""
        self._planned += 1
        entry = Entry(action)
        heapq.heappush(self._heap, (self.now + seconds, self._planned, entry))
        return entry

    @property
    def next(self) -> float | None:
        """When the next action is due; `None` if there is none."""
        heap = self._heap
        while heap and heap[0][2].action is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def advance(self, until: float) -> None:
        """Does all that is due up to this time, which is the present then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            at, _, entry = heapq.heappop(heap)
            action = entry.action
            if action is not None:
                self.now = max(self.now, at)
                entry.action = None
                action()
        self.now = max(self.now, until)
