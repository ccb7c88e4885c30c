"""A route as telemetry knows it: the values of its attributes and labels, made once and not for each call."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from resilient_llm._events import BreakerChanged
from resilient_llm._fork import forgets
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry._semconv_metrics import MODELS_OF_A_ROUTE

if TYPE_CHECKING:
    from resilient_llm._leg import Leg

STATES = ("closed", "open", "half-open")


class Target:
    """A route.

    Attributes:
        name: `provider/model`.
        served: attributes of a call that it serves.
        where: its address, if it has one.
        labels: of its metrics.
        limiter: label of its queue.
        propagates: `traceparent` may be sent there.
        active: the attempts on the wire; a set, because adding and discarding are atomic and never drift.
        news: what its breaker did since it was last asked.
    """

    def __init__(self, leg: Leg, clock: Callable[[], float], propagate_to: Collection[str]) -> None:
        self.leg, self.clock = leg, clock
        provider = names.PROVIDERS.get(leg.provider, leg.provider)
        at = urlsplit(leg.origin) if "://" in leg.origin else None
        host = at.hostname if at is not None else None
        self.name = f"{leg.provider}/{leg.model}"
        self.where: dict[str, Any] = {}
        if at is not None and host is not None:
            self.where = {names.ADDRESS: host, **({} if at.port is None else {names.PORT: at.port})}
        self.served = {names.PROVIDER: provider, names.REQUEST_MODEL: leg.model, **self.where}
        self.labels: dict[str, str] = {
            names.ROUTE: leg.name, names.PROVIDER: provider, names.REQUEST_MODEL: leg.model
        }  # fmt: skip
        self.limiter: dict[str, str] = {names.LIMITER: leg.origin}
        self.propagates = host is not None and (host in {one.lower() for one in propagate_to} or _loopback(host))
        self.active: set[object] = set()
        self.news: deque[BreakerChanged] = deque(maxlen=8)
        self._models: set[str] = {leg.model}
        forgets(self)

    def after_fork(self) -> None:
        """What is on the wire is the parent's."""
        self.active.clear()

    def model_label(self, model: str) -> str:
        """The model as a label: a server may name any, the metrics must not grow with them."""
        if model in self._models:
            return model
        if len(self._models) >= MODELS_OF_A_ROUTE:
            return names.OTHER
        self._models.add(model)
        return model

    def states(self) -> list[tuple[dict[str, str], float]]:
        """1 for the state of its breaker, 0 for the two others."""
        now, name = self.leg.breaker.state(self.clock()), self.leg.name
        return [
            ({names.BREAKER: name, names.BREAKER_STATE: state.replace("-", "_")}, float(state == now))
            for state in STATES
        ]

    def __repr__(self) -> str:
        return f"Target({self.leg.name}, {len(self.active)} active)"


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
