"""A route as one client runs it: every default filled in, and the state that it has there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from resilient_llm._canary import Canary
from resilient_llm._deadline import Clock
from resilient_llm._errors import (
    ConfigError,
    ContextOverflow,
    LLMError,
    NoEligibleRoute,
    Overloaded,
    RateLimited,
    UnsupportedParameter,
)
from resilient_llm._events import BreakerChanged, RoutePutAside, Tell
from resilient_llm._models import ModelInfo
from resilient_llm._needs import why_not
from resilient_llm._route import Route, backend_of
from resilient_llm._types import ChatRequest, Request, Zone
from resilient_llm.policies import history, plan, timeouts
from resilient_llm.policies._weights import family_of, named_family
from resilient_llm.policies.breaker import LONGEST_HINT, CircuitBreaker, Transition
from resilient_llm.policies.bulkhead import Bulkhead
from resilient_llm.policies.guard import ContextGuard, refuse
from resilient_llm.policies.retry import Retry, RetryBudget
from resilient_llm.policies.truncation import Counted
from resilient_llm.sentinels import OutputSentinel

HOSTED_SLOTS, HOSTED_MOST = 64, 1000  # attempts in flight at a hosted origin: to begin with, and at most


class Leg:
    """One route of a client.

    Attributes:
        name: unique within the client.
        lane: its own in the queue of its origin: what it waits for there beside a slot, other routes do not.
        aside_until: the instant until which the route is tried last.
        known: what `models()` found out about its model.
        told_until: the instant before which the server said that it will not answer.
    """

    def __init__(self, route: Route, name: str, clock: Clock, shared: Bulkhead | None, tell: Tell | None) -> None:
        backend = backend_of(route)
        self.route, self.backend, self.name = route, backend, name
        self.provider: str = getattr(backend, "provider", "custom")
        self.model: str = getattr(backend, "model", backend.name)
        self.origin: str = getattr(backend, "origin", name)
        self.local: bool = getattr(backend, "local", False)
        self.limits = timeouts.resolve(route.timeouts, local=self.local)
        self.thinking = timeouts.resolve(route.timeouts, local=self.local, reasoning=True)
        self.retry = route.retry or Retry()
        self.budget = route.budget or RetryBudget(burst=5 if self.local else 10)
        self.breaker = route.breaker or CircuitBreaker()
        slots = getattr(backend, "slots", None) or (1 if self.local else HOSTED_SLOTS)
        self.bulkhead = route.bulkhead or shared or Bulkhead()
        self.bulkhead.resolve(slots, None if self.local else HOSTED_MOST)
        self.rate = route.rate
        self.lane = id(self.breaker if self.rate is None else self.rate)  # whoever shares it, waits behind each other
        self.guard = route.guard or ContextGuard()
        self.family = family_of(self.model)
        self.counted = Counted(named=named_family(self.model) is not None)
        self.sentinel = route.sentinel or OutputSentinel()
        self.streams = route.streams is not False
        self.space = route.space or self.model
        self.aside_until = self.told_until = -math.inf
        self.known: ModelInfo | None = None
        self._clock, self._tell = clock, tell
        self.ready = getattr(backend, "ready", None)
        self.locate = getattr(backend, "locate", None)
        self.count = getattr(backend, "count", None)
        self._lacks = getattr(backend, "lacks", None)
        self._learn = getattr(backend, "learn", None)
        self._reasons = getattr(backend, "reasons", None)
        self.breaker.on_change.append(self._changed)

    @property
    def zone(self) -> Zone | None:
        """What the user says, else what the backend says; `None` is a backend that asks the connected peer itself."""
        return self.route.zone or getattr(self.backend, "zone", "internet")

    @property
    def window(self) -> int | None:
        """The window in tokens, as far as it is known now."""
        return self.window_by[0]

    @property
    def window_by(self) -> tuple[int | None, str | None]:
        """The same, and who says so: the server or the backend, else the user, else a catalogue.

        A smaller one of the user's is a choice, and holds.
        """
        told, own = getattr(self.backend, "window", None), self.guard.window
        if told is not None and (own is None or told <= own):
            return told, getattr(self.backend, "window_by", None) or "backend"
        if own is not None:
            return own, "ContextGuard(window=…)"
        listed = self.known
        return (None, None) if listed is None else (listed.window, listed.sources.get("window"))

    def suited(self, request: Request) -> Request:
        """The request as this route may have it: without the reasoning of others.

        Raises:
            NoEligibleRoute: the route lacks what it needs.
        """
        if not isinstance(request, ChatRequest):
            return request
        why = why_not(request, self.route.lacks) or (self._lacks(request) if self._lacks is not None else None)
        if why is not None:
            raise NoEligibleRoute(why, falls_back=True)
        return history.for_route(request, self.name)

    def learns(self, request: Request, error: LLMError) -> bool:
        """Whether this request will be written otherwise from now on, because of how it was refused."""
        refused = isinstance(error, UnsupportedParameter) and error.parameter == "stream"
        if refused and self.streams and self.route.streams is None:
            self.streams = False
            return True
        return self._learn is not None and bool(self._learn(request, error))

    def limits_for(self, request: Request) -> timeouts.Limits:
        """The limits of the phases of an attempt: longer for a model that thinks first, fewer without a stream."""
        if not isinstance(request, ChatRequest):
            return self.learned(self.limits).unary()
        thinks = request.reasoning not in (None, "none") if self._reasons is None else self._reasons(request)
        limits = self.learned(self.thinking if thinks else self.limits)
        return limits if self.streams else limits.unary()

    def learned(self, limits: timeouts.Limits) -> timeouts.Limits:
        """With `adapt`, the time for a load is what its loads have taken; but for a limit that the user gave."""
        route = self.route
        if not route.adapt or (route.timeouts is not None and route.timeouts.load is not None):
            return limits
        budget = getattr(self.backend, "load_budget", None)
        return limits if budget is None else replace(limits, load=budget)

    @property
    def counts_whole(self) -> bool:
        """The server's count of a prompt has what it held in its cache, too."""
        return getattr(self.backend, "counts_whole", True)

    @property
    def cuts_at(self) -> int | None:
        """The window to which the server cuts, as far as it tells; else the one that is known."""
        told: int | None = getattr(self.backend, "window", None)
        return self.window_by[0] if told is None else told

    def refuses(self, request: ChatRequest) -> bool:
        """The server says that it refuses what is too long, instead of cutting it."""
        told = getattr(self.backend, "refuses", None)
        return told is not None and bool(told(request))

    def takes_over(self, error: LLMError, failed: Leg) -> bool:
        """Whether this route may be worth trying after that one's error: an overflow needs a larger window, or a rule.

        What a prompt has in another vocabulary its own guard counts: there the same window may hold twice as much.
        """
        if not isinstance(error, ContextOverflow) or self.window is None or self.guard.overflow is not refuse:
            return True
        if self.family != failed.family or self.guard.counter is not None:
            return True
        needed = error.tokens if error.tokens is not None else (error.limit or 0) + 1
        return self.window > needed

    def trims(self, error: LLMError) -> bool:
        """Whether the guard's rule can make the prompt fit the window that the server says it has."""
        overflow = isinstance(error, ContextOverflow) and error.status is not None and error.limit is not None
        return overflow and self.guard.overflow is not refuse

    def goes_on(self, error: LLMError) -> bool:
        """Whether the next route is tried after this one failed like that."""
        return error.falls_back or isinstance(error, tuple(self.route.falls_back_on))

    def failed(self, error: LLMError) -> None:
        """Takes note of what puts the route aside."""
        seconds = plan.aside_for(error)
        if seconds is not None:
            until = self._clock() + seconds
            self.aside_until = max(self.aside_until, until)
            if isinstance(error, RateLimited) and error.retry_after == seconds:
                self.told_until = max(self.told_until, until)  # said by the server, and not our own 30 s
            if self._tell is not None:
                self._tell(RoutePutAside(self.name, seconds, error))
        elif isinstance(error, Overloaded) and (error.retry_after or 0) > 0:
            # Its breaker counts it and may open, so that the route keeps its place; but it has said when to come back.
            hint = min(error.retry_after or 0, LONGEST_HINT)
            self.told_until = max(self.told_until, self._clock() + hint)

    def aside(self, now: float) -> bool:
        """The route is put aside."""
        return now < self.aside_until

    def eligible(self, now: float) -> bool:
        """It may be worth keeping time for: it is not put aside, and its breaker lets a call through."""
        return not self.aside(now) and self.breaker.check(now) is None

    def served(self) -> dict[str, Any]:
        """What the backend knows of what it serves."""
        known = getattr(self.backend, "served", None)
        return known() if known is not None else {}

    def state(self) -> dict[str, Any]:
        """What the backend tells of its model's state, for `snapshot()`: an Ollama's place in memory."""
        known = getattr(self.backend, "snapshot", None)
        return {"model": known()} if known is not None else {}

    def _changed(self, change: Transition) -> None:
        """A breaker that has opened sends its waiters away at once."""
        self.bulkhead.recheck(self._clock())
        suspect = getattr(self.backend, "suspect", None)
        if suspect is not None and change.slow:
            suspect(Canary(self.breaker, self.bulkhead, self._clock))
        if self._tell is not None:
            self._tell(BreakerChanged(self.name, change.before, change.after, change.reason))

    def close(self) -> None:
        """Forgets what others hold of it: a shared breaker outlives the client."""
        if self._changed in self.breaker.on_change:
            self.breaker.on_change.remove(self._changed)

    def __repr__(self) -> str:
        rate = f", {self.rate!r}" if self.rate is not None else ""
        return f"{self.name}: {self.breaker!r}, {self.bulkhead!r}, {self.budget!r}{rate}"


def legs_from(routes: Sequence[Route], clock: Clock, tell: Tell | None = None) -> list[Leg]:
    """The routes of a client, with names that differ and one queue per origin.

    Raises:
        ConfigError: there is none, or two have been given the same name.
    """
    if not routes:
        raise ConfigError("routes: give at least one, such as AsyncClient('ollama:llama3.2')")
    legs: list[Leg] = []
    queues: dict[str, Bulkhead] = {}
    taken: set[str] = set()
    for route in routes:
        name = route.name or backend_of(route).name
        if route.name and name in taken:
            raise ConfigError(f"routes: two are named {name!r}; give each its own name")
        number, base = 2, name
        while name in taken:
            name, number = f"{base}#{number}", number + 1
        taken.add(name)
        origin = getattr(backend_of(route), "origin", name)
        leg = Leg(route, name, clock, queues.get(origin), tell)
        if route.bulkhead is None:
            queues.setdefault(origin, leg.bulkhead)
        legs.append(leg)
    return legs
