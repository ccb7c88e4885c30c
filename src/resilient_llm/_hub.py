"""Where OpenTelemetry meets a client: whether anybody listens, and what the user said about it.

The application turns telemetry on, not we: it imports OpenTelemetry and gives it a provider. Until then nothing of
OpenTelemetry is imported here, and a call pays for two look-ups in a dict. The API is the only part that is ever
imported; the SDK is the application's. `resilient_llm.telemetry`, which holds the rest, comes with it and not before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from resilient_llm import _log
from resilient_llm._errors import ConfigError
from resilient_llm._events import BreakerChanged, ClientEvent, Tell

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from resilient_llm._call import Call
    from resilient_llm._leg import Leg
    from resilient_llm.telemetry import Telemetry
    from resilient_llm.telemetry._sinks import OpenSinks

_API = ("opentelemetry.trace", "opentelemetry.metrics")
_SET = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")  # makes a provider without an import


class Hub:
    """The telemetry of one client.

    Args:
        options: what the user said.
        tracer_provider: in place of the global one.
        meter_provider: in place of the global one.
        clock: the client's.
    """

    def __init__(
        self, options: Telemetry | None, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        for name, provider, verb in (
            ("tracer_provider", tracer_provider, "get_tracer"),
            ("meter_provider", meter_provider, "get_meter"),
        ):
            if provider is not None and not callable(getattr(provider, verb, None)):
                raise ConfigError(f"{name}: {type(provider).__name__} has no {verb}; give one of OpenTelemetry's")
        if options is not None:
            from resilient_llm.telemetry import Telemetry

            if not isinstance(options, Telemetry):
                raise ConfigError(f"telemetry: {type(options).__name__} is not a Telemetry")
        self._options, self._clock = options, clock
        self._given = tracer_provider, meter_provider
        self._asked_for = self._given != (None, None) or any(name in os.environ for name in _SET)
        self._api: tuple[Callable[[], Any], Callable[[], Any]] | None = None
        self._seen: tuple[Any, Any] | None = None
        self._sinks: OpenSinks | None = None
        self._broken = False
        self.legs: Sequence[Leg] = ()

    def begin(self, legs: Sequence[Leg]) -> None:
        """The routes are known; what has to be imported is imported now, not in the first call."""
        self.legs = legs
        self._open()

    def watch(self, call: Call) -> Call:
        """Follows a call, if anybody wants to know."""
        sinks = self._open()
        if sinks is not None:
            sinks.watch(call)
        return call

    def _open(self) -> OpenSinks | None:
        """Where traces and metrics go now; `None` for nowhere."""
        if self._broken:
            return None
        try:
            return self._look()
        except Exception as error:  # noqa: BLE001  # a provider that cannot be had is no matter of a call's
            self._broken = True
            _log.log.warning("telemetry: %s from OpenTelemetry's providers; it stays off", type(error).__name__)
            return None

    def _look(self) -> OpenSinks | None:
        """The same; `None` while both providers are the API's own, which do nothing."""
        if self._api is None:
            modules = sys.modules
            if not (self._asked_for or _API[0] in modules or _API[1] in modules):
                return None
            from opentelemetry import metrics, trace

            self._api = trace.get_tracer_provider, metrics.get_meter_provider
        tracers = self._given[0] or self._api[0]()
        meters = self._given[1] or self._api[1]()
        if self._seen is None or tracers is not self._seen[0] or meters is not self._seen[1]:
            self._seen = tracers, meters
            self._sinks = None
            counts = _real(meters)
            if counts or _real(tracers):
                from resilient_llm.telemetry._sinks import OpenSinks

                self._sinks = OpenSinks(self._options, tracers, meters, self.legs, self._clock, counts=counts)
        return self._sinks

    def around(self, tell: Tell | None) -> Tell:
        """What the routes tell: it is logged and counted, then passed on."""

        def told(event: ClientEvent) -> None:
            if isinstance(event, BreakerChanged):
                _log.breaker_changed(event.route, event.before, event.after, event.reason)
                if self._sinks is not None:
                    self._sinks.changed(event)
            if tell is not None:
                tell(event)

        return told

    def settle(self) -> None:
        """Does what finalisers have put down."""
        if self._sinks is not None:
            self._sinks.settle()

    def __repr__(self) -> str:
        return f"Hub({'on' if self._sinks is not None else 'off'})"


def _real(provider: object) -> bool:
    """It is not one that the API stands in with, which forgets everything."""
    return not type(provider).__module__.startswith(_API)
