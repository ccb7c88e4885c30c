"""What a request on the wire has to do with a trace, and where the traces of a client go."""

from __future__ import annotations

import atexit
from collections import deque
from typing import TYPE_CHECKING, Protocol

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from resilient_llm._events import ClientEvent
from resilient_llm._fork import forgets
from resilient_llm.telemetry._metrics import Instruments
from resilient_llm.telemetry._targets import Target

if TYPE_CHECKING:
    from resilient_llm.telemetry._spans import CallTrace

_TRACEPARENT = TraceContextTextMapPropagator()
# An instrumented HTTP client below us would tell of the same request once more. The first is no public name.
_QUIET_BELOW = {
    key: True
    for key in (getattr(context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", ""), "suppress_language_model_instrumentation")
    if key
}


class Sinks(Protocol):
    """Where the traces of one client go."""

    calls: Tracer
    attempts: Tracer
    instruments: Instruments
    targets: dict[str, Target]
    content: bool
    metric_tags: tuple[str, ...]


class Later:
    """What may be done outside of the garbage collector alone, of all clients.

    It is done on the event loop of the stream, or with the next call of any client if that loop is gone, and at the
    latest when the program ends, before the providers of the SDK end, which were there first.
    """

    def __init__(self) -> None:
        self.waiting: deque[tuple[CallTrace, ClientEvent]] = deque()
        forgets(self)
        atexit.register(self.settle)

    def settle(self) -> None:
        """Does it now."""
        while self.waiting:
            try:
                trace, event = self.waiting.popleft()
            except IndexError:
                return  # another thread was here
            trace.take(event)

    def after_fork(self) -> None:
        """The parent tells it."""
        self.waiting.clear()


LATER = Later()


class Sent:
    """One request on the wire, as the `Watch` of its attempt carries it: `method`, `url` and the rest are told to it.

    Attributes:
        headers: to be sent with it.
    """

    __slots__ = ("_token", "context", "headers", "method", "number", "request_id", "span", "status", "target", "url")

    def __init__(self, number: int, target: Target, span: Span, parent: Context) -> None:
        self.number, self.target, self.span = number, target, span
        self.method = "POST"
        self.url: str | None = None
        self.status: int | None = None
        self.request_id: str | None = None
        current = trace.set_span_in_context(span, parent)
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        if target.propagates:
            carrier: dict[str, str] = {}
            _TRACEPARENT.inject(carrier, current)
            self.headers = tuple((name.encode(), value.encode()) for name, value in carrier.items())
        self.context = Context({**current, **_QUIET_BELOW})
        self._token = context.attach(self.context)

    def leave(self) -> None:
        """It is not current any more. In the same task as it was made."""
        context.detach(self._token)
