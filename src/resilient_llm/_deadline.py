"""A deadline is a point in time, taken once at the door of a call and then passed on as a value.

Rules of the file: durations come in, instants are kept, and only remaining seconds cross a boundary between clocks.
A deadline that the user set is hard. Without one there is a default that ends with the first token, and after that a
ceiling: a long healthy answer is not a hang.
"""

from __future__ import annotations

import contextvars
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import anyio

from resilient_llm._detached import running_loop
from resilient_llm._errors import ConfigError
from resilient_llm._numbers import is_number, shown

P = ParamSpec("P")
R = TypeVar("R")
Clock = Callable[[], float]
CEILING = 900.0  # seconds, where nobody set a deadline; peers: openai-python 600 s, LiteLLM 6,000 s
_AMBIENT: ContextVar[tuple[Clock, float] | None] = ContextVar("resilient_llm.deadline", default=None)
# Set inside an attempt, be it another client's: the seconds that are left to it.
INSIDE: ContextVar[Callable[[], float] | None] = ContextVar("resilient_llm.inside", default=None)


def seconds(name: str, value: float | None) -> float | None:
    """`value` if it is a duration.

    Raises:
        ConfigError: it is not a number above 0, naming the argument.
    """
    if value is None:
        return None
    if not is_number(value) or not value > 0 or sys.float_info.max < value < math.inf:
        raise ConfigError(f"{name}: {shown(value)} is not a number of seconds above 0")
    return value


@dataclass(slots=True)
class Deadline:
    """When a call ends. Never changed: there is one per call, and frozen it would cost three times as much to make.

    Attributes:
        first_by: the instant by which the first token must be there.
        at: the instant by which it must be over.
        ambient: the instant at which the caller's own anyio scope will cancel it. We plan with it but leave the
            cancelling to that scope, so that `move_on_after` stays silent.
    """

    first_by: float
    at: float
    ambient: float = math.inf

    def left(self, now: float) -> float:
        """Seconds until the first token must be there, by whichever clock ends first."""
        return min(self.first_by, self.ambient) - now

    def first_token_by(self, reserve: float) -> float:
        """The instant by which the first token must be there, if so many seconds are kept for later routes."""
        return min(self.first_by, self.ambient) - reserve if reserve else self.first_by

    def begun(self) -> Deadline:
        """What holds after a first token: the end alone. An answer that breaks later may still be asked for again."""
        return self if self.first_by == self.at else Deadline(self.at, self.at, self.ambient)


@contextmanager
def deadline(seconds_from_now: float, *, clock: Clock = time.monotonic) -> Iterator[None]:
    """Every call inside this block ends by then: one deadline for all of them. Nested blocks: the earliest holds.

    Args:
        seconds_from_now: above 0.
        clock: the clock it is measured on; give the client's where that is not `time.monotonic`.

    Raises:
        ConfigError: not a number of seconds above 0.
    """
    if seconds("deadline", seconds_from_now) is None:
        raise ConfigError("deadline: None is not a number of seconds above 0")
    with _within(seconds_from_now, clock):
        yield


@contextmanager
def _within(left: float, clock: Clock) -> Iterator[None]:
    outer = _AMBIENT.get()
    sooner = outer is not None and outer[1] - outer[0]() < left
    token = _AMBIENT.set(outer if sooner else (clock, clock() + left))
    try:
        yield
    finally:
        _AMBIENT.reset(token)


@contextmanager
def carried(timeout: float | None = None, clock: Clock = time.monotonic) -> Iterator[None]:
    """What begins in here on the event loop of another thread ends when the anyio scope around it here would end it.

    That scope itself cannot: its loop stands still while this thread waits. A notebook's is such a loop. The call's own
    `timeout` counts from here too, and not from when that loop has time for it; what is no duration the call refuses.
    """
    own = timeout if timeout is not None and is_number(timeout) and 0 < timeout < math.inf else math.inf
    try:
        running_loop()  # to ask anyio without one takes ten times as long
        left = _until_cancelled()
    except (RuntimeError, KeyError):  # no loop runs here
        left = math.inf
    with (
        nullcontext() if left == math.inf else _within(left, time.monotonic),
        nullcontext() if own == math.inf else _within(own, clock),
    ):
        yield


def take(timeout: float | None, clock: Clock, default: float) -> Deadline:
    """The deadline of a call that begins now: the least of its argument, the `deadline()` block and the anyio scope.

    Args:
        timeout: the call's own, in seconds, or `None`.
        clock: the client's.
        default: seconds to the first token if the user set neither.
    """
    now = clock()
    at = math.inf if seconds("timeout", timeout) is None else now + (timeout or 0)
    block = _AMBIENT.get()
    if block is not None:
        at = min(at, now + block[1] - block[0]())
    ambient = now + _until_cancelled()
    if at < math.inf:
        return Deadline(at, at, ambient)
    return Deadline(now + default, now + CEILING, ambient)


def _until_cancelled() -> float:
    """Seconds until what runs here will be cancelled, as far as is known."""
    scope, inside = anyio.current_effective_deadline(), INSIDE.get()
    left = scope - anyio.current_time() if scope != math.inf else math.inf
    if inside is not None and 0 < (attempt := inside()) < left:
        return attempt
    return left  # of an attempt that is over, a task that it began knows nothing


def bind(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with the deadline, the limits and `local_only` of here, to be run in a plain thread or an executor."""
    context = contextvars.copy_context()

    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        # A fresh copy each time: one context cannot be entered by two threads at once.
        return context.copy().run(function, *args, **kwargs)

    return bound
