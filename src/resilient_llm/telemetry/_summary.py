"""What a call and an attempt amounted to, as attributes. Pure: no span, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from resilient_llm._errors import ContextOverflow, LLMError
from resilient_llm._events import BreakerChanged, CallEnded, RetryPlanned
from resilient_llm._replies import Attempt, Usage
from resilient_llm._types import ChatRequest
from resilient_llm.telemetry import _content as content
from resilient_llm.telemetry import _semconv as names

if TYPE_CHECKING:
    from resilient_llm._call import Call
    from resilient_llm._run import Run


ENDED = {"ok": "served", "failed": "failed", "cancelled": "cancelled", "left": "abandoned"}  # of an attempt
NOTHING = Usage()


class Wire(Protocol):
    """What is known of a request on the wire."""

    method: str
    url: str | None
    status: int | None
    request_id: str | None


def words(error: LLMError) -> str:
    """The error in words, for the column that stacks have for it."""
    return f"{type(error).__name__}: {error}"


def of_exception(error: LLMError) -> dict[str, str]:
    """The event that stacks take for an exception; without a stack, whose place is the application's log."""
    return {"exception.type": type(error).__name__, "exception.message": str(error)}


def outcome_of(event: CallEnded, requests: int) -> tuple[str, int]:
    """How the call ended, and how many routes had failed before the one that served."""
    failed = {one.route for one in event.attempts if one.error is not None}
    depth = len(failed - {event.route})
    if event.outcome == "ok":
        return ("fallback" if depth else "success_after_retry" if failed else "success"), depth
    if event.outcome == "failed":
        return ("failed" if requests else "rejected"), max(len(failed) - 1, 0)
    return {"cancelled": "cancelled", "left": "abandoned"}[event.outcome], depth


def of_attempt(wire: Wire, record: Attempt, outcome: str) -> dict[str, Any]:
    """The attributes of an attempt that are known at its end."""
    error = record.error
    found: dict[str, Any] = {names.ATTEMPT_OUTCOME: outcome}
    if wire.url is not None:
        found[names.METHOD], found[names.URL] = wire.method, wire.url
    status = wire.status if error is None else error.status or wire.status
    optional = {
        names.STATUS: status,
        names.REQUEST_ID: wire.request_id or (error.request_id if error is not None else None),
        names.WAITED: record.queue or None,
        names.CONNECT: record.connect,
        names.LOAD: record.load,
        names.TTFT: record.first_token,
    }
    if error is not None:
        optional |= {names.ERROR_TYPE: names.error_type(error), names.RETRY_AFTER: error.retry_after}
    elif outcome == "cancelled":
        optional[names.ERROR_TYPE] = names.CANCELLED
    if outcome != "served":
        optional |= {names.LOST_INPUT: record.usage.input_tokens, names.LOST_OUTPUT: record.usage.output_tokens}
    found.update((key, value) for key, value in optional.items() if value is not None)
    return found


def of_refusal(record: Attempt) -> tuple[dict[str, Any], dict[str, Any]]:
    """A route that refused: what its metric is labelled with, and what its event says beside that."""
    error, route = record.error, record.route
    assert error is not None
    if isinstance(error, ContextOverflow):
        sizes = {names.TOKENS: error.tokens, names.TOKENS_ROOM: error.limit}
        known = {key: size for key, size in sizes.items() if size is not None}
        return {names.ROUTE: route, names.GUARD_VERDICT: "deny"}, known
    return {names.ROUTE: route, names.REASON: names.error_type(error)}, {names.NUMBER: record.number}


def of_retry(event: RetryPlanned, number: int) -> dict[str, Any]:
    """The same route is tried again."""
    source = "retry_after" if event.error.retry_after is not None else "backoff"
    kind = names.error_type(event.error)
    return {names.NUMBER: number, names.ERROR_TYPE: kind, names.DELAY: event.wait, names.SOURCE: source}


def of_restart(attempts: Sequence[Attempt]) -> dict[str, str]:
    """A stream begins anew: what broke it, which need not be what came last."""
    for one in reversed(attempts):
        if one.first_token is not None and one.error is not None:
            return {names.ERROR_TYPE: names.error_type(one.error)}
    return {}


