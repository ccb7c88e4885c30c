"""One call: what the caller asked for, by when, and the account of what was tried for it.

It outlives its attempts and holds nothing that has to be given back.
"""

from __future__ import annotations

from resilient_llm._deadline import Clock, Deadline
from resilient_llm._errors import LLMError
from resilient_llm._leg import Leg
from resilient_llm._replies import Attempt
from resilient_llm._types import Request, Zone


class Call:
    """What the caller asked for, and what has happened to it so far.

    Attributes:
        whole: nothing is handed over before the whole answer is in.
        zone: the farthest zone that it may reach, or `None`.
        attempts: all of them, in order; the first `earlier` belong to other parts of the same call.
        failures: the last error of each route that failed, in order.
        backoff: seconds waited between attempts.
    """

    __slots__ = (
        "attempts", "backoff", "clock", "conversation", "deadline", "earlier", "failures", "request", "restarted",
        "started", "whole", "zone",
    )  # fmt: skip

    def __init__(
        self, request: Request, deadline: Deadline, clock: Clock, *,
        whole: bool, zone: Zone | None, conversation: str | None,
    ) -> None:  # fmt: skip
        self.request, self.deadline, self.clock = request, deadline, clock
        self.whole, self.zone, self.conversation = whole, zone, conversation
        self.started = clock()
        self.attempts: list[Attempt] = []
        self.earlier = 0
        self.failures: dict[Leg, LLMError] = {}
        self.backoff = 0.0
        self.restarted = False

    def left(self) -> float:
        """Seconds until the first token must be there."""
        return self.deadline.left(self.clock())

    def part(self, request: Request) -> Call:
        """A call for a part of it, with the same deadline; the attempts of all parts are told together."""
        part = Call(
            request, self.deadline, self.clock, whole=self.whole, zone=self.zone, conversation=self.conversation
        )
        part.started, part.attempts, part.earlier = self.started, self.attempts, len(self.attempts)
        return part

    def failed(self, leg: Leg, error: LLMError) -> None:
        """Takes note of how this route failed."""
        error.route = error.route or leg.name
        self.failures.pop(leg, None)
        self.failures[leg] = error

    def tried(self, leg: Leg) -> int:
        """The attempts on this route so far."""
        return sum(one.route == leg.name for one in self.attempts[self.earlier :])

    def __repr__(self) -> str:
        return f"Call({self.request!r}, {len(self.attempts)} attempts)"
