"""The span of a tool, which the application runs and not this library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resilient_llm._types import ToolCall
from resilient_llm._zones import ambient_limit
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry._options import Telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider


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
        content: its arguments too. Default: as for `Telemetry`; within `with local_only():` never. Of a call that was
            `local_only` in another way nothing is known here: say `False` for its tools.
        tracer_provider: in place of the global one.
    """
    if tracer_provider is None and "opentelemetry.trace" not in sys.modules:
        yield None
        return
    from opentelemetry import trace

    tracer = (tracer_provider or trace.get_tracer_provider()).get_tracer(names.SCOPE)
    attributes = {names.OPERATION: "execute_tool", names.TOOL_NAME: call.name, names.TOOL_TYPE: "function"}
    if call.id:
        attributes[names.TOOL_CALL_ID] = call.id
    if Telemetry(content).captures and ambient_limit() is None:
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
