"""Traces and metrics in OpenTelemetry's terms: what can be said about them, and the span of a tool.

Nothing has to be set up here: an application that gives OpenTelemetry a provider has the traces of its calls. The names
of all spans, attributes and metrics stand on the page `docs/telemetry-names.md`.
"""

from resilient_llm.telemetry._options import Telemetry
from resilient_llm.telemetry._tool import execute_tool

__all__ = ["Telemetry", "execute_tool"]
