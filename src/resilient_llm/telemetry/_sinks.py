"""Where the traces and metrics of one client go, once somebody listens. Imports OpenTelemetry's API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from resilient_llm._events import BreakerChanged
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry import _semconv_metrics as metrics
from resilient_llm.telemetry._metrics import instruments
from resilient_llm.telemetry._options import Telemetry
from resilient_llm.telemetry._sent import LATER
from resilient_llm.telemetry._spans import CallTrace
from resilient_llm.telemetry._targets import Target

if TYPE_CHECKING:
    from resilient_llm._call import Call
    from resilient_llm._leg import Leg

# Set by whoever wants silence: everywhere, or only of a second span for a call that has one (OpenTelemetry's own GenAI
# helpers, OpenLLMetry). The first is no public name of the API.
_SILENT = tuple(
    key for key in (getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", ""), "suppress_instrumentation") if key
)
_HAS_ONE = ("opentelemetry.genai.client.inference.context", "suppress_language_model_instrumentation")


class OpenSinks:
    """See `Sinks`."""

    def __init__(
        self, options: Telemetry | None, tracers: TracerProvider, meters: MeterProvider, legs: Sequence[Leg],
        clock: Callable[[], float], *, counts: bool,
    ) -> None:  # fmt: skip
        options = options or Telemetry()
        schema = metrics.CONVENTIONS[options.conventions].schema_url
        self.calls = tracers.get_tracer(names.SCOPE, schema_url=schema)
        self.attempts = tracers.get_tracer(names.ATTEMPTS_SCOPE, schema_url=schema)
        self.instruments = instruments(meters, options.conventions, counts=counts)
        self.targets = {leg.name: Target(leg, clock, options.propagate_to) for leg in legs}
        for target in self.targets.values():
            self.instruments.follow(target)
        self.content, self.metric_tags = options.captures, tuple(options.metric_tags)

    def watch(self, call: Call) -> None:
        """Follows a call, unless somebody has asked for silence here."""
        parent = context.get_current()
        if not parent:
            CallTrace(self, call, parent, quiet=False)
        elif not any(parent.get(key) for key in _SILENT):
            CallTrace(self, call, parent, quiet=any(parent.get(key) is not None for key in _HAS_ONE))

    def settle(self) -> None:
        """Does what finalisers have put down."""
        LATER.settle()

    def changed(self, event: BreakerChanged) -> None:
        """Counts a change of a breaker, and keeps it for the trace of the call that made it."""
        labels: dict[str, Any] = {names.BREAKER: event.route, names.BREAKER_STATE: event.after.replace("-", "_")}
        self.instruments.put_down(metrics.TRANSITIONS, 1, labels)  # this may be a finaliser
        self.targets[event.route].news.append(event)
