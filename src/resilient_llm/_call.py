"""One call: what the caller asked for, by when, and the account of what was tried for it.

It outlives its attempts and holds nothing that has to be given back.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from resilient_llm import _log
from resilient_llm._deadline import Clock, Deadline
from resilient_llm._errors import ContextOverflow, LLMError
from resilient_llm._events import CallEnded, CallKind, CallStarted, Outcome, Tell
from resilient_llm._leg import Leg
from resilient_llm._replies import Attempt
from resilient_llm._types import ChatRequest, Request, Zone
from resilient_llm.policies.tokens import Estimates

if TYPE_CHECKING:
    from resilient_llm.telemetry._spans import CallTrace


class Call:
    """What the caller asked for, and what has happened to it so far. As a block: it ends with the block.

    Attributes:
        number: unique within the client.
        whole: nothing is handed over before the whole answer is in.
        zone: the farthest zone that it may reach, or `None`.
        attempts: all of them, in order; the first `earlier` belong to other parts of the same call.
        failures: the last error of each route that failed, in order.
        refused: what each route had been sent when its server said that it is too long, and what it said.
        sent: attempts that were let out to a server; the others were refused here.
        backoff: seconds waited between attempts.
        estimates: what was counted of the prompt.
        quiet: the log says nothing of it; what it found out is what its caller asked for.
        check: makes of the whole text what was asked for, and says whether it had to be repaired, or raises
            `OutputInvalid`; `None` if text is all.
        tell: told of what happens; `None` where nobody listens.
        trace: the call in a trace, if anybody looks at it there.
    """

    __slots__ = (
        "_over", "attempts", "backoff", "check", "clock", "conversation", "deadline", "earlier", "estimates",
        "failures", "number", "quiet", "refused", "request", "restarted", "sent", "started", "tell", "trace", "whole",
        "zone",
    )  # fmt: skip

    def __init__(
        self, request: Request, deadline: Deadline, clock: Clock, *,
        whole: bool, zone: Zone | None, conversation: str | None, number: int = 0, tell: Tell | None = None,
    ) -> None:  # fmt: skip
        self.number, self.tell, self._over, self.quiet = number, tell, False, False
        self.trace: CallTrace | None = None
        self.request, self.deadline, self.clock = request, deadline, clock
        self.whole, self.zone, self.conversation = whole, zone, conversation
        self.started = clock()
        self.attempts: list[Attempt] = []
        self.earlier = self.sent = 0
        self.failures: dict[Leg, LLMError] = {}
        self.refused: dict[Leg, tuple[ContextOverflow, ChatRequest]] = {}
        self.backoff = 0.0
        self.restarted = False
        self.estimates = Estimates()
        self.check: Callable[[str], tuple[Any, bool]] | None = None

    def begin(self) -> Self:
        """Tells that it has begun."""
        if self.tell is not None:
            tags = self.request.tags if isinstance(self.request, ChatRequest) else ()
            self.tell(CallStarted(self.number, self.kind, tags))
        return self

    @property
    def kind(self) -> CallKind:
        """What is asked for, and how it is handed over."""
        if not isinstance(self.request, ChatRequest):
            return "embed"
        return "chat" if self.whole else "stream"

    def end(self, error: BaseException | None = None, *, left: bool = False) -> None:
        """Tells that it is over. The second time nothing happens.

        Args:
            error: that ended it, or `None`.
            left: its reader did not wait for the end.
        """
        if self._over:
            return
        self._over = True
        failure = error if isinstance(error, LLMError) else None
        if not self.quiet and (failure is not None or (error is None and not left and len(self.attempts) > 1)):
            self._log(failure)
        if self.tell is None:
            return
        outcome = outcome_of(error, left=left)
        route = self.attempts[-1].route if outcome in ("ok", "left") and self.attempts else None
        seconds = self.clock() - self.started
        self.tell(CallEnded(self.number, outcome, route, failure, tuple(self.attempts), seconds))

    def _log(self, failure: LLMError | None) -> None:
        if failure is None and all(one.error is None for one in self.attempts):
            return  # the parts of an embedding
        leave = self.trace.current() if self.trace is not None else None
        _log.call_ended(self.kind, self.attempts, failure)
        if leave is not None:
            leave()

    __enter__ = begin

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    def left(self) -> float:
        """Seconds until the first token must be there."""
        return self.deadline.left(self.clock())

    def part(self, request: Request) -> Call:
        """A call for a part of it, with the same deadline; the attempts of all parts are told together."""
        part = Call(
            request, self.deadline, self.clock, whole=self.whole, zone=self.zone, conversation=self.conversation,
            number=self.number, tell=self.tell,
        )  # fmt: skip
        part.started, part.attempts, part.earlier = self.started, self.attempts, len(self.attempts)
        part.trace = self.trace
        return part

    def failed(self, leg: Leg, error: LLMError) -> None:
        """Takes note of how this route failed."""
        error.route = error.route or leg.name
        self.failures.pop(leg, None)
        self.failures[leg] = error

    def tried(self, leg: Leg) -> int:
        """The attempts on this route so far."""
        if not self.attempts:
            return 0
        return sum(one.route == leg.name for one in self.attempts[self.earlier :])

    def overflows(self, leg: Leg) -> int:
        """How often the prompt was too long for this route so far."""
        here = self.attempts[self.earlier :]
        return sum(one.route == leg.name and isinstance(one.error, ContextOverflow) for one in here)

    def __repr__(self) -> str:
        return f"Call({self.request!r}, {len(self.attempts)} attempts)"


def outcome_of(error: BaseException | None, *, left: bool = False) -> Outcome:
    """How something ended that ended so."""
    if isinstance(error, LLMError):
        return "failed"
    if left or isinstance(error, GeneratorExit):
        return "left"
    return "ok" if error is None else "cancelled"
