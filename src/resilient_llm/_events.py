"""What a client tells while it works, to whoever listens with `on_event=`: a small value for each thing that happens.

Rules of the file:
  1. An event holds no text of a prompt or an answer and no key. Times are seconds on the client's clock.
  2. It is told after the fact, synchronously, in the order in which things happened: by the thread and the task that
     did it, and by a finaliser where a stream was dropped. A listener returns soon and waits for nothing.
  3. A listener that raises is logged and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._replies import Attempt, AttemptKind, Degraded

CallKind = Literal["chat", "stream", "embed"]
Outcome = Literal["ok", "failed", "cancelled", "left"]
log = logging.getLogger("resilient_llm")


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call begins.

    Attributes:
        call: its number, unique within the client; every event of the call has it.
        tags: what the caller gave with it.
    """

    call: int
    kind: CallKind
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """An attempt begins, with its place in the queue. `number` counts from 1 over the whole call."""

    call: int
    route: str
    number: int
    kind: AttemptKind


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first content or reasoning has arrived, `seconds` after the call began."""

    call: int
    route: str
    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt is over; a refusal that sent nothing is one, too. Each that started is told of once.

    Attributes:
        outcome: as of the call.
    """

    call: int
    attempt: Attempt
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RetryPlanned:
    """The same route is tried again, `wait` seconds from now."""

    call: int
    route: str
    wait: float
    error: LLMError


@dataclass(frozen=True, slots=True)
class FellBack:
    """The call goes on from the route `before` to the route `after`."""

    call: int
    before: str
    after: str
    error: LLMError


@dataclass(frozen=True, slots=True)
class PromptTrimmed:
    """The guard's rule left so many of the messages. A refusal is an `AttemptEnded` with `ContextOverflow`."""

    call: int
    route: str
    messages: int
    left: int


@dataclass(frozen=True, slots=True)
class AnswerDegraded:
    """The answer is whole and less than what was asked for, in these ways; see `reply.degraded`."""

    call: int
    route: str
    number: int
    degraded: tuple[Degraded, ...]


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is over.

    Attributes:
        outcome: `ok`, `failed` with `error`, `cancelled` by its caller, or a stream that its reader `left` early.
        route: the one that answered, or began to.
        seconds: from beginning to end.
    """

    call: int
    outcome: Outcome
    route: str | None
    error: LLMError | None
    attempts: tuple[Attempt, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class RoutePutAside:
    """The route is tried last for so many seconds (429, quota, no such model)."""

    route: str
    seconds: float
    error: LLMError


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """The breaker of this route has changed its state."""

    route: str
    before: Literal["closed", "open", "half-open"]
    after: Literal["closed", "open", "half-open"]
    reason: str


@dataclass(frozen=True, slots=True)
class SlotsChanged:
    """The origin of this route may have so many attempts in flight now: it throttled us, or was fine for a while."""

    route: str
    before: int
    after: int


ClientEvent = (
    CallStarted | AttemptStarted | FirstToken | AttemptEnded | RetryPlanned | FellBack | PromptTrimmed | AnswerDegraded
    | CallEnded     | RoutePutAside | BreakerChanged | SlotsChanged
)  # fmt: skip
Listener = Callable[[ClientEvent], object]
Tell = Callable[[ClientEvent], None]


def teller(on_event: Listener | Iterable[Listener]) -> Tell | None:
    """Tells all listeners; `None` where nobody listens, so that no event is made.

    Raises:
        ConfigError: one of them cannot be called.
    """
    several = isinstance(on_event, Iterable) and not callable(on_event)
    listeners: tuple[Listener, ...] = tuple(on_event) if several else (on_event,)  # type: ignore[assignment, arg-type]
    for listener in listeners:
        if not callable(listener):
            raise ConfigError(f"on_event: a function is needed, not {type(listener).__name__}")
    if not listeners:
        return None

    def tell(event: ClientEvent) -> None:
        for listener in listeners:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001  # somebody else's code: what it raises is not the call's outcome
                name = getattr(listener, "__qualname__", type(listener).__name__)
                log.warning("on_event: %s raised %s on %s", name, type(error).__name__, type(event).__name__)

    return tell
