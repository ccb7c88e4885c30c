"""Every name of the telemetry, in one table: spans, attributes, events, the words of `error.type`; metrics beside it.

The names of `gen_ai.*` are those of the OpenTelemetry GenAI conventions v1.41, the last ones with a tag. The page
`docs/telemetry-names.md` is made from this file and `_semconv_metrics.py`.

Rules of the file: a name is a constant, with its documentation beside it. No own name begins
with `gen_ai.`: stacks add unknown `gen_ai.usage.*` up and take any `gen_ai.request.model` for a call. No key is the
beginning of another (`a.b` and `a.b.c`) on one span: Phoenix makes a tree of them. No import of OpenTelemetry.
"""

from __future__ import annotations

from typing import NamedTuple

from resilient_llm import _errors as errors
from resilient_llm._errors import LLMError

SCOPE = "resilient_llm"  # the tracer of calls and tools, and the meter
ATTEMPTS_SCOPE = "resilient_llm.attempt"  # a tracer of their own, so that a sampler or a processor can leave them out
OPERATIONS = {"chat": "chat", "stream": "chat", "embed": "embeddings"}  # of the kinds of call
CANCELLED = "cancelled"
OTHER = "_OTHER"  # stands for every value that is not in a closed list


class Name(NamedTuple):
    """What a reader of a trace must know about the key of an attribute."""

    key: str
    on: tuple[str, ...]  # spans: `call`, `attempt`, `tool`; or `event`, `metric`, `log`
    kind: str
    when: str
    example: str


NAMES: dict[str, Name] = {}


def _name(key: str, on: str, kind: str, when: str, example: object = "") -> str:
    """The key, as a plain string: exporters copy and pickle what they get. Its documentation is put into `NAMES`."""
    NAMES[key] = Name(key, tuple(on.split()), kind, when, str(example))
    return key


# What the call is.
OPERATION = _name("gen_ai.operation.name", "call tool metric", "string", "always", "chat")
PROVIDER = _name("gen_ai.provider.name", "call metric", "string", "always; at the end the one that served", "ollama")
REQUEST_MODEL = _name(
    "gen_ai.request.model", "call metric", "string", "always; at the end the one that served: its price is taken",
    "qwen3:8b",
)  # fmt: skip
ADDRESS = _name("server.address", "call attempt metric", "string", "where the route has an address", "127.0.0.1")
PORT = _name("server.port", "call attempt metric", "int", "with `server.address`", 11434)
STREAM = _name("gen_ai.request.stream", "call", "boolean", "only where the caller streams", "true")
MAX_TOKENS = _name("gen_ai.request.max_tokens", "call", "int", "if the caller set it", 256)
TEMPERATURE = _name("gen_ai.request.temperature", "call", "double", "if the caller set it", 0.2)
SEED = _name("gen_ai.request.seed", "call", "int", "if the caller set it", 7)
STOP = _name("gen_ai.request.stop_sequences", "call", "string[]", "if the caller set them", '["END"]')
TOP_P = _name("gen_ai.request.top_p", "call", "double", "if it is in `extra`", 0.9)
TOP_K = _name("gen_ai.request.top_k", "call", "int", "if it is in `extra`", 40)
FREQUENCY = _name("gen_ai.request.frequency_penalty", "call", "double", "if it is in `extra`", 0.1)
PRESENCE = _name("gen_ai.request.presence_penalty", "call", "double", "if it is in `extra`", 0.1)
CHOICES = _name("gen_ai.request.choice.count", "call", "int", "`n`, if it is in `extra`", 2)
OUTPUT_TYPE = _name("gen_ai.output.type", "call", "string", "`json` for `parse`", "json")
CONVERSATION = _name(
    "gen_ai.conversation.id", "call", "string", "`conversation=`, else the baggage entry of this name", "c42"
)
AGENT = _name("gen_ai.agent.name", "call", "string", "the baggage entry of this name", "planner")
EXTRAS = {
    "top_p": TOP_P, "top_k": TOP_K, "frequency_penalty": FREQUENCY, "presence_penalty": PRESENCE, "n": CHOICES
}  # fmt: skip

