"""What the loads of a model tell: how long one takes, and whether it is loaded over and over again.

Rules of the file: time is an argument. What is learned here is shown; the budget is also the limit of a load where a
route says `adapt=True`.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

KEPT = 5  # loads that the budget is taken from
FACTOR = 3.0  # a load from a cold disk takes far longer than one from the page cache: 7 s and 78 s of one 27B model
LEAST = 30.0  # seconds; a shorter limit saves nobody anything, and the load goes on anyway
THRASH, THRASH_WITHIN = 3, 600.0  # reloads, and the seconds within which so many are called thrash
WARM = 20  # answers of a warm model that the median is taken over
FEW = 3  # answers of a warm model below which there is no median
COLD, COLD_UNKNOWN = 0.5, 1.0  # seconds; a warm answer says 10 to 100 ms (ollama/ollama#7740)
COLD_FACTOR = 5.0


class Loads:
    """The loads of one model on one server, as a client saw them.

    Attributes:
        why: what was found in its place, the last time that it was gone.
        lost_at: when that was found.
        untold: no answer has told of it yet.
    """

    __slots__ = ("_lost", "_told", "_warm", "count", "lost_at", "seconds", "untold", "why")

    def __init__(self) -> None:
        self.count = 0
        self.seconds: deque[float] = deque(maxlen=KEPT)
        self.why: str | None = None
        self.lost_at, self.untold = -math.inf, False
        self._warm: deque[float] = deque(maxlen=WARM)
        self._lost: deque[float] = deque(maxlen=THRASH)
        self._told = False

    def add(self, seconds: float) -> None:
        """A load took so long."""
        self.count += 1
        self.seconds.append(seconds)

    @property
    def budget(self) -> float | None:
        """Whole seconds within which a load should be over, from the last five; `None` before the first."""
        return float(math.ceil(max(FACTOR * max(self.seconds), LEAST))) if self.seconds else None

    def unexpected(self, seconds: float) -> bool:
        """Whether a model that was taken to be in memory cannot have been, if the server spent so long on loading it.

        Even a warm model takes some time there, and how much depends on the machine: the answers before tell.
        """
        limit = max(COLD, COLD_FACTOR * median(self._warm)) if len(self._warm) >= FEW else COLD_UNKNOWN
        if seconds > limit:
            return True
        self._warm.append(seconds)
        return False

    def lost(self, now: float, why: str | None) -> bool:
        """The model had to be loaded though it was in use. True if that is thrash by now, once for each series."""
        self.why = why or self.why
        self.lost_at, self.untold = now, True
        self._lost.append(now)
        thrash = self.thrash(now)
        news, self._told = thrash and not self._told, thrash
        return news

    def thrash(self, now: float) -> bool:
        """Whether it was lost so often of late that something else on the server must be fighting for the memory."""
        return len(self._lost) == THRASH and now - self._lost[0] <= THRASH_WITHIN

    def __repr__(self) -> str:
        return f"Loads({self.count}, budget {self.budget})"