def of_transition(change: BreakerChanged) -> dict[str, Any]:
    """A breaker has moved on."""
    before, after = change.before.replace("-", "_"), change.after.replace("-", "_")
    return {
        names.BREAKER: change.route, names.BREAKER_FROM: before, names.BREAKER_TO: after, names.REASON: change.reason
    }  # fmt: skip


def of_request(call: Call, *, stream: bool) -> dict[str, Any]:
    """What the caller asked for, without a word of it."""
    request = call.request
    found: dict[str, Any] = {}
    if call.zone is not None:
        found[names.LOCAL_ONLY] = call.zone
    if request.tags:
        found[names.TAGS] = request.tags
    if not isinstance(request, ChatRequest):
        return found
    optional = {
        names.STREAM: stream or None,
        names.MAX_TOKENS: request.max_tokens,
        names.TEMPERATURE: request.temperature,
        names.SEED: request.seed,
        names.STOP: request.stop or None,
        names.OUTPUT_TYPE: "json" if request.schema is not None else None,
        names.CONVERSATION: call.conversation,
    }
    found.update((key, value) for key, value in optional.items() if value is not None)
    for field, key in names.EXTRAS.items():
        value = request.extra.get(field)
        if isinstance(value, (int, float)):
            found[key] = value
    return found


def of_usage(usage: Usage) -> dict[str, int]:
    """The tokens, as far as they were counted."""
    counted = {
        names.INPUT_TOKENS: usage.input_tokens,
        names.OUTPUT_TOKENS: usage.output_tokens,
        names.CACHE_READ: usage.cached_tokens,
        names.REASONING_TOKENS: usage.reasoning_tokens,
    }
    return {key: count for key, count in counted.items() if count is not None}


def model_of(run: Run, *, whole: bool) -> str | None:
    """The model as the server named it; `None` of an answer that nobody has whole."""
    said = run.gathered.vectors or (run.gathered.done if whole else None)
    return None if said is None else said.model or run.leg.model


def of_answer(run: Run, call: Call, *, first: float | None, seconds: float, whole: bool) -> dict[str, Any]:
    """What the serving attempt gave, or had given when its reader left."""
    gathered, leg = run.gathered, run.leg
    if gathered.vectors is not None:
        return {
            names.RESPONSE_MODEL: model_of(run, whole=whole), names.DIMENSIONS: len(gathered.vectors.vectors[0])
        }  # fmt: skip
    found: dict[str, Any] = {names.CHUNKS: len(gathered.texts) + len(gathered.thoughts)}
    done = gathered.done
    if done is None or not whole:
        return found
    found[names.RESPONSE_MODEL] = model_of(run, whole=whole)
    found[names.FINISH_REASONS] = (done.finish_reason,)
    if done.response_id is not None:
        found[names.RESPONSE_ID] = done.response_id
    degraded = (*done.degraded, "restarted") if call.restarted else done.degraded
    if degraded:
        found[names.DEGRADED] = degraded
    tokens, spent = done.usage.output_tokens, seconds - (first if first is not None else seconds)
    if tokens is not None and tokens > 1 and spent > 0:
        found[names.OUTPUT_RATE] = (tokens - 1) / spent
    known = leg.served()
    served = {
        names.DIGEST: known.get("digest"),
        names.QUANTIZATION: known.get("quantization"),
        names.WINDOW: known.get("window"),
        names.FINGERPRINT: done.fingerprint,
    }
    found.update((key, value) for key, value in served.items() if value is not None)
    return found


def of_content(call: Call, run: Run | None, *, whole: bool) -> dict[str, str]:
    """Prompt and answer. Nothing of a call that is `local_only`: nobody knows here where the spans are sent."""
    request = call.request
    if call.zone is not None or not isinstance(request, ChatRequest):
        return {}
    found = content.asked(request)
    if run is not None and run.gathered.done is not None and whole:
        texts, thoughts, calls, done = run.gathered.texts, run.gathered.thoughts, run.gathered.calls, run.gathered.done
        found |= content.answered("".join(texts), "".join(thoughts), calls, done.finish_reason)
    return found
