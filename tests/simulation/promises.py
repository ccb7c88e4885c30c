"""What is looked at while the simulation runs, and after it: the promises, as far as virtual time can show them."""

from __future__ import annotations

import math
from collections import Counter
from contextvars import ContextVar
from typing import Any

from resilient_llm import AsyncClient, ChatReply, DeadlineExceeded, EmbedReply, LLMError
from resilient_llm._watch import Watch
from resilient_llm._zones import beyond
from resilient_llm.errors import LoadTimeout, Overloaded, Rejected
from resilient_llm.policies.breaker import Transition

from .weather import Server

EPSILON = 0.05  # seconds over its deadline that a call may take: the promise
CEILING = 900.0
FAR_GAP = 2.0  # seconds between two requests to the server `far`: its rate limit
CALL: ContextVar[int] = ContextVar("call")


class Promises:
    """Looks at every attempt as it reaches a server, and at every call as it ends.

    Attributes:
        sent: the servers that each call has reached, in order, while it runs.
        log: every decision, one a line.
    """

    def __init__(self) -> None:
        self.sent: dict[int, list[str]] = {}
        self.sent_far = -math.inf
        self.parts: set[tuple[int, str, int]] = set()
        self.reached: Counter[str] = Counter()  # calls that came to a route: N of the fourth promise
        self.ends: Counter[str] = Counter()
        self.log: list[str] = []
        self.legs: dict[int, Any] = {}  # by server: all legs of one have the same policies
        self.states: dict[int, tuple[str, float]] = {}  # by breaker: its state, and since when

    def watch(self, *clients: AsyncClient) -> None:
        """Looks at the legs of these clients."""
        for llm in clients:
            for leg in llm._legs:
                self.legs[id(leg.backend)] = leg
                if id(leg.breaker) not in self.states:
                    self.states[id(leg.breaker)] = ("closed", 0.0)
                    leg.breaker.on_change.append(lambda change, leg=leg: self._changed(leg, change))

    def _changed(self, leg: Any, change: Transition) -> None:
        assert change.before == self.states[id(leg.breaker)][0], "a transition was lost or told twice"
        self.states[id(leg.breaker)] = (change.after, change.at)
        self.note(change.at, f"{leg.name} {change.before} -> {change.after}: {change.reason}")

    def note(self, now: float, text: str) -> None:
        """A decision, for the comparison of two runs."""
        self.log.append(f"{now:.9f} {text}")

    def attempt(self, server: Server, request: Any, watch: Watch, now: float) -> None:
        """An attempt reaches a server."""
        leg, number = self.legs[id(server)], CALL.get()
        breaker, bulkhead, budget = leg.breaker, leg.bulkhead, leg.budget
        admitted = watch._since - sum(watch.spent.values())  # before its model was in memory, perhaps
        state, since = self.states[id(breaker)]
        assert state != "open" or admitted <= since, "nothing passes an open breaker"
        probes = [one for one in breaker._places if one.role == "probe" and one.lease > now]
        assert len(probes) <= 1, "one probe at a time"
        assert 0 < bulkhead.inflight <= bulkhead.slots, "no more in flight than there are slots"
        assert 0 <= budget.balance <= budget.burst, "a budget is neither in debt nor over its burst"
        assert now <= watch._deadline.at, "nothing is sent after the deadline"
        assert not beyond(server.zone, watch.zone), "what is private stays inside"
        if server.name == "far" and server.at(now).kind != "down":  # what was refused there was not counted there
            assert now - self.sent_far >= FAR_GAP - 1e-6, "requests come evenly, as the rate limit says"
            self.sent_far = now
        part = (number, server.name, len(getattr(request, "texts", ())))  # each batch of an embedding is a call
        if part not in self.parts:
            self.parts.add(part)
            self.reached[server.name] += 1
        self.sent[number].append(server.name)
        self.note(now, f"call {number} reaches {server.name}")

    def took(self, seconds: float, timeout: float | None, scope: float) -> None:
        """A call has ended by its deadline."""
        assert seconds <= min(timeout or CEILING, scope) + EPSILON, f"{seconds} s of {timeout} s, {scope} s"

    def answered(self, number: int, servers: dict[str, Server], reply: ChatReply | EmbedReply) -> None:
        """An answer is whole, somebody's own, and accounts for all that was tried."""
        self.accounts(number, reply.attempts)
        assert reply.attempts[-1].error is None
        if isinstance(reply, ChatReply):
            assert reply.text in servers[reply.route].said, "an answer is one that a server gave, whole"
            timings = reply.timings
            parts = [
                timings.failed, timings.backoff, timings.queue, timings.connect, timings.load,
                timings.first_token or 0.0, timings.stream,
            ]  # fmt: skip
            assert min(parts) >= -1e-6, parts
            assert math.isclose(sum(parts), timings.total, abs_tol=1e-6), (parts, timings.total)

    def failed(self, number: int, error: LLMError) -> None:
        """An error says all that was tried, and why."""
        self.accounts(number, error.attempts)
        for failure in getattr(error, "failures", ()):
            assert failure.route, "every failure names its route"

    def accounts(self, number: int, attempts: Any) -> None:
        """The attempts that are told are those that were made."""
        assert [one.number for one in attempts] == list(range(1, len(attempts) + 1))
        assert [one.route for one in attempts if _was_sent(one.error)] == self.sent[number], attempts

    def at_rest(self, now: float, *clients: AsyncClient) -> None:
        """Nobody calls: nothing is held."""
        for llm in clients:
            for leg in llm._legs:
                assert (leg.bulkhead.inflight, leg.bulkhead.queued) == (0, 0), leg
                assert not [one for one in leg.breaker._places if one.lease > now], leg
                assert leg.backend.active == 0, leg

    def bounded(self, servers: dict[str, Server]) -> None:
        """Attempts on a route are at most N + burst + ratio·N."""
        for name, server in servers.items():
            budget, calls = self.legs[id(server)].budget, self.reached[name]
            most = calls + budget.burst + budget.ratio * calls
            assert len(server.opens) <= most, f"{name}: {len(server.opens)} attempts for {calls} calls"


def _was_sent(error: LLMError | None) -> bool:
    """An attempt with this end had reached its server."""
    if isinstance(error, DeadlineExceeded):
        return error.phase not in ("queue", "load")
    no_slot = isinstance(error, Overloaded) and error.message.startswith("no free slot")
    return not (isinstance(error, Rejected | LoadTimeout) or no_slot)
