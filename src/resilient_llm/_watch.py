"""The clock of one attempt: which phase it is in, since when, and when that phase has taken too long.

One cancel scope is armed at a time, and its end moves as the phase changes; a backend says where it is with `enter`.
Which limit ended an attempt is told from the phase, never from the exception that the cancellation became.

Two clocks meet here: limits are kept on the client's clock, cancel scopes want the event loop's. Their distance is
taken once; both are monotonic.
"""

from __future__ import annotations

import math
from typing import Any

import anyio

from resilient_llm._deadline import Clock, Deadline
from resilient_llm._errors import (
    ConnectTimeout,
    DeadlineExceeded,
    FirstTokenTimeout,
    LLMError,
    LoadTimeout,
    Phase,
    StreamStalled,
)
from resilient_llm._loops import Alarm
from resilient_llm._types import Zone
from resilient_llm.policies.timeouts import Limits

_LATE = {"connect": ConnectTimeout, "load": LoadTimeout, "first_token": FirstTokenTimeout, "stream": StreamStalled}
_WHAT = {
    "connect": "no connection",
    "load": "the model was not in memory",
    "first_token": "no first token",
    "stream": "no token",
}


class Watch:
    """Phases and limits of one attempt.

    Args:
        deadline: of the call.
        limits: of the phases.
        clock: the client's.
        reserve: seconds before the deadline that belong to later routes, until the first token is there.
        zone: the farthest zone that this attempt may reach, or `None`.

    Attributes:
        limits: of the phases.
        headers: sent with the request, beside the backend's own.
        phase: what the attempt is doing.
        spent: seconds spent in each phase that is over.
        asked: when a reader of an open stream last began to wait for the server.
        trace: the attempt in a trace, if anybody looks at it there: headers to be sent with a request, and where its
            URL, its status and its id are told.
    """

    __slots__ = (
        "_alarm", "_deadline", "_ends", "_hopeless", "_offset", "_reserve", "_since", "asked", "clock",
        "headers", "limits", "phase", "spent", "trace", "zone",
    )  # fmt: skip

    def __init__(
        self, deadline: Deadline, limits: Limits, clock: Clock, *, reserve: float = 0.0, zone: Zone | None = None
    ) -> None:
        self.clock = clock
        self.zone = zone
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.trace: Any = None
        self.phase: Phase = "first_token"
        self.spent: dict[Phase, float] = {}
        self.limits = limits
        self._deadline, self._reserve = deadline, reserve
        self._since = clock()
        self._alarm = Alarm()
        self._offset = self._alarm.born - self._since
        self._ends = min(self._since + limits.first_token, deadline.first_token_by(reserve))
        self.asked = -math.inf
        self._hopeless = ""
        self._alarm.put(self._ends + self._offset)

    def _limit(self, phase: Phase) -> float:
        limits = self.limits
        limit: float = limits.between_tokens if phase == "stream" else getattr(limits, phase)
        return limit

    @property
    def scope(self) -> anyio.CancelScope:
        """The scope that is armed for the whole of the opening; enter it once."""
        return self._alarm.scope

    @property
    def until(self) -> float:
        """The instant on the event loop's clock at which what is being waited for is too late."""
        return self._ends + self._offset

    def left(self) -> float:
        """Seconds until then."""
        return self._ends - self.clock()

    def enter(self, phase: Phase) -> float:
        """The attempt goes over into `phase`; its limit counts from now. Gives the instant.

        Where the end of the last phase has been rung already, it stays in that one: the next would be blamed for it.
        """
        now = self.clock()
        if phase != "stream" and self._alarm.scope.cancel_called:
            return now
        self.spent[self.phase] = self.spent.get(self.phase, 0.0) + now - self._since
        self.phase, self._since = phase, now
        if phase != "stream":  # its limit counts from when somebody waits for more
            self._ends = min(now + self._limit(phase), self._deadline.first_token_by(self._reserve))
            self._alarm.put(self._ends + self._offset)
        return now

    def progress(self) -> float:
        """The next tokens are waited for under the one scope: the gap limit counts anew. Gives the instant."""
        now = self.clock()
        self._ends = min(now + self.limits.between_tokens, self._deadline.at)
        self._alarm.put(self._ends + self._offset)
        return now

    def instant(self, seconds: float) -> float:
        """The instant in so many seconds on the event loop's clock, for a scope of one's own."""
        return self.clock() + self._offset + seconds

    def step(self) -> anyio.CancelScope:
        """A scope for one read of an open stream: only the time spent in reading counts against the gap limit."""
        self.asked = now = self.clock()
        self._ends = min(now + self.limits.between_tokens, self._deadline.at)
        scope = self._alarm.again()
        if self._ends > now:
            self._alarm.put(self._ends + self._offset)
        else:
            scope.cancel()
        return scope

    def late(self) -> LLMError:
        """What it means that the armed scope ran out: the error of the phase, or of the deadline."""
        last = self._deadline.at if self.phase == "stream" else self._deadline.first_by
        if self._ends >= last:
            return DeadlineExceeded(f"the deadline came {_DURING[self.phase]}", phase=self.phase)
        limit = self._limit(self.phase)
        if self._hopeless:
            return _LATE[self.phase](f"{_WHAT[self.phase]} within {self._ends - self._since:.3g} s: {self._hopeless}")
        if self.phase != "stream" and self._ends - self._since < limit * 0.999:
            return _LATE[self.phase](
                f"{_WHAT[self.phase]} within {self._ends - self._since:.3g} s"
                f" (of its {limit:.3g} s: {self._reserve:.3g} s are kept for the next route)",
                # The caller had no more time, which says nothing about the server. But a load that does not end is to
                # be found out, and while one goes on its callers are better off elsewhere.
                fault=None if self.phase == "load" else "nobody",
            )
        return _LATE[self.phase](f"{_WHAT[self.phase]} within {limit:.3g} s")

    def give_up(self, why: str) -> None:
        """What it waits for will not come: its phase is over."""
        self._ends, self._hopeless = self.clock(), why
        self._alarm.scope.cancel()

    def __repr__(self) -> str:
        spent = ", ".join(f"{phase} {seconds:.3g} s" for phase, seconds in self.spent.items())
        return f"Watch(in {self.phase} until {self._ends:.6g}, now {self.clock():.6g}; spent: {spent or 'nothing'})"

    def finish(self, now: float) -> None:
        """The attempt is over: closes the account of its last phase."""
        self.spent[self.phase] = self.spent.get(self.phase, 0.0) + now - self._since
        self._since = now

    def off(self) -> None:
        """Nobody is cancelled by it any more. To be called on its own event loop."""
        self._alarm.off()


_DURING: dict[Phase, str] = {
    "connect": "while connecting",
    "load": "while the model was loading",
    "first_token": "before the first token",
    "stream": "in mid-answer",
}


_FOREVER = Limits(math.inf, math.inf, math.inf, math.inf)


def aside(clock: Clock, zone: Zone | None) -> Watch:
    """A watch for what is nobody's attempt: it has no end of its own, but the zone of who began it."""
    return Watch(Deadline(math.inf, math.inf), _FOREVER, clock, zone=zone)
