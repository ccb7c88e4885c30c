"""One call in a trace: a span of the call, which carries all of `gen_ai.*`, and below it one for each attempt.

They are driven by the events of a client (`_events`) and by one step of the engine, `attempt`, between admission and
sending. A span is current only while the engine awaits within an attempt, so that a logger or an instrumented HTTP
client of the user's finds it there, never while a stream waits for its reader.

Rules of the file:
  1. A span ends once, with the event that tells of the end. What a finaliser tells is put down and done later: to end a
     span takes locks of the SDK, and the garbage collector may run while this very thread holds one of them.
  2. Attributes are gathered and given at the end, in one step. Nothing is done for a token.
  3. Instants are those of the client's clock, put onto the wall clock once for each call, so that durations of spans
     and of metrics are the same and a step of the wall clock moves none of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from resilient_llm._errors import ContextOverflow
from resilient_llm._events import (
    AnswerDegraded,
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    ClientEvent,
    FellBack,
    FirstToken,
    PromptTrimmed,
    RetryPlanned,
)
from resilient_llm._replies import Attempt
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry import _semconv_metrics as metrics
from resilient_llm.telemetry import _summary as summary
from resilient_llm.telemetry._metrics import Ended
from resilient_llm.telemetry._sent import LATER, Sent, Sinks
from resilient_llm.telemetry._targets import Target

if TYPE_CHECKING:
    from resilient_llm._call import Call
    from resilient_llm._run import Run

log = logging.getLogger("resilient_llm")


class CallTrace:
    """One call."""

    __slots__ = (
        "_asked", "_begun", "_call", "_context", "_events", "_first", "_kind", "_limit", "_queued", "_quiet",
        "_requests", "_run", "_sent", "_sinks", "_span", "_tell", "_usage", "_waited", "_wall",
    )  # fmt: skip

    def __init__(self, sinks: Sinks, call: Call, parent: Context, *, quiet: bool) -> None:
        self._sinks, self._call, self._context, self._quiet = sinks, call, parent, quiet
        self._tell = call.tell
        self._span: Span = trace.INVALID_SPAN
        self._begun = next(iter(sinks.targets.values()))
        self._asked: Target | None = None
        self._run: Run | None = None
        self._sent: Sent | None = None
        self._first: float | None = None
        self._events = self._requests = 0
        self._queued = self._waited = 0.0
        self._usage = summary.NOTHING
        call.trace, call.tell = self, self.hear

    def hear(self, event: ClientEvent) -> None:
        """Takes in what the client tells, and passes it on to the user's listeners."""
        if getattr(event, "outcome", None) == "left":
            LATER.waiting.append((self, event))  # this may be a finaliser
        else:
            LATER.settle()
            self.take(event)
        if self._tell is not None:
            self._tell(event)

    def take(self, event: ClientEvent) -> None:
        """Takes it in. What goes wrong in here is no matter of the call's."""
        step = _STEPS.get(type(event))
        if step is not None:
            try:
                step(self, event)
            except Exception as error:  # noqa: BLE001  # the SDK is somebody else's code
                log.warning("telemetry: %s on %s", type(error).__name__, type(event).__name__)

    def attempt(self, run: Run) -> Sent | None:
        """A request goes out now; `leave` what this gives."""
        try:
            return self._send(run)
        except Exception as error:  # noqa: BLE001  # the SDK is somebody else's code
            log.warning("telemetry: %s on an attempt", type(error).__name__)
            return None

    def _send(self, run: Run) -> Sent:
        target, number = self._sinks.targets[run.leg.name], run.number
        attributes: dict[str, Any] = {
            names.NUMBER: number, names.KIND: run.kind, names.TARGET: target.name, names.ROUTE: run.leg.name,
            **target.where,
        }  # fmt: skip
        if self._requests:
            attributes[names.RESEND] = self._requests
        self._requests += 1
        if run.queue > 0:
            self._queued += run.queue
            self._note(names.QUEUED.name, {names.NUMBER: number, names.SECONDS: run.queue})
            labels = {names.ROUTE: run.leg.name, **target.limiter}
            self._sinks.instruments.record(metrics.QUEUE_DURATION, run.queue, labels)
        self._tell_news(target)
        if self._first is not None and self._kind == "stream":
            self._note(names.RESTARTED.name, summary.of_restart(self._call.attempts))
        self._first = None
        begun = self._at(run.begun + run.queue - self._call.started)
        span = self._sinks.attempts.start_span(
            f"attempt {target.name}", self._context, SpanKind.CLIENT, attributes, start_time=begun
        )
        self._run, self._sent = run, Sent(number, target, span, self._context)
        run.watch.trace = sent = self._sent
        target.active.add(sent)
        return sent

    def current(self) -> Callable[[], None]:
        """Makes the span of the call current, for one log line; gives what ends that."""
        token = context.attach(self._context)
        return lambda: context.detach(token)

    def settle(self) -> None:
        """What was left for later is done now."""
        LATER.settle()

    def _at(self, seconds: float) -> int:
        return self._wall + int(seconds * 1e9)

    def _now(self) -> int:
        return self._at(self._call.clock() - self._call.started)

    def _note(self, name: str, attributes: dict[str, Any]) -> None:
        self._events += 1
        if self._events <= names.MAX_EVENTS and self._span.is_recording():
            self._span.add_event(name, attributes, self._now())

    def _tell_news(self, target: Target) -> None:
        """What the breaker of this route has just done, which is told in the same step as what made it do so."""
        while target.news:
            self._note(names.TRANSITION.name, summary.of_transition(target.news.popleft()))

    def _begin(self, event: CallStarted) -> None:
        self._wall, self._kind = time_ns(), event.kind
        deadline = self._call.deadline
        self._limit = deadline.at - self._call.started if deadline.first_by == deadline.at < math.inf else None
        if self._quiet:
            return
        target = self._begun
        operation = names.OPERATIONS[event.kind]
        attributes = {names.OPERATION: operation, **target.served}
        parent = self._context
        self._span = self._sinks.calls.start_span(
            f"{operation} {target.leg.model}", parent, SpanKind.CLIENT, attributes, start_time=self._wall
        )
        self._context = trace.set_span_in_context(self._span, parent)

    def _route(self, event: AttemptStarted) -> None:
        if self._asked is None:
            self._asked = self._sinks.targets[event.route]

    def _first_token(self, event: FirstToken) -> None:
        self._first = event.seconds
        if self._sent is not None:
            if self._sent.span.is_recording():
                self._sent.span.add_event(names.FIRST_TOKEN.name, timestamp=self._at(event.seconds))
            self._tell_news(self._sent.target)

    def _attempt_ended(self, event: AttemptEnded) -> None:
        record, sent = event.attempt, self._sent
        if sent is None or sent.number != record.number:
            self._refused(record)
            return
        self._sent = None
        target = sent.target
        target.active.discard(sent)
        self._tell_news(target)
        outcome = summary.ENDED[event.outcome]
        if sent.span.is_recording():
            sent.span.set_attributes(summary.of_attempt(sent, record, outcome))
            if record.error is not None:
                sent.span.set_status(Status(StatusCode.ERROR, summary.words(record.error)))
        sent.span.end(self._at(record.started + record.total))
        labels = {**target.labels, names.KIND: record.kind, names.ATTEMPT_OUTCOME: outcome}
        if outcome in ("failed", "cancelled"):
            labels[names.ERROR_TYPE] = names.CANCELLED if record.error is None else names.error_type(record.error)
        tell = self._sinks.instruments.record
        tell(metrics.ATTEMPT_DURATION, record.total - record.queue, labels)
        if event.outcome == "ok":
            self._usage = record.usage if self._usage is summary.NOTHING else self._usage + record.usage
            return
        for kind, tokens in (("input", record.usage.input_tokens), ("output", record.usage.output_tokens)):
            if tokens:
                tell(metrics.DISCARDED, tokens, {**target.labels, names.TOKEN_TYPE: kind, names.REASON: outcome})

    def _refused(self, record: Attempt) -> None:
        """Nothing was sent."""
        if record.error is None:
            return  # cancelled in the queue
        denied = isinstance(record.error, ContextOverflow)
        labels, more = summary.of_refusal(record)
        self._sinks.instruments.record(metrics.GUARD_DECISIONS if denied else metrics.REJECTIONS, 1, labels)
        self._note((names.GUARD if denied else names.REJECTED).name, labels | more)

    def _retry(self, event: RetryPlanned) -> None:
        self._waited += event.wait
        attributes = summary.of_retry(event, len(self._call.attempts) + 1)
        labels = {**self._sinks.targets[event.route].labels, names.ERROR_TYPE: attributes[names.ERROR_TYPE]}
        self._sinks.instruments.record(metrics.RETRIES, 1, labels)
        self._note(names.RETRY.name, attributes)

    def _fallback(self, event: FellBack) -> None:
        kind = names.error_type(event.error)
        attributes = {names.FELL_FROM: event.before, names.FELL_TO: event.after, names.ERROR_TYPE: kind}
        self._sinks.instruments.record(metrics.FALLBACKS, 1, attributes)
        self._note(names.FALLBACK.name, attributes)

    def _trimmed(self, event: PromptTrimmed) -> None:
        labels: dict[str, Any] = {names.ROUTE: event.route, names.GUARD_VERDICT: "modify"}
        self._sinks.instruments.record(metrics.GUARD_DECISIONS, 1, labels)
        self._note(names.GUARD.name, {**labels, names.MESSAGES: event.messages, names.MESSAGES_LEFT: event.left})

    def _degraded(self, event: AnswerDegraded) -> None:
        for how in event.degraded:
            labels = {names.ROUTE: event.route, names.REASON: how}
            self._sinks.instruments.record(metrics.DEGRADATIONS, 1, labels)

    def _end(self, event: CallEnded) -> None:
        call, run, sinks = self._call, self._run, self._sinks
        outcome, depth = summary.outcome_of(event, self._requests)
        served = sinks.targets[event.route] if event.route is not None else self._asked
        target = served or self._begun
        model = None if run is None or event.route is None else summary.model_of(run, whole=event.outcome == "ok")
        if self._span.is_recording():
            self._describe(event, target, outcome, depth)
        self._span.end(self._at(event.seconds))
        sinks.instruments.ended(
            Ended(event, self._kind, target, self._usage, model, self._first, self._waited),
            number=call.number, tags=[tag for tag in sinks.metric_tags if tag in call.request.tags],
            counts=not self._quiet, span=self._span,
        )  # fmt: skip
        self._call = self._run = None  # type: ignore[assignment]  # or call and trace would keep each other alive

    def _describe(self, event: CallEnded, target: Target, outcome: str, depth: int) -> None:
        """Everything that is known of the call, on its span."""
        call, run, span, asked = self._call, self._run, self._span, self._asked or target
        found: dict[str, Any] = {
            names.ASKED_MODEL: asked.name, names.OUTCOME: outcome, names.ATTEMPTS: self._requests,
            **summary.of_request(call, stream=self._kind == "stream"),
        }  # fmt: skip
        if run is not None and event.route is not None:
            whole = event.outcome == "ok"
            found |= summary.of_answer(run, call, first=self._first, seconds=event.seconds, whole=whole)
        if target is not self._begun:
            found |= target.served
            span.update_name(f"{names.OPERATIONS[self._kind]} {target.leg.model}")
        if event.route is not None:
            found[names.ROUTE] = event.route
            found |= summary.of_usage(self._usage)
        if len(self._sinks.targets) > 1:
            found[names.FALLBACK_USED], found[names.FALLBACK_DEPTH] = depth > 0, depth
        if self._kind == "stream" and self._first is not None:
            found[names.FIRST_CHUNK] = self._first
        for key, value in ((names.QUEUE_WAIT, self._queued), (names.RETRY_TOTAL, self._waited)):
            if value > 0:
                found[key] = value
        for key, given in baggage.get_all(self._context).items():
            if key in (names.CONVERSATION, names.AGENT) and isinstance(given, str):
                found.setdefault(key, given)
        if self._limit is not None:
            found[names.DEADLINE], found[names.DEADLINE_LEFT] = self._limit, self._limit - event.seconds
        if self._sinks.content:
            found |= summary.of_content(call, run, whole=event.outcome == "ok")
        if event.error is not None:
            found[names.ERROR_TYPE] = names.error_type(event.error)
            span.add_event("exception", summary.of_exception(event.error), self._at(event.seconds))
            span.set_status(Status(StatusCode.ERROR, summary.words(event.error)))
        elif event.outcome == "cancelled":
            found[names.ERROR_TYPE] = names.CANCELLED
        span.set_attributes(found)


_STEPS: dict[type, Callable[[CallTrace, Any], None]] = {
    CallStarted: CallTrace._begin, AttemptStarted: CallTrace._route, FirstToken: CallTrace._first_token,
    AttemptEnded: CallTrace._attempt_ended, RetryPlanned: CallTrace._retry, FellBack: CallTrace._fallback,
    PromptTrimmed: CallTrace._trimmed, AnswerDegraded: CallTrace._degraded, CallEnded: CallTrace._end,
}  # fmt: skip
