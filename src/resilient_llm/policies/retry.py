"""Whether, and after how long, the same route is tried again.

Rules:
  1. Only an error that says `retryable` is repeated; after a timeout never on the same box.
  2. `Retry-After` is kept: never early, up to 10 % late (callers must not return in step), unless it is over 120 s.
  3. Otherwise full jitter: uniform between 0 and `min(cap, base * 2**n)`. A tenacity wait strategy takes its place.
  4. While another route is left, a wait above `patience` is not worth it: go there now.
  5. No wait that ends after the deadline.
  6. Every repeat draws one from the route's budget; the first attempt of a call on a route is free.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resilient_llm._deadline import seconds
from resilient_llm._errors import (
    ConfigError,
    ConnectTimeout,
    EmptyReply,
    FirstTokenTimeout,
    LLMError,
    LoadTimeout,
    OutputInvalid,
    Overloaded,
    RateLimited,
    StreamStalled,
)
from resilient_llm._fork import forgets
from resilient_llm._numbers import finite, shown, whole

if TYPE_CHECKING:
    from tenacity.wait import wait_base

LONGEST_HINT = 120.0  # seconds; a longer Retry-After is not waited for (openai-python 3.54 draws the line there too)
ATTEMPTS = {True: 2, False: 3}  # by local, the first included
BASE, THROTTLED = 0.5, 1.0  # seconds that the first wait is below; of a hosted server that throttles
TOP = {True: 10.0, False: 20.0}  # seconds that every wait is below, by local
_TIMEOUTS = (ConnectTimeout, LoadTimeout, FirstTokenTimeout, StreamStalled)
_ONCE = (EmptyReply, OutputInvalid)  # a second answer as bad as the first says that a third will be too
_THROTTLED = (RateLimited, Overloaded)


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try the same route again.

    Args:
        attempts: of one call on this route, the first included. Default 2 local, 3 hosted: at 80 % load a 20 s attempt
            timeout with two retries takes success from 96 % to 64 %.
        wait: a tenacity wait strategy. Default full jitter from 0.5 s, capped at 10 s local and 20 s hosted (1 s when
            throttled), from the client's own `random.Random`, so that a seed replays it.
        patience: seconds that a repeat is worth waiting for while another route is left. Default 3.

    Raises:
        ConfigError: `attempts` is below 1 or `patience` is not above 0.
    """

    attempts: int | None = None
    wait: wait_base | None = None
    patience: float = 3.0

    def __post_init__(self) -> None:
        if self.attempts is not None:
            whole("attempts", self.attempts)
        if self.wait is not None and not callable(self.wait):
            raise ConfigError(
                f"wait: {shown(self.wait)} is no wait strategy of tenacity, such as tenacity.wait_exponential()"
            )
        seconds("patience", self.patience)

    def delay(
        self, tried: int, error: LLMError, rng: random.Random, *, local: bool, left: float, others: bool
    ) -> float | None:
        """Seconds to wait before the next attempt on this route, or `None` to leave it.

        Args:
            tried: attempts of this call on this route so far.
            error: how the last one ended.
            rng: where chance comes from.
            local: the route is a local server.
            left: seconds left until the deadline.
            others: another eligible route is left.
        """
        attempts = self.attempts or ATTEMPTS[local]
        if tried >= attempts or not error.retryable or (tried >= 2 and isinstance(error, _ONCE)):
            return None
        if local and isinstance(error, _TIMEOUTS):
            return None
        hint = error.retry_after
        if hint is not None and hint > LONGEST_HINT:
            return None
        if hint is not None and hint >= 0:  # a backend of the user's may say anything
            wait = hint * rng.uniform(1.0, 1.1)
        elif self.wait is not None:
            wait = max(0.0, self.wait(_state(tried, error)))
        else:
            base = THROTTLED if isinstance(error, _THROTTLED) and not local else BASE
            wait = rng.uniform(0.0, min(TOP[local], base * 2 ** min(tried - 1, 30)))
        if not wait < left or (others and wait > self.patience):  # also turns NaN away
            return None
        return wait

    def explain(self, *, local: bool) -> str:
        """It in words, with every number."""
        attempts, wait = self.attempts or ATTEMPTS[local], f"full jitter below {BASE:g} s, doubling to {TOP[local]:g} s"
        if self.wait is not None:
            wait = f"waits by {getattr(self.wait, '__name__', type(self.wait).__name__)}"
        return f"{attempts} attempt{'s' * (attempts > 1)}, {wait}, patience {self.patience:g} s"


def _state(tried: int, error: LLMError) -> Any:
    """What a tenacity wait strategy looks at. Imported here: who has no strategy needs no tenacity."""
    from tenacity import RetryCallState

    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]  # there is no tenacity loop behind it
    state.attempt_number = tried
    state.set_exception((type(error), error, None))
    return state


class RetryBudget:
    """How many repeats a route may make, as a share of its calls: retries must not multiply an outage.

    Every call that is sent adds `ratio`, every repeat takes 1, and there are never more than `burst`; it starts full.
    So the attempts of N calls are at most N + burst + ratio·N. No clock is involved: calls outlive any window.

    Args:
        ratio: added per call, from 0 to 1. Default 0.1.
        burst: the most it holds. Default 10 hosted, 5 local.

    Share one by giving the same object to several routes, of any client, loop or thread.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(self, ratio: float = 0.1, burst: float = 10) -> None:
        finite("ratio", ratio, zero=True)
        finite("burst", burst, zero=True)
        if ratio > 1:
            raise ConfigError(f"ratio: {shown(ratio)} is above 1")
        self.ratio, self.burst = ratio, burst
        self.balance = float(burst)
        self._lock = threading.RLock()  # a finaliser may give back inside a step that holds it
        forgets(self)

    def after_fork(self) -> None:
        """In the child nobody holds the lock."""
        self._lock = threading.RLock()

    def deposit(self) -> None:
        """A call was sent over this route, for the first time."""
        if self.balance >= self.burst:
            return  # it is full, as of most routes at most times: that needs no lock
        with self._lock:
            self.balance = min(self.burst, self.balance + self.ratio)

    def draw(self) -> bool:
        """Takes 1 for a repeat, if there is one."""
        with self._lock:
            if self.balance < 1:
                return False
            self.balance -= 1
            return True

    def refund(self) -> None:
        """The repeat was never sent."""
        with self._lock:
            self.balance = min(self.burst, self.balance + 1)

    def __repr__(self) -> str:
        return f"RetryBudget({self.balance:.1f} of {self.burst:g} left, +{self.ratio:g} a call)"