# What it gave.
RESPONSE_MODEL = _name(
    "gen_ai.response.model", "call metric", "string", "as the server names it; as a label eight a route, then `_OTHER`",
    "qwen3:8b",
)  # fmt: skip
RESPONSE_ID = _name(
    "gen_ai.response.id", "call", "string", "the server's id of the answer, if it has one", "chatcmpl-1"
)
FINISH_REASONS = _name("gen_ai.response.finish_reasons", "call", "string[]", "once it is done", '["stop"]')
FIRST_CHUNK = _name(
    "gen_ai.response.time_to_first_chunk", "call", "double, s", "streams; since the call began, all waits included",
    0.31,
)  # fmt: skip
INPUT_TOKENS = _name("gen_ai.usage.input_tokens", "call", "int", "if the server counted", 120)
OUTPUT_TOKENS = _name("gen_ai.usage.output_tokens", "call", "int", "if the server counted", 45)
CACHE_READ = _name("gen_ai.usage.cache_read.input_tokens", "call", "int", "if the server said; part of the input", 64)
REASONING_TOKENS = _name(
    "gen_ai.usage.reasoning.output_tokens", "call", "int", "if the server said; part of the output", 10
)
DIMENSIONS = _name("gen_ai.embeddings.dimension.count", "call", "int", "embeddings", 768)
INPUT_MESSAGES = _name("gen_ai.input.messages", "call", "JSON", "only with content capture", "[…]")
OUTPUT_MESSAGES = _name("gen_ai.output.messages", "call", "JSON", "only with content capture", "[…]")
TOOL_DEFINITIONS = _name("gen_ai.tool.definitions", "call", "JSON", "only with content capture", "[…]")
ERROR_TYPE = _name(
    "error.type", "call attempt tool metric event", "string", "only if it failed; the closed list below", 429
)

# How it came about.
ROUTE = _name(
    "resilient_llm.route", "call attempt metric", "string", "the route; on a call the one that served", "hosted"
)
ASKED_MODEL = _name(
    "resilient_llm.request.model", "call", "string", "always: `provider/model` first asked", "openai/gpt-5"
)
OUTCOME = _name("resilient_llm.outcome", "call", "string", "always; see the list below", "fallback")
ATTEMPTS = _name("resilient_llm.attempts", "call", "int", "always: requests on the wire; 0 if all were refused here", 3)
FALLBACK_USED = _name("resilient_llm.fallback.used", "call", "boolean", "if there is more than one route", "true")
FALLBACK_DEPTH = _name(
    "resilient_llm.fallback.depth", "call", "int", "with `fallback.used`: routes that failed before", 1
)
QUEUE_WAIT = _name("resilient_llm.queue.wait", "call", "double, s", "if it waited for a slot", 0.004)
RETRY_TOTAL = _name("resilient_llm.retry.delay.total", "call", "double, s", "if it waited between attempts", 0.5)
DEADLINE = _name("resilient_llm.deadline.total", "call", "double, s", "if there is one", 30.0)
DEADLINE_LEFT = _name("resilient_llm.deadline.remaining", "call", "double, s", "what was left of it at the end", 11.2)
LOCAL_ONLY = _name(
    "resilient_llm.local_only", "call", "string", "the farthest zone that it may reach, if it is limited", "network"
)
CHUNKS = _name("resilient_llm.stream.chunks", "call", "int", "pieces of text and reasoning that arrived", 212)
OUTPUT_RATE = _name("resilient_llm.stream.output_rate", "call", "double, 1/s", "tokens a second after the first", 48.1)
DEGRADED = _name(
    "resilient_llm.degraded", "call", "string[]", "as `reply.degraded`, if it is not empty", '["cut_at_length"]'
)
TAGS = _name("resilient_llm.tags", "call", "string[]", "`tags=`", '["batch"]')
DIGEST = _name(
    "resilient_llm.served.digest", "call", "string", "of the model's file, if the server tells", "sha256:6a0…"
)
FINGERPRINT = _name(
    "resilient_llm.served.fingerprint", "call", "string", "of the server's setup, if it tells", "fp_44709d"
)
QUANTIZATION = _name("resilient_llm.served.quantization", "call", "string", "if the server tells", "Q4_K_M")
WINDOW = _name("resilient_llm.served.window", "call", "int, tokens", "if it is known", 8192)

