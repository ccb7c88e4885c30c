"""Requests and tokens per minute of a hosted route: what would come back as a 429 waits here, or goes elsewhere.

It counts as the providers do:
  - Requests have to come evenly. Azure looks at 1 or 10 s at a time ("Manage quota", Understanding rate limits), OpenAI
    may hold 60 a minute as one a second (help.openai.com/en/articles/5955604): a burst is refused though the minute is
    far from full. So from one request to the next there are 60/n seconds.
  - Tokens count from when a request comes in, as prompt and `max_tokens` together, over a minute; what it really used
    counts when it has ended. So in no 60 s more than the limit is reserved. What a request used beyond its reservation
    counts for a minute from when that is known, and until then nobody was told to wait.

The `x-ratelimit-*` headers of a server are not read: they mean a minute here, a day there (Groq's requests,
OpenRouter), or "unknown" (Azure's 0 and -1), and static numbers decide. A 429 puts its route aside by itself.

Rules of the file:
  1. Time is an argument. A request gets room for itself and its tokens, or for neither.
  2. Giving back never waits for a lock: a finaliser may do it. Whoever holds the lock next takes in what came.
  3. A finaliser can run inside the step that holds the lock, and dispatch a waiter who asks here for room. It is not
     let in and not kept waiting, but told to ask again.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from resilient_llm._errors import ConfigError, DeadlineUnattainable, LLMError, RateLimited
from resilient_llm._fork import forgets
from resilient_llm._numbers import finite

T = TypeVar("T")
MINUTE = 60.0


class RateSnapshot(NamedTuple):
    """How much of a minute is taken.

    Attributes:
        tokens: reserved or used within the last 60 s.
        wait: seconds until the next request has room, if it is a small one; 0 if it has.
    """

    requests_per_minute: float | None
    tokens_per_minute: float | None
    tokens: int
    wait: float


class _Counted:
    """Tokens that count for a minute."""

    __slots__ = ("at", "tokens")

    def __init__(self, at: float, tokens: int) -> None:
        self.at, self.tokens = at, tokens

    def __repr__(self) -> str:
        return f"_Counted({self.tokens} tokens at {self.at:g})"


class Reservation:
    """Room for one request. The first verb counts, the later ones do nothing; from any thread, loop or finaliser.

    Attributes:
        at: the instant from which it counts.
        tokens: that were reserved.
    """

    __slots__ = ("_counted", "_owner", "at", "tokens")

    def __init__(self, owner: RateLimit, at: float, tokens: int) -> None:
        self._owner, self._counted = [owner], _Counted(at, tokens)
        self.at, self.tokens = at, tokens

    def settle(self, used: int | None, now: float) -> None:
        """The request was sent and has ended; it used so many tokens, or nobody said how many."""
        self._end(self.tokens if used is None else used, now, sent=True)

    def release(self) -> None:
        """Nothing was sent: its place and its tokens are free again."""
        self._end(0, self.at, sent=False)

    def _end(self, used: int, now: float, *, sent: bool) -> None:
        try:
            owner = self._owner.pop()  # atomic: only the first of two threads gets it
        except IndexError:
            return
        owner._inbox.append((self, used, now, sent))

    def __repr__(self) -> str:
        return f"Reservation({self.tokens} tokens, {'open' if self._owner else 'over'})"


class RateLimit:
    """At most so many requests and tokens a minute. Share one by giving the same object to several routes.

    Args:
        requests_per_minute: they are spread evenly: from one to the next there are 60/n seconds. A limit of the day
            may be given as a share of it: 1,000 a day are 0.69 a minute.
        tokens_per_minute: of prompts and answers together, in any 60 s.

    Raises:
        ConfigError: neither is given, or one is not a finite number above 0.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        given = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        for name, value in given.items():
            if value is not None:
                finite(name, value)
        if requests_per_minute is None and tokens_per_minute is None:
            raise ConfigError("RateLimit: give requests_per_minute, tokens_per_minute or both")
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._gap = MINUTE / requests_per_minute if requests_per_minute is not None else 0.0
        self._last: Reservation | None = None  # the one before it is older than the gap, so it holds nobody up
        self._log: deque[_Counted] = deque()  # the oldest first, but for a hair between threads
        self._tokens = 0  # their sum
        self._inbox: deque[tuple[Reservation, int, float, bool]] = deque()  # reservation, used, now, sent
        self._lock, self._inside = threading.RLock(), False
        forgets(self)

    def after_fork(self) -> None:
        """In the child nobody holds the lock. What the parent used still counts: the server counts it, too."""
        self._lock, self._inside = threading.RLock(), False

    def check(self, tokens: int, now: float, deadline: float) -> LLMError | None:
        """Why it is in vain to wait until `deadline` for room for so many tokens, or `None`. Takes nothing.

        Returns:
            `RateLimited` with `oversize` if the request alone is over the limit, `DeadlineUnattainable` with the
            reckoning if there is no room before the deadline.
        """
        wait = self.room(tokens, now) - now
        if wait == math.inf:
            return RateLimited(
                f"the request alone has {tokens:,} tokens, the limit is {self.tokens_per_minute:,} a minute",
                oversize=True,
            )
        if wait <= max(0.0, deadline - now):
            return None
        return DeadlineUnattainable(
            f"the rate limit has room in {wait:.3g} s, but {deadline - now:.3g} s are left", retry_after=wait
        )

    def room(self, tokens: int, now: float) -> float:
        """The instant from which there is room for so many tokens: `now`, a later one, or `inf`: never."""
        return self._alone(lambda: self._room(tokens, now), now)

    def reserve(self, tokens: int, now: float) -> Reservation | float:
        """Room for a request of so many tokens, or the instant at which it is worth asking again; `inf`: never.

        Every reservation needs one of its verbs at the end.

        Raises:
            ConfigError: `tokens` is below 0.
        """
        if tokens < 0:
            raise ConfigError(f"tokens: {tokens!r} is below 0")
        return self._alone(lambda: self._book(tokens, now), now)

    def snapshot(self, now: float) -> RateSnapshot:
        """How much of the minute is taken."""
        wait = self.room(1, now) - now
        return RateSnapshot(self.requests_per_minute, self.tokens_per_minute, self._tokens, wait)

    def _alone(self, step: Callable[[], T], otherwise: float) -> T | float:
        """What `step` gives, with the lock held; `otherwise` if this very thread is inside such a step already."""
        with self._lock:
            if self._inside:
                return otherwise
            try:
                self._inside = True
                return step()
            finally:
                self._inside = False

    # What follows is only called by such a step.

    def _room(self, tokens: int, now: float) -> float:
        while self._inbox:
            self._hear(*self._inbox.popleft())
        while self._log and self._log[0].at + MINUTE <= now:
            gone = self._log.popleft()
            self._tokens -= gone.tokens
            gone.tokens = 0
        at = now if self._last is None else max(now, self._last.at + self._gap)
        if self.tokens_per_minute is None:
            return at
        if tokens > self.tokens_per_minute:
            return math.inf
        over = self._tokens + tokens - self.tokens_per_minute
        for oldest in self._log:
            if over <= 0:
                break
            over -= oldest.tokens
            at = max(at, oldest.at + MINUTE)
        return at

    def _book(self, tokens: int, now: float) -> Reservation | float:
        at = self._room(tokens, now)
        if at > now:
            return at
        self._last = reservation = Reservation(self, now, tokens)
        self._count(reservation._counted)
        return reservation

    def _count(self, counted: _Counted) -> None:
        if self.tokens_per_minute is not None:
            self._log.append(counted)
            self._tokens += counted.tokens

    def _hear(self, reservation: Reservation, used: int, now: float, sent: bool) -> None:
        if not sent and reservation is self._last:
            self._last = None
        if self.tokens_per_minute is None:
            return
        counted = reservation._counted
        spare = counted.tokens - used
        if spare > 0:
            counted.tokens -= spare
            self._tokens -= spare
        elif used > reservation.tokens:
            self._count(_Counted(now, used - reservation.tokens))

    def __repr__(self) -> str:
        limits = {"requests": self.requests_per_minute, "tokens": self.tokens_per_minute}
        given = " and ".join(f"{value:,} {name}" for name, value in limits.items() if value is not None)
        taken = f", {self._tokens:,} tokens taken" if self.tokens_per_minute is not None else ""
        return f"RateLimit({given} a minute{taken})"
