"""The instruments: made once for each provider of meters, shared by all clients, and what is observed at a scrape.

OpenTelemetry cannot take a callback back, so a gauge asks whichever clients are still alive. Values of several clients
under one label are added up, or a second client of the same routes would hide the first.

The SDK takes 9 µs for a value, and a plain call has four: they are put down, and passed on when the SDK collects, which
begins with the gauges. That is the same work, but not in the way of the event loop.

Rules of the file: nothing here is called for a token; a label comes from `_semconv_metrics` or is not recorded.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context

from resilient_llm._events import CallEnded, CallKind
from resilient_llm._replies import Usage
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry import _semconv_metrics as metrics
from resilient_llm.telemetry._semconv_metrics import Convention, Metric
from resilient_llm.telemetry._targets import Target

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanContext

log = logging.getLogger("resilient_llm")
Labels = dict[str, str]
MOST, PORTION = 4096, 16  # values that are put down at most; from then on so many are passed on at a time, in 0.15 ms
OVERHEAD_OF = 16  # one call in so many tells its overhead: to record it costs a tenth of what is measured
_NOWHERE = Context()
_MAKING = threading.Lock()
_MADE: weakref.WeakKeyDictionary[Any, dict[str, Instruments]] = weakref.WeakKeyDictionary()
_LOOK: dict[str, Callable[[Target], list[tuple[Labels, float]]]] = {
    metrics.QUEUE_SIZE.name: lambda one: [(one.limiter, one.leg.bulkhead.snapshot().queued)],
    metrics.LIMIT.name: lambda one: [(one.limiter, one.leg.bulkhead.snapshot().slots or 0)],
    metrics.ACTIVE.name: lambda one: [(one.labels, len(one.active))],
    metrics.BREAKER_STATES.name: Target.states,
}


@dataclass(slots=True)
class Ended:
    """A call that is over, as the metrics see it.

    Attributes:
        model: as the server named it.
        first: seconds to the first token.
        waited: seconds between attempts.
    """

    event: CallEnded
    kind: CallKind
    target: Target
    usage: Usage
    model: str | None
    first: float | None
    waited: float


class Instruments:
    """All instruments of one provider of meters, in the names of one version of the conventions."""

    def __init__(self, meter: Meter, convention: Convention, *, counts: bool) -> None:
        self.convention, self._counts = convention, counts
        self._waiting: deque[tuple[Callable[..., None], float, Mapping[str, Any], SpanContext | None]] = deque()
        # No WeakSet: a thread that scrapes must get through it in one step, while another makes a client.
        self._routes: set[weakref.ref[Target]] = set()
        self._record: dict[str, Callable[..., None]] = {}
        for metric in (*convention, *metrics.METRICS):
            name, unit, when = metric.name, metric.unit, metric.when
            if metric.instrument == "histogram":
                made = meter.create_histogram(
                    name, unit, when, explicit_bucket_boundaries_advisory=list(metric.buckets)
                )
                self._record[name] = made.record
            elif metric.instrument == "counter":
                self._record[name] = meter.create_counter(name, unit, when).add
            elif metric.instrument == "gauge":
                meter.create_observable_gauge(name, [self._observer(metric)], unit, when)
            else:
                meter.create_observable_up_down_counter(name, [self._observer(metric)], unit, when)

    def follow(self, route: Target) -> None:
        """The gauges ask it, too, as long as it lives."""
        self._routes.add(weakref.ref(route, self._routes.discard))

    def record(self, metric: Metric, value: float, labels: Mapping[str, Any], span: SpanContext | None = None) -> None:
        """Takes a value in. `span` leads from an exemplar to its trace."""
        self.put_down(metric, value, labels, span)
        if len(self._waiting) >= MOST:
            self._pass_on(PORTION)

    def put_down(
        self, metric: Metric, value: float, labels: Mapping[str, Any], span: SpanContext | None = None
    ) -> None:
        """The same without a step into the SDK, whose locks a finaliser must not take."""
        if self._counts:
            self._waiting.append((self._record[metric.name], value, labels, span))

    def _pass_on(self, most: int) -> None:
        """Gives the SDK what was taken in, the first first."""
        waiting = self._waiting
        for _ in range(most):
            try:
                record, value, labels, span = waiting.popleft()
            except IndexError:
                return  # there is no more, or another thread was here
            try:
                # The place of the span alone: what is put down must not keep the prompts that stand on it.
                place = None if span is None else trace.set_span_in_context(trace.NonRecordingSpan(span), _NOWHERE)
                record(value, labels, place)
            except Exception as error:  # noqa: BLE001  # the SDK is somebody else's code
                log.warning("telemetry: %s on a metric", type(error).__name__)

    def ended(self, call: Ended, *, number: int, tags: Sequence[str], counts: bool, span: Span) -> None:
        """The metrics of the client's call of this `number`; the conventions' own only if nobody above counts it."""
        event, tell = call.event, self.record
        operation = names.OPERATIONS[call.kind]
        if call.waited:
            tell(metrics.RETRY_DELAY, call.waited, {names.PROVIDER: call.target.served[names.PROVIDER]})
        if number % OVERHEAD_OF == 1:
            spent = sum(one.total for one in event.attempts) + call.waited
            tell(metrics.OVERHEAD, max(event.seconds - spent, 0.0), {names.OPERATION: operation})
        if not counts:
            return
        labels: dict[str, Any] = {names.OPERATION: operation, **call.target.served}
        if call.model is not None:
            labels[names.RESPONSE_MODEL] = call.target.model_label(call.model)
        if tags:
            labels[names.TAG] = ",".join(tags)
        if event.outcome == "ok":
            self._tokens(call.usage, labels)
            if call.kind == "stream" and call.first is not None:
                tell(self.convention.first_chunk, call.first, labels)
        elif event.error is not None or event.outcome == "cancelled":
            labels[names.ERROR_TYPE] = names.error_type(event.error) if event.error is not None else names.CANCELLED
        convention = self.convention
        duration = convention.embed_duration if call.kind == "embed" else convention.chat_duration
        tell(duration, event.seconds, labels, span.get_span_context())

    def _tokens(self, usage: Usage, labels: Mapping[str, Any]) -> None:
        convention = self.convention
        for kind, metric, tokens in (
            ("input", convention.input_tokens, usage.input_tokens),
            ("output", convention.output_tokens, usage.output_tokens),
        ):
            if tokens is not None:
                more = {names.TOKEN_TYPE: kind} if convention.typed_tokens else {names.MODALITY: "unknown"}
                self.record(metric, tokens, {**labels, **more})

    def _observer(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            from opentelemetry.metrics import Observation

            del options
            self._pass_on(len(self._waiting))
            return [Observation(value, dict(key)) for key, value in self._sums(metric).items()]

        return observe

    def _sums(self, metric: Metric) -> dict[tuple[tuple[str, str], ...], float]:
        """What all routes say now; of a queue that several of them share only once."""
        look = _LOOK[metric.name]
        sums: dict[tuple[tuple[str, str], ...], float] = {}
        queues: set[int] = set()
        for one in [route for known in list(self._routes) if (route := known()) is not None]:
            if metric in (metrics.QUEUE_SIZE, metrics.LIMIT):
                if id(one.leg.bulkhead) in queues:
                    continue
                queues.add(id(one.leg.bulkhead))
            try:
                found = look(one)
            except Exception:  # noqa: BLE001, S112  # the clock of a client may belong to the event loop of another thread
                continue
            for labels, value in found:
                key = tuple(labels.items())
                before = sums.get(key, 0.0)
                sums[key] = max(before, value) if metric is metrics.BREAKER_STATES else before + value
        return sums

    def __repr__(self) -> str:
        return f"Instruments({len(self._record)} recorded, {len(self._routes)} routes)"


def instruments(provider: MeterProvider, version: str, *, counts: bool) -> Instruments:
    """The instruments of this provider, if it `counts`; they are made when it is first asked for them."""
    with _MAKING:  # an instrument that is made twice counts twice
        made = _MADE.setdefault(provider, {})
        if version not in made:
            convention = metrics.CONVENTIONS[version]
            meter = provider.get_meter(names.SCOPE, schema_url=convention.schema_url)
            made[version] = Instruments(meter, convention, counts=counts)
        return made[version]