# One attempt.
NUMBER = _name("resilient_llm.attempt.number", "attempt event", "int", "as in `reply.attempts`, from 1", 2)
KIND = _name("resilient_llm.attempt.kind", "attempt metric", "string", "`first`, `retry`, `fallback`, `probe`", "retry")
ATTEMPT_OUTCOME = _name(
    "resilient_llm.attempt.outcome",
    "attempt metric",
    "string",
    "`served`, `failed`, `cancelled`, `abandoned`",
    "failed",
)
TARGET = _name("resilient_llm.attempt.target", "attempt", "string", "`provider/model`", "openai/gpt-5-mini")
TTFT = _name("resilient_llm.attempt.ttft", "attempt", "double, s", "from sending to the first token, if one came", 0.29)
CONNECT = _name("resilient_llm.attempt.connect", "attempt", "double, s", "if it had to connect", 0.01)
LOAD = _name("resilient_llm.attempt.load", "attempt", "double, s", "if the model was waited for", 4.2)
WAITED = _name("resilient_llm.attempt.queue", "attempt", "double, s", "if it waited for its slot", 0.004)
REQUEST_ID = _name("resilient_llm.attempt.request_id", "attempt", "string", "the server's id of the request", "req_8f")
LOST_INPUT = _name(
    "resilient_llm.attempt.input_tokens", "attempt", "int", "usage of an attempt that did not serve", 120
)
LOST_OUTPUT = _name(
    "resilient_llm.attempt.output_tokens", "attempt", "int", "usage of an attempt that did not serve", 17
)
METHOD = _name("http.request.method", "attempt", "string", "if a request was sent", "POST")
URL = _name(
    "url.full",
    "attempt",
    "string",
    "if a request was sent; never with a key or a query",
    "http://127.0.0.1:11434/api/chat",
)
STATUS = _name("http.response.status_code", "attempt", "int", "if the server answered", 429)
RESEND = _name("http.request.resend_count", "attempt", "int", "from the second request of the call on", 1)
RETRY_AFTER = _name("resilient_llm.retry_after", "attempt", "double, s", "if the server or a policy named a wait", 2.0)

# Tools.
TOOL_NAME = _name("gen_ai.tool.name", "tool", "string", "always", "get_weather")
TOOL_TYPE = _name("gen_ai.tool.type", "tool", "string", "always", "function")
TOOL_CALL_ID = _name("gen_ai.tool.call.id", "tool", "string", "if the call has one", "call_0")
TOOL_ARGUMENTS = _name("gen_ai.tool.call.arguments", "tool", "JSON", "only with content capture", '{"city": "Paris"}')

# Events and labels.
BREAKER = _name("resilient_llm.circuit_breaker.name", "event metric", "string", "the route", "ollama:qwen3:8b")
BREAKER_STATE = _name(
    "resilient_llm.circuit_breaker.state", "metric", "string", "`closed`, `open`, `half_open`", "open"
)
BREAKER_FROM = _name("resilient_llm.circuit_breaker.from", "event", "string", "the state before", "closed")
BREAKER_TO = _name("resilient_llm.circuit_breaker.to", "event", "string", "the state after", "open")
REASON = _name(
    "resilient_llm.reason", "event metric", "string", "why, in the words of `error.type` or the policy", "circuit_open"
)
DELAY = _name("resilient_llm.retry.delay", "event", "double, s", "the wait before the repeat", 0.5)
SOURCE = _name("resilient_llm.retry.source", "event", "string", "`backoff` or `retry_after`", "backoff")
FELL_FROM = _name("resilient_llm.fallback.from", "event metric", "string", "the route that failed", "ollama:qwen3:8b")
FELL_TO = _name("resilient_llm.fallback.to", "event metric", "string", "the route that is tried next", "hosted")
SECONDS = _name("resilient_llm.seconds", "event", "double, s", "how long", 0.2)
GUARD_VERDICT = _name("resilient_llm.guard.verdict", "event metric", "string", "`modify` or `deny`", "modify")
MESSAGES = _name("resilient_llm.guard.messages", "event", "int", "`modify`: messages that were given", 12)
MESSAGES_LEFT = _name("resilient_llm.guard.messages_left", "event", "int", "`modify`: messages that are sent", 9)
TOKENS = _name("resilient_llm.guard.tokens", "event", "int", "`deny`: the size of the prompt", 9000)
TOKENS_ROOM = _name("resilient_llm.guard.limit", "event", "int", "`deny`: what the window has for it", 7168)
TOKEN_TYPE = _name("gen_ai.token.type", "metric", "string", "`input` or `output`", "input")
MODALITY = _name("gen_ai.token.modality", "metric", "string", "only with the conventions `dev`: `unknown`", "unknown")
REMEDY = _name("resilient_llm.remedy", "log", "string", "what is being done about a model that is wedged", "unloading")
LIMITER = _name("resilient_llm.limiter", "metric", "string", "the origin whose queue it is", "http://127.0.0.1:11434")
TAG = _name("resilient_llm.tag", "metric", "string", "the call's tags that `Telemetry(metric_tags=…)` names", "batch")

