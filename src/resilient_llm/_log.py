"""The log, for people without traces: a line for each call that was rescued or lost, and for a breaker that moves on.

Rules of the file: a line holds no word of a prompt, an answer or a key. What it says is also in the record's fields,
under the names that traces have for it. Nothing is printed unless the application sets logging up. The table of names
is loaded with the first line: a program whose calls go well never needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from resilient_llm._errors import LLMError
from resilient_llm._replies import Attempt, describe

log = logging.getLogger("resilient_llm")
log.addHandler(logging.NullHandler())  # or Python would print warnings of an application that has no logging


def call_ended(kind: str, attempts: Sequence[Attempt], failure: LLMError | None) -> None:
    """A call that did not go by itself: another attempt rescued it, or nothing did."""
    from resilient_llm.telemetry import _semconv as names

    fields: dict[str, object] = {names.OPERATION: names.OPERATIONS[kind], names.ATTEMPTS: len(attempts)}
    if failure is None:
        fields[names.ROUTE] = attempts[-1].route
        log.warning("%s rescued: %s", kind, describe(attempts), extra=fields)
        return
    fields[names.ERROR_TYPE] = names.error_type(failure)
    log.warning("%s lost: %s: %s", kind, type(failure).__name__, describe(attempts), extra=fields)


def breaker_changed(route: str, before: str, after: str, reason: str) -> None:
    """The breaker of this route has moved on."""
    from resilient_llm.telemetry import _semconv as names

    fields = {names.BREAKER: route, names.BREAKER_FROM: before, names.BREAKER_TO: after, names.REASON: reason}
    level = logging.WARNING if after == "open" else logging.INFO
    log.log(level, "circuit breaker of %s: %s to %s: %s", route, before, after, reason, extra=fields)
