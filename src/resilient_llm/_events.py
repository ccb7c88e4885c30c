"""What a client tells while it works, to whoever listens with `on_event=`: a small value for each thing that happens.

Rules of the file:
  1. An event holds no text of a prompt or an answer and no key. Times are seconds on the client's clock.
  2. It is told after the fact, synchronously, in the order in which things happened: by the thread and the task that
     did it, and by a finaliser where a stream was dropped. A listener returns soon and waits for nothing.
  3. A listener that raises is logged and changes nothing.
  4. They are named tuples: twelve frozen dataclasses would take 3 ms of the import.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._replies import Attempt, AttemptKind, Degraded

CallKind = Literal["chat", "stream", "embed"]
Outcome = Literal["ok", "failed", "cancelled", "left"]
log = logging.getLogger("resilient_llm")


class CallStarted(NamedTuple):
    """A call begins.

    Attributes:
        call: its number, unique within the client; every event of the call has it.
        tags: what the caller gave with it.
    """

    call: int
    kind: CallKind
    tags: tuple[str, ...] = ()


class AttemptStarted(NamedTuple):
    """An attempt begins, with its place in the queue. `number` counts from 1 over the whole call."""

    call: int
    route: str
    number: int
    kind: AttemptKind


class FirstToken(NamedTuple):
    """The first content or reasoning has arrived, `seconds` after the call began."""

    call: int
    route: str
    number: int
    seconds: float


class AttemptEnded(NamedTuple):
    """An attempt is over; a refusal that sent nothing is one, too. Each that started is told of once.

    Attributes:
        outcome: as of the call.
    """

    call: int
    attempt: Attempt
    outcome: Outcome


class RetryPlanned(NamedTuple):
    """The same route is tried again, `wait` seconds from now."""

    call: int
    route: str
    wait: float
    error: LLMError


class FellBack(NamedTuple):
    """The call goes on from the route `before` to the route `after`."""

    call: int
    before: str
    after: str
    error: LLMError


class PromptTrimmed(NamedTuple):
    """The guard's rule left so many of the messages. A refusal is an `AttemptEnded` with `ContextOverflow`."""

    call: int
    route: str
    messages: int
    left: int


class AnswerDegraded(NamedTuple):
    """The answer is whole and less than what was asked for, in these ways; see `reply.degraded`.

    Attributes:
        cause: where it is `reloaded`: what was last found in the model's place, such as
            `num_ctx: 2048 instead of 8192`, as far as that is known.
    """

    call: int
    route: str
    number: int
    degraded: tuple[Degraded, ...]
    cause: str | None = None


class CallEnded(NamedTuple):
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


class RoutePutAside(NamedTuple):
    """The route is tried last for so many seconds (429, quota, no such model)."""

    route: str
    seconds: float
    error: LLMError


class BreakerChanged(NamedTuple):
    """The breaker of this route has changed its state."""

    route: str
    before: Literal["closed", "open", "half-open"]
    after: Literal["closed", "open", "half-open"]
    reason: str


class SlotsChanged(NamedTuple):
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
