"""Where OpenTelemetry meets a client: whether anybody listens, and what the user said about it.

The application turns telemetry on, not we: it imports OpenTelemetry and gives it a provider. Until then nothing of
OpenTelemetry is imported here, and a call pays for two look-ups in a dict. The API is the only part that is ever
imported; the SDK is the application's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from resilient_llm._errors import ConfigError
from resilient_llm._events import BreakerChanged, ClientEvent, Tell
from resilient_llm._types import ToolCall
from resilient_llm.telemetry import _semconv as names

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from resilient_llm._call import Call
    from resilient_llm._leg import Leg
    from resilient_llm.telemetry._sinks import OpenSinks

Version = Literal["1.41", "dev"]
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURES = ("span_only", "span_and_event", "true")  # the last from before v1.37; events alone are not sent here
_API = ("opentelemetry.trace", "opentelemetry.metrics")
_SET = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")  # makes a provider without an import


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a client puts into traces and metrics, beyond what it always does.

    Args:
        content: prompts, answers and tool definitions on the span of the call. Default: what the variable
            `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says (`SPAN_ONLY`, `SPAN_AND_EVENT`), else no. Never
            for a call that is `local_only`, by whatever way: where the spans go is not known here.
        propagate_to: hosts that may be told of a trace (`traceparent`), beside those of this machine. `baggage` is
            sent to nobody.
        metric_tags: the words of `tags=` that may become a label of metrics. Each adds series.
        conventions: whose names are used, `1.41` or `dev`: the GenAI conventions' last version with a tag, or what they
            have become since.

    Raises:
        ConfigError: a value has no meaning; the message names it.
    """

    content: bool | None = None
    propagate_to: Sequence[str] = ()
    metric_tags: Sequence[str] = ()
    conventions: Version = "1.41"

    def __post_init__(self) -> None:
        if self.conventions not in get_args(Version):
            raise ConfigError(f"conventions: {self.conventions!r} is not one of {', '.join(get_args(Version))}")
        for name in ("propagate_to", "metric_tags"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(one, str) and one for one in value):
                raise ConfigError(f"{name}: a list of strings is needed, not {value!r:.60}")
        for host in self.propagate_to:
            if "/" in host or "://" in host:
                raise ConfigError(f"propagate_to: {host!r:.60} is not a host; leave scheme, port and path out")

    @property
    def captures(self) -> bool:
        """Content is wanted."""
        return os.environ.get(CAPTURE, "").lower() in _CAPTURES if self.content is None else self.content


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
        self.options, self._clock = options or Telemetry(), clock
        self._given = tracer_provider, meter_provider
        self._asked_for = self._given != (None, None) or any(name in os.environ for name in _SET)
        self._api: tuple[Callable[[], Any], Callable[[], Any]] | None = None
        self._seen: tuple[Any, Any] | None = None
        self._sinks: OpenSinks | None = None
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
        """Where traces and metrics go now; `None` while both are the API's own, which do nothing."""
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

                self._sinks = OpenSinks(self.options, tracers, meters, self.legs, self._clock, counts=counts)
        return self._sinks

    def around(self, tell: Tell | None) -> Tell:
        """What the routes tell: it is logged and counted, then passed on."""
        from resilient_llm import _log  # it takes its names from this package

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


@contextmanager
def execute_tool(
    call: ToolCall, *, content: bool | None = None, tracer_provider: TracerProvider | None = None
) -> Iterator[Span | None]:
    """The span of a tool that runs, in the terms of the GenAI conventions: `execute_tool get_weather`.

        for call in reply.tool_calls:
            with execute_tool(call):
                results.append(tools[call.name](**call.arguments))

    It stands beside the span of the call that asked for the tool, below whatever span is current. What is raised in
    the block is noted by its class alone and raised.

    Args:
        call: what the model asked for.
        content: its arguments too. Default: as for `Telemetry`.
        tracer_provider: in place of the global one.
    """
    if tracer_provider is None and _API[0] not in sys.modules:
        yield None
        return
    from opentelemetry import trace

    tracer = (tracer_provider or trace.get_tracer_provider()).get_tracer(names.SCOPE)
    attributes = {names.OPERATION: "execute_tool", names.TOOL_NAME: call.name, names.TOOL_TYPE: "function"}
    if call.id:
        attributes[names.TOOL_CALL_ID] = call.id
    if Telemetry(content).captures:
        from resilient_llm.telemetry._content import dumps

        attributes[names.TOOL_ARGUMENTS] = dumps(call.arguments)
    with tracer.start_as_current_span(
        f"execute_tool {call.name}", attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            kind = type(error).__name__
            span.set_attribute(names.ERROR_TYPE, kind if isinstance(error, Exception) else names.CANCELLED)
            if isinstance(error, Exception):
                span.set_status(trace.Status(trace.StatusCode.ERROR, kind))
            raise
