"""What the tests of telemetry share: an SDK in memory, and what must hold of every call that it saw."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from opentelemetry import context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.engine import kit as engine

from resilient_llm import AsyncClient
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry import _semconv_metrics as metrics
from resilient_llm.telemetry._semconv import NAMES

METRICS = {metric.name: metric for metric in (*metrics.CONVENTIONS["1.41"], *metrics.METRICS)}
CONTENT = {names.INPUT_MESSAGES, names.OUTPUT_MESSAGES, names.TOOL_DEFINITIONS}


class Started(SpanProcessor):
    """Counts the spans that begin."""

    count = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.count += 1


class Complaints(logging.Handler):
    """What the SDK says of those who use it wrongly: it swallows a second end, and values that are none."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Otel:
    """Providers of an SDK, and what came out of them."""

    def __init__(self, **options: Any) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.started, self.complaints = Started(), Complaints()
        logging.getLogger("opentelemetry").addHandler(self.complaints)
        self.tracer_provider = TracerProvider(shutdown_on_exit=False, **options)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer_provider.add_span_processor(self.started)
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def client(self, *routes: Any, **options: Any) -> AsyncClient:
        """A client on the loop's own clock, which tells this SDK."""
        return engine.client(*routes, **self.providers, **options)

    @property
    def providers(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    @property
    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans if is_call(span)]

    @property
    def call(self) -> ReadableSpan:
        (span,) = self.calls
        return span

    def attempts(self, call: ReadableSpan | None = None) -> list[ReadableSpan]:
        call = call or self.call
        return [one for one in self.spans if one.parent is not None and one.parent.span_id == call.context.span_id]

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def value(self, name: str, **labels: Any) -> float:
        """The sum of a metric over the points with these labels, whose dots are `__`."""
        wanted = {key.replace("__", "."): value for key, value in labels.items()}
        found = [one for one in self.points(name) if wanted.items() <= dict(one.attributes).items()]
        return sum(one.value if hasattr(one, "value") else one.sum for one in found)

    def names(self) -> dict[str, set[str]]:
        """The labels of every metric that has a point."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: {key for point in metric.data.data_points for key in point.attributes}
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def close(self) -> None:
        logging.getLogger("opentelemetry").removeHandler(self.complaints)
        self.tracer_provider.shutdown()
        with contextlib.suppress(Exception):  # it was closed by the test
            self.meter_provider.shutdown()


def is_call(span: ReadableSpan) -> bool:
    return span.instrumentation_scope is not None and span.instrumentation_scope.name == names.SCOPE


def seconds(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def events(span: ReadableSpan) -> list[str]:
    return [event.name.removeprefix("resilient_llm.") for event in span.events]


def check(otel: Otel, calls: int | None = None, *, content: bool = False) -> None:
    """What must hold, whatever happened: each call is one call, with what was tried below it, and nothing too much.

    Args:
        calls: so many there were.
        content: it was asked for.
    """
    assert not context.get_current(), "something was left in the context"
    calls = len(otel.calls) if calls is None else calls
    assert len(otel.calls) == calls
    assert otel.complaints.lines == [], "a span ended twice, or was given what is no value"
    assert otel.started.count == len(otel.spans), "a span has no end"
    attempts = [one for one in otel.spans if not is_call(one)]
    below = {one.context.span_id for one in otel.spans}  # a client within another's attempt has no call of its own
    assert all(one.parent is not None and one.parent.span_id in below for one in attempts)
    for call in otel.calls:
        _check_call(call, otel.attempts(call))
        assert content or not CONTENT & of(call).keys()
    for attempt in attempts:
        _check_attempt(attempt)
    for name, labels in otel.names().items():
        assert labels <= set(METRICS[name].labels), name
    assert otel.value("resilient_llm.active_requests") == 0
    durations = sum(one.sum for one in otel.points("gen_ai.client.operation.duration"))
    assert abs(durations - sum(map(seconds, otel.calls))) <= 1e-3 * calls


def _check_call(call: ReadableSpan, attempts: list[ReadableSpan]) -> None:
    found = of(call)
    assert call.kind is SpanKind.CLIENT
    for key in found:
        assert "call" in NAMES[key].on, key
    assert found[names.ATTEMPTS] == len(attempts)
    assert call.name == f"{found[names.OPERATION]} {found[names.REQUEST_MODEL]}"
    assert found[names.OUTCOME] in names.OUTCOMES
    good = found[names.OUTCOME] in ("success", "success_after_retry", "fallback")
    if good:
        assert call.status.status_code is StatusCode.UNSET
        assert names.ERROR_TYPE not in found
    assert (call.status.status_code is StatusCode.ERROR) == (found[names.OUTCOME] in ("failed", "rejected"))
    served = [of(one)[names.ATTEMPT_OUTCOME] for one in attempts].count("served")
    assert served == good or found[names.OPERATION] == "embeddings"  # which may be sent in parts
    numbers = [of(one)[names.NUMBER] for one in attempts]
    assert numbers == sorted(set(numbers))
    for one in attempts:
        assert (call.start_time or 0) <= (one.start_time or 0) <= (one.end_time or 0) <= (call.end_time or 0)
    known = {event.name: set(event.attributes) for event in names.EVENTS}
    for event in call.events:
        if event.name != "exception":
            assert set(event.attributes or {}) <= known[event.name]


def _check_attempt(attempt: ReadableSpan) -> None:
    found = of(attempt)
    assert attempt.kind is SpanKind.CLIENT
    assert not any(key.startswith("gen_ai.") for key in found)
    for key in found:
        assert "attempt" in NAMES[key].on, key
    assert (attempt.status.status_code is StatusCode.ERROR) == (found[names.ATTEMPT_OUTCOME] == "failed")
    assert (names.ERROR_TYPE in found) == (found[names.ATTEMPT_OUTCOME] in ("failed", "cancelled"))
    assert not set("?@#") & set(found.get(names.URL, ""))
