"""A circuit breaker: a dead or hung server is left alone, and one call at a time finds out whether it is back.

              failures in a row, failure rate, slow in a row
      closed ------------------------------------------------> open <---+
        ^                                                       |       | the probe fails, or two are slow
        |  `successes` in a row                     cooldown over|       |
        +--------------------------- half-open <----------------+-------+

Rules of the file:
  1. Time is an argument. The same outcomes at the same instants give the same state.
  2. Every change of state begins a new generation. A result of an older generation changes nothing.
  3. The lock is held for short synchronous steps, never while foreign code runs. Giving a verdict never waits for it:
     a finaliser may do so, and one can run inside the very step that holds the lock. Whoever holds it takes in the
     verdicts that came meanwhile.
  4. Every transition is told once, in order, after it has happened.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import get_args

from resilient_llm._errors import CircuitOpen, ConfigError
from resilient_llm._fork import forgets
from resilient_llm._numbers import finite, shown, whole
from resilient_llm.policies import _permits
from resilient_llm.policies._permits import BreakerSnapshot, Guarded, Mode, Permit, Role, State, Transition, Verdict

__all__ = ["BreakerSnapshot", "CircuitBreaker", "Permit", "Transition"]

OLDEST = 300.0  # seconds that an outcome counts; one box may make six calls in 30 s, so a shorter time has too few
SLOW_IN_A_ROW = 2
SLOW = 5.0  # seconds without an event after which an attempt that someone cuts says something about the server
LONGEST_HINT = 120.0  # seconds; a Retry-After moves the opening no further
FULL_SPEED = 8  # calls at once with which the slow start is over
log = logging.getLogger("resilient_llm")


class CircuitBreaker:
    """Opens when the backend is down. Share one by giving the same object to several routes; it is thread-safe.

    Args:
        failures: in a row that open it. Default 5 (Finagle's).
        rate: of failures that opens it, above 0, at most 1. Only a failure opens it, never a success.
        window: outcomes that the rate is taken over, none older than 300 s.
        min_calls: outcomes below which the rate says nothing.
        cooldown: seconds that it stays open the first time. Doubled each time a probe fails. A `Retry-After` of the
            failure that opened it can make the wait longer (up to 120 s), never shorter.
        max_cooldown: seconds. A longer one finds a healed server too late, and a probe every 30 s costs nothing.
        successes: of probes, in a row, that close it. Then it starts slowly: one call at once, one more for every
            success, without a limit from 8.
        mode: `auto`; `forced_open` refuses every call; `observe_only` refuses none and shows what it would do.
        lease: seconds after which a probe that was never heard of again frees its place.

    Attributes:
        on_change: functions that are called with each `Transition`. What they raise is logged and changes nothing.

    Raises:
        ConfigError: a value is impossible; the message shows it.
    """

    def __init__(
        self, failures: int = 5, rate: float = 0.5, window: int = 20, min_calls: int = 5, cooldown: float = 5,
        max_cooldown: float = 30, successes: int = 2, mode: Mode = "auto", *, lease: float = 120,
    ) -> None:  # fmt: skip
        counts = {"failures": failures, "window": window, "min_calls": min_calls, "successes": successes}
        for name, count in counts.items():
            whole(name, count)
        for name, value in ("rate", rate), ("cooldown", cooldown), ("max_cooldown", max_cooldown), ("lease", lease):
            finite(name, value)
        if rate > 1:
            raise ConfigError(f"rate: {rate!r} is above 1")
        if min_calls > window:
            raise ConfigError(f"min_calls: {shown(min_calls)} is more than the window of {window} outcomes")
        if cooldown > max_cooldown:
            raise ConfigError(f"cooldown: {cooldown!r} is more than max_cooldown, {max_cooldown!r}")
        self.failures, self.rate, self.window, self.min_calls = failures, rate, window, min_calls
        self.cooldown, self.max_cooldown, self.successes, self.lease = cooldown, max_cooldown, successes, lease
        self.mode = mode
        self.on_change: list[Callable[[Transition], None]] = []
        self._lock, self._telling = threading.Lock(), threading.Lock()
        self._inbox: deque[Verdict] = deque()
        self._news: deque[Transition] = deque()
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._state: State = "closed"
        self._reason = ""
        self._until = self._limit = math.inf
        self._places: list[Permit] = []  # who is in flight, while there is a limit
        self._generation = self._reopened = self._failed = self._row = self._slow = self._good = 0
        self._silence: float = 0  # seconds of short silences since it was last heard, the last of which ended
        self._silent_until = -math.inf
        forgets(self)

    def after_fork(self) -> None:
        """In the child no call is in flight, and nobody holds a lock."""
        self._lock, self._telling = threading.Lock(), threading.Lock()
        self._places = []

    @property
    def mode(self) -> Mode:
        """Who decides; may be set at any time."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in get_args(Mode):
            raise ConfigError(f"mode: {mode!r} is not one of {', '.join(get_args(Mode))}")
        self._mode: Mode = mode

    def admit(self, now: float) -> Permit:
        """The permit for an attempt that begins now. Every permit needs one of its verbs at the end.

        Raises:
            CircuitOpen: nothing may be sent; `retry_after` says when it is worth trying again, as far as is known.
        """
        self._catch_up()
        generation = self._generation  # read before the state: if that changes in between, the permit is of before
        if self._state == "closed" and self._limit == math.inf and self._mode != "forced_open":
            return Permit(self._hear, "normal", generation)  # which needs no lock
        try:
            with self._lock:
                return self._admit_one_more(now)
        finally:
            self._catch_up()

    def _admit_one_more(self, now: float) -> Permit:
        refusal = self.check(now)
        if refusal is not None:
            raise refusal
        if self._full(now):
            return Permit(self._hear, "normal", _permits.NEVER)  # only `observe_only` let it through
        if self._state == "open":
            self._move("half-open", now, "the cooldown is over")
        role: Role = "probe" if self._state == "half-open" else "normal"
        permit = Permit(self._hear, role, self._generation, now + self.lease)
        if self._limit < math.inf:
            self._places = [*(one for one in self._places if one.lease > now), permit]
        return permit

    def check(self, now: float) -> CircuitOpen | None:
        """Why a call would be refused now, or `None`. Takes nothing and waits for nothing."""
        if self._mode == "observe_only":
            return None
        if self._mode == "forced_open":
            return CircuitOpen("the breaker is forced open")
        return self._full(now)

    def _full(self, now: float) -> CircuitOpen | None:
        # Also called without the lock: it may see a state that is just changing, and `admit` looks again.
        if self._state == "open":
            left = self._until - now
            return CircuitOpen(f"open for {left:.3g} s more: {self._reason}", retry_after=left) if left > 0 else None
        ends = [one.lease for one in self._places if one.lease > now]
        if len(ends) < self._limit:
            return None
        at_once = "one call" if len(ends) == 1 else f"{len(ends)} calls"
        doing = "a probe is under way" if self._state == "half-open" else f"slow start, {at_once} at once"
        return CircuitOpen(f"{self._state}: {doing}", retry_after=min(self.cooldown, min(ends) - now))

    def state(self, now: float) -> State:
        """`closed`, `open`, or `half-open` from when the next call would be a probe."""
        if self._mode == "forced_open":
            return "open"
        return "half-open" if self._state == "open" and now >= self._until else self._state

    def snapshot(self, now: float) -> BreakerSnapshot:
        """What it knows now."""
        state = self.state(now)
        waits = state == "open" and self._state == "open" and self._until > now
        return BreakerSnapshot(
            state, self._mode, self._row, self._slow, len(self._outcomes), self._failed,
            None if self._limit == math.inf else int(self._limit), self._until - now if waits else None,
        )  # fmt: skip

    def permit(self, clock: Callable[[], float] = time.monotonic) -> Guarded:
        """For use alone: `async with breaker.permit():` or `with breaker.permit():` around one call.

        A normal end is a success, an exception is judged by `Permit.judge`, a cancellation gives no verdict. `clock`
        gives seconds, and is that of the clients which share the breaker.

        Raises:
            CircuitOpen: on entering.
        """
        return Guarded(self.admit, clock)

    def _hear(self, verdict: Verdict) -> None:
        self._inbox.append(verdict)
        self._catch_up()

    def _catch_up(self) -> None:
        while self._inbox and self._lock.acquire(blocking=False):
            try:
                while self._inbox:
                    self._apply(self._inbox.popleft())
            finally:
                self._lock.release()
        while self._news and not self._lock.locked() and self._telling.acquire(blocking=False):
            try:
                self._tell(self._news.popleft())
            finally:
                self._telling.release()

    def _tell(self, change: Transition) -> None:
        for listener in tuple(self.on_change):
            try:
                listener(change)
            except Exception:
                log.exception("a listener of a circuit breaker failed")

    def _apply(self, verdict: Verdict) -> None:
        permit, now, failed, slow, since, retry_after = verdict
        if permit.settled:
            return
        permit.settled = True
        if permit.generation != self._generation:
            return
        if permit in self._places:
            self._places.remove(permit)
        if failed is False:
            if permit.role != "rest":
                self._succeeded(now)
            if permit.rest is not None:
                permit.rest.generation = self._generation
        elif failed or (slow := since is not None and self._too_long(since, now)):
            self._suffered(now, bool(failed), slow, retry_after)

    def _too_long(self, since: float, now: float) -> bool:
        """Whether the silence of an attempt that was cut is slow: by itself, or with those before it.

        Callers in a hurry would otherwise hide a server that hangs, or shut out a healthy one for all the others.
        """
        if now - since >= SLOW:
            return True
        silence = self._silence + max(0.0, now - max(since, self._silent_until))
        self._silence, self._silent_until = (silence if silence < SLOW else 0), max(now, self._silent_until)
        return silence >= SLOW

    def _succeeded(self, now: float) -> None:
        self._row = self._slow = self._silence = 0
        if self._state == "half-open":
            self._good += 1
            if self._good >= self.successes:
                self._move("closed", now, f"{self._good} probes in a row succeeded")
            return
        self._record(now, False)
        if self._limit < math.inf:
            self._limit = self._limit + 1 if self._limit + 1 < FULL_SPEED else math.inf

    def _suffered(self, now: float, failed: bool, slow: bool, retry_after: float | None) -> None:
        self._slow = self._slow + 1 if slow else 0
        self._good = 0
        if failed:
            self._silence = 0
            self._row += 1
            self._record(now, True)
        reason = self._why_open(failed)
        if reason is None:
            return
        self._reopened = self._reopened + 1 if self._state == "half-open" else 0
        wait = min(self.max_cooldown, self.cooldown * 2.0 ** min(self._reopened, 60))
        self._until = now + max(wait, min(retry_after or 0.0, LONGEST_HINT))
        self._reason = reason
        self._move("open", now, reason, slow=slow)

    def _why_open(self, failed: bool) -> str | None:
        total = len(self._outcomes)
        if failed and self._state == "half-open":
            return "the probe failed"
        if self._slow >= SLOW_IN_A_ROW:
            return f"{self._slow} slow in a row"
        if failed and self._row >= self.failures:
            return f"{self._row} failure{'s' if self._row > 1 else ''} in a row"
        if failed and total >= self.min_calls and self._failed / total >= self.rate:
            return f"{self._failed} of the last {total} failed"
        return None

    def _record(self, now: float, failed: bool) -> None:
        outcomes = self._outcomes
        outcomes.append((now, failed))
        self._failed += failed
        while len(outcomes) > self.window or now - outcomes[0][0] > OLDEST:
            self._failed -= outcomes.popleft()[1]

    def _move(self, after: State, now: float, reason: str, *, slow: bool = False) -> None:
        self._news.append(Transition(self._state, after, now, reason, slow))
        self._state = after
        self._generation += 1
        self._places, self._limit = [], 1.0
        self._outcomes.clear()
        self._failed = self._row = self._slow = self._good = self._silence = 0

    def __repr__(self) -> str:
        state = f"open: {self._reason}" if self._state == "open" else self._state
        mode = "" if self._mode == "auto" else f", {self._mode}"
        return (
            f"CircuitBreaker({state}{mode}, {self._row} of {self.failures} failures in a row,"
            f" {self._failed} of {len(self._outcomes)} failed, opens at {self.rate:.0%} of {self.min_calls} to"
            f" {self.window}, for {self.cooldown:g} to {self.max_cooldown:g} s, closes after {self.successes}"
            f" success{'es' * (self.successes > 1)}, lease {self.lease:g} s)"
        )