OUTCOMES = {
    "success": "the first attempt answered",
    "success_after_retry": "a later attempt on the first route answered",
    "fallback": "another route answered",
    "rejected": "nothing was sent: a breaker, a queue, a zone or a limit refused",
    "failed": "every attempt failed, or the deadline came",
    "cancelled": "the caller's task was cancelled",
    "abandoned": "the caller left a stream before its end",
}


class Event(NamedTuple):  # a dataclass takes ten times as long to define, and this is imported with the package
    """A span event: something that happened in a call and has no length."""

    name: str
    when: str
    attributes: tuple[str, ...] = ()


QUEUED = Event("resilient_llm.queue.admitted", "an attempt got its slot after waiting", (NUMBER, SECONDS))
RETRY = Event("resilient_llm.retry", "the same route is tried again", (NUMBER, ERROR_TYPE, DELAY, SOURCE))
FALLBACK = Event("resilient_llm.fallback", "another route is tried", (FELL_FROM, FELL_TO, ERROR_TYPE))
TRANSITION = Event(
    "resilient_llm.circuit_breaker.transition", "the breaker of a route moved on while the call ran",
    (BREAKER, BREAKER_FROM, BREAKER_TO, REASON),
)  # fmt: skip
REJECTED = Event("resilient_llm.rejected", "a route refused, nothing was sent", (NUMBER, ROUTE, REASON))
GUARD = Event(
    "resilient_llm.guard.decision", "the prompt was trimmed or refused",
    (ROUTE, GUARD_VERDICT, MESSAGES, MESSAGES_LEFT, TOKENS, TOKENS_ROOM),
)  # fmt: skip
FIRST_TOKEN = Event("resilient_llm.stream.first_chunk", "on an attempt: the first token came")
RESTARTED = Event("resilient_llm.stream.restarted", "a stream broke and begins anew", (ERROR_TYPE,))
EVENTS = (QUEUED, RETRY, FALLBACK, TRANSITION, REJECTED, GUARD, FIRST_TOKEN, RESTARTED)
MAX_EVENTS = 32  # on one call; what comes later is counted in the metrics alone


# The list of the conventions has no Ollama; what is not here is called as the route's provider is.
PROVIDERS = {"gemini": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}

# The word of an error; with `True` an HTTP status says more, if there is one.
ERROR_TYPES: dict[type[LLMError], tuple[str, bool]] = {
    errors.AllRoutesFailed: ("all_routes_failed", False),
    errors.AuthFailed: ("authentication", False),
    errors.BadRequest: ("bad_request", True),
    errors.CircuitOpen: ("circuit_open", False),
    errors.ClientClosed: ("client_closed", False),
    errors.ConfigError: ("config_error", False),
    errors.ConnectFailed: ("connection_error", False),
    errors.ConnectTimeout: ("timeout.connect", False),
    errors.ContentFiltered: ("content_filter", False),
    errors.ContextOverflow: ("context_length_exceeded", False),
    errors.DeadlineExceeded: ("deadline_exceeded", False),
    errors.DeadlineUnattainable: ("deadline_unattainable", False),
    errors.EmptyReply: ("empty_reply", False),
    errors.FirstTokenTimeout: ("timeout.ttft", False),
    errors.LimitExceeded: ("limit_exceeded", False),
    errors.LoadTimeout: ("timeout.load", False),
    errors.Malformed: ("invalid_response", False),
    errors.ModelNotFound: ("model_not_found", False),
    errors.NoEligibleRoute: ("no_eligible_route", False),
    errors.OutputInvalid: ("schema_mismatch", False),
    errors.Overloaded: ("queue_full", True),
    errors.QuotaExhausted: ("quota_exhausted", False),
    errors.RateLimited: ("rate_limited_local", True),
    errors.ServerError: ("server_error", True),
    errors.StreamInterrupted: ("stream_interrupted", False),
    errors.StreamStalled: ("timeout.idle", False),
    errors.UnsupportedParameter: ("unsupported_parameter", False),
}


def error_type(error: BaseException) -> str:
    """The word for `error.type`: of the closed list, or an HTTP status from 400 to 599."""
    for kind in type(error).__mro__:
        if kind in ERROR_TYPES:
            word, by_status = ERROR_TYPES[kind]
            status = error.status if isinstance(error, LLMError) else None
            return str(status) if by_status and status is not None and 400 <= status <= 599 else word
    return OTHER if isinstance(error, Exception) else CANCELLED
