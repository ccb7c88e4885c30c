"""Every metric: its name, instrument, unit, buckets, and the only labels that it may carry.

What has been renamed since the GenAI conventions v1.41 stands in `CONVENTIONS`, so that another version is a change of
data. Never two versions at once: that doubles the series.

Rules of the file: a label is a value of a closed list or of the configuration. Never an id, a URL, a number of an
attempt or a word of the user's, unless `Telemetry(metric_tags=…)` names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from resilient_llm.telemetry._semconv import (
    ADDRESS,
    ATTEMPT_OUTCOME,
    BREAKER,
    BREAKER_STATE,
    ERROR_TYPE,
    FELL_FROM,
    FELL_TO,
    GUARD_VERDICT,
    KIND,
    LIMITER,
    MODALITY,
    OPERATION,
    PORT,
    PROVIDER,
    REASON,
    REQUEST_MODEL,
    RESPONSE_MODEL,
    ROUTE,
    TAG,
    TOKEN_TYPE,
)

Instrument = Literal["histogram", "counter", "gauge", "updown"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, with every label that it may carry. `gauge` and `updown` are observed, not recorded."""

    name: str
    instrument: Instrument
    unit: str
    when: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


# The conventions' own, and one more for local models that take minutes.
DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84)
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
OVERHEADS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1, 1.0)
_SERVED = (OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL, ADDRESS, PORT)


@dataclass(frozen=True, slots=True)
class Convention:
    """The names of one version of the GenAI conventions, where versions differ."""

    schema_url: str
    chat_duration: Metric
    embed_duration: Metric
    first_chunk: Metric
    input_tokens: Metric
    output_tokens: Metric
    typed_tokens: bool  # one metric for both, told apart by `gen_ai.token.type`

    def __iter__(self) -> Iterator[Metric]:
        every = (self.chat_duration, self.embed_duration, self.first_chunk, self.input_tokens, self.output_tokens)
        return iter(dict.fromkeys(every))


def _duration(name: str, when: str, *labels: str) -> Metric:
    return Metric(name, "histogram", "s", when, (*_SERVED, *labels, TAG), DURATIONS)


_OPERATION = _duration("gen_ai.client.operation.duration", "each call, its whole length", ERROR_TYPE)
_USAGE = Metric(
    "gen_ai.client.token.usage", "histogram", "{token}", "each call whose tokens the server counted",
    (*_SERVED, TOKEN_TYPE, TAG), TOKEN_BUCKETS,
)  # fmt: skip


def _count(name: str) -> Metric:
    return Metric(name, "counter", "{token}", "each call whose tokens the server counted", (*_SERVED, MODALITY, TAG))


CONVENTIONS = {
    "1.41": Convention(
        "https://opentelemetry.io/schemas/1.41.0", _OPERATION, _OPERATION,
        _duration("gen_ai.client.operation.time_to_first_chunk", "each stream"), _USAGE, _USAGE, True,
    ),
    # open-telemetry/semantic-conventions-genai, untagged (#374, #521)
    "dev": Convention(
        "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev",
        _duration("gen_ai.client.inference.duration", "each chat, its whole length", ERROR_TYPE),
        _duration("gen_ai.client.embeddings.duration", "each embedding, its whole length", ERROR_TYPE),
        _duration("gen_ai.client.inference.time_to_first_chunk", "each stream"),
        _count("gen_ai.client.inference.usage.input_tokens"), _count("gen_ai.client.inference.usage.output_tokens"),
        False,
    ),
}  # fmt: skip


_ROUTE = (ROUTE, PROVIDER, REQUEST_MODEL)
ATTEMPT_DURATION = Metric(
    "resilient_llm.attempt.duration", "histogram", "s", "each request on the wire, without its queue",
    (*_ROUTE, KIND, ATTEMPT_OUTCOME, ERROR_TYPE), DURATIONS,
)  # fmt: skip
RETRIES = Metric("resilient_llm.retries", "counter", "{retry}", "the same route is tried again", (*_ROUTE, ERROR_TYPE))
FALLBACKS = Metric(
    "resilient_llm.fallbacks", "counter", "{fallback}", "another route is tried", (FELL_FROM, FELL_TO, ERROR_TYPE)
)
REJECTIONS = Metric("resilient_llm.rejections", "counter", "{request}", "a route refused", (ROUTE, REASON))
RETRY_DELAY = Metric(
    "resilient_llm.retry.delay",
    "histogram",
    "s",
    "calls with a wait between attempts: all of it",
    (PROVIDER,),
    DURATIONS,
)
QUEUE_DURATION = Metric(
    "resilient_llm.queue.duration", "histogram", "s", "attempts that waited for a slot", (ROUTE, LIMITER), DURATIONS
)
QUEUE_SIZE = Metric("resilient_llm.queue.size", "gauge", "{request}", "attempts that wait for a slot", (LIMITER,))
ACTIVE = Metric("resilient_llm.active_requests", "updown", "{request}", "requests on the wire", _ROUTE)
BREAKER_STATES = Metric(
    "resilient_llm.circuit_breaker.state", "gauge", "1", "1 for the state that it is in, 0 for the two others",
    (BREAKER, BREAKER_STATE),
)  # fmt: skip
TRANSITIONS = Metric(
    "resilient_llm.circuit_breaker.transitions", "counter", "{transition}", "by the new state", (BREAKER, BREAKER_STATE)
)
LIMIT = Metric("resilient_llm.concurrency.limit", "gauge", "{request}", "slots of an origin", (LIMITER,))
DISCARDED = Metric(
    "resilient_llm.discarded_tokens", "counter", "{token}", "tokens of attempts that did not serve, if counted",
    (*_ROUTE, TOKEN_TYPE, REASON),
)  # fmt: skip
GUARD_DECISIONS = Metric(
    "resilient_llm.guard.decisions",
    "counter",
    "{decision}",
    "prompts that were trimmed or refused",
    (ROUTE, GUARD_VERDICT),
)
DEGRADATIONS = Metric(
    "resilient_llm.degradations", "counter", "{answer}", "an answer is less than what was asked for: `degraded`",
    (ROUTE, REASON),
)  # fmt: skip
OVERHEAD = Metric(
    "resilient_llm.overhead.duration", "histogram", "s", "one call in 16: what is left of it beside attempts and waits",
    (OPERATION,), OVERHEADS,
)  # fmt: skip
METRICS = (
    ATTEMPT_DURATION, RETRIES, FALLBACKS, REJECTIONS, RETRY_DELAY, QUEUE_DURATION, QUEUE_SIZE, ACTIVE,
    BREAKER_STATES, TRANSITIONS, LIMIT, DISCARDED, GUARD_DECISIONS, DEGRADATIONS, OVERHEAD,
)  # fmt: skip
MODELS_OF_A_ROUTE = 8  # response models that a route's labels may name; servers also make names up
