"""What an OpenAI-compatible server means when it refuses, as one table.

It exists because a status alone misleads: a 429 may be a rate, an empty account or an overload, a 500 the caller's
mistake, a 400 a wrong key, and a 200 any of them. The classification is made here, once.

Rules of the file: codes go before words and words before the status; the first row that fits wins; a row is data, and
a new server is new rows. Words are the server's message alone. A server's text goes through `shown`, without what it
echoes. Sources: the servers' code (vLLM 0.33, SGLang 0.5.23, llama.cpp b11549, TGI, Ollama), openai-python 3.54,
litellm 1.109 and reports of users; a row names its server where only one is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient_llm._errors import (
    AuthFailed,
    BadRequest,
    ContentFiltered,
    ContextOverflow,
    LLMError,
    ModelNotFound,
    OutputInvalid,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerError,
    UnsupportedParameter,
)
from resilient_llm.wire._envelope import Envelope, open_envelope
from resilient_llm.wire._hints import request_id, retry_after
from resilient_llm.wire._overflow import is_overflow, sizes
from resilient_llm.wire._shown import shown

_LOOKED_AT = 4096  # characters of a message that are searched
_QUOTA_AFTER = 3600.0  # seconds: who is told to wait longer has used up a quota (Azure says 86400), not a rate
_ELSEWHERE: Mapping[str, Any] = {"falls_back": True}


@dataclass(frozen=True, slots=True)
class Row:
    """What a code or a wording means.

    Attributes:
        kind: the error.
        words: a pattern, of a whole code or searched in the message; a group `parameter` names the refused field.
        statuses: the row holds under these alone; empty for any, also for an error in the body of a 200.
        facts: more arguments of the error.
    """

    kind: type[LLMError]
    words: str
    statuses: frozenset[int] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when a server first refuses, and kept by `re`: importing the package need not wait for that."""
        return re.compile(self.words, re.IGNORECASE)


_ANY: frozenset[int] = frozenset()
_REFUSED = frozenset({400, 422})
_MONEY = frozenset({400, 402, 403, 412, 429})
_BUSY = frozenset({429, 498, 500, 502, 503, 529})


def _row(kind: type[LLMError], words: str, statuses: frozenset[int] = _ANY, **facts: Any) -> Row:
    return Row(kind, words, statuses, facts)


CODES = (
    _row(ContextOverflow, "context_length_exceeded|exceed_context_size_error|model_context_window_exceeded"),
    _row(ContextOverflow, "max_tokens_per_request"),  # OpenAI embeddings: the batch, in tokens
    _row(ContextOverflow, "contextwindowexceedederror"),  # this and the other names without _ are LiteLLM's classes
    _row(RateLimited, "in_flight_budget_exhausted"),  # OpenRouter: a 402 that passes
    _row(QuotaExhausted, r"insufficient_quota|.*credit_balance.*|billing_.*|enforced_spend_limit_reached"),
    _row(QuotaExhausted, r"(organization|project)_(spend|usage)_limit_exceeded|payment_required"),
    _row(QuotaExhausted, r"weight_exceeds_budget|openrouter_free_tier_daily|.*perday.*"),  # Gemini's quotaId
    _row(Overloaded, "slow_down", fault="nobody"),  # OpenAI: our traffic rose too fast
    _row(Overloaded, "server_is_overloaded|overloaded_error|overloaded|capacity_exceeded|unavailable"),
    _row(RateLimited, "rate_limit_exceeded|rate_limit_error|rate_limited|ratelimitreached|too_many_requests|1300"),
    _row(RateLimited, "resource_exhausted|ratelimiterror"),
    _row(AuthFailed, "invalid_api_key|api_key_invalid|authentication_error|unauthenticated|authenticationerror"),
    _row(AuthFailed, "unauthorized|permission_error|permission_denied|permissiondenied"),
    _row(ModelNotFound, "model_not_found|deploymentnotfound|model_not_available"),
    _row(UnsupportedParameter, "unsupported_parameter|unsupported_value|unknown_parameter|extra_forbidden"),
    _row(UnsupportedParameter, "unsupportedparamserror"),
    _row(ContentFiltered, "content_filter|content_policy_violation|responsibleaipolicyviolation|cyber_policy"),
    _row(ContentFiltered, "contentpolicyviolationerror"),
    _row(OutputInvalid, "tool_use_failed|json_validate_failed"),  # Groq
)

_FIELD = r"[\w.\[\]-]{1,100}"
WORDS = (
    _row(AuthFailed, r"api.?key (is )?(not valid|invalid|missing)|(invalid|incorrect|missing) api.?key"),
    _row(Overloaded, r"loading model|model is (still )?loading|warming up", frozenset({503}), fault="nobody"),
    # A full queue of a server that is well: Ollama, llama.cpp, SGLang, vLLM
    _row(Overloaded, r"pending requests exceeded|no slot available|queue is full", fault="nobody"),
    _row(Overloaded, r"engine is currently busy|token backlog limit|request waiting timeout", fault="nobody"),
    _row(Overloaded, r"(tier |at |over |no )capacity|high demand|is overloaded", _BUSY),
    _row(QuotaExhausted, r"insufficient balance|exceeded your current quota|credit balance|out of credits", _MONEY),
    _row(QuotaExhausted, r"free-models-per-day|(spend|spending|monthly|budget) (limit|exceeded)", _MONEY),
    _row(
        UnsupportedParameter,
        r"(unsupported|unknown|unrecognized) (request )?(parameter|argument|field)( supplied)?:? ['\"`]?"
        rf"(?P<parameter>{_FIELD})",
        _REFUSED,
    ),
    _row(
        UnsupportedParameter, rf"(unknown name|property) ['\"`](?P<parameter>{_FIELD})['\"`]", _REFUSED
    ),  # Gemini, Groq
    _row(UnsupportedParameter, r"this (?P<parameter>response_format) type is unavailable", _REFUSED),  # DeepSeek
    _row(UnsupportedParameter, r"does not support (?P<parameter>tools|thinking)", _REFUSED),  # Ollama
    _row(UnsupportedParameter, rf"['\"`](?P<parameter>{_FIELD})['\"`] is not (supported|permitted|allowed)", _REFUSED),
    _row(UnsupportedParameter, r"extra inputs are not permitted", _REFUSED),  # Mistral, Fireworks
    _row(UnsupportedParameter, r"(?P<parameter>stream_options)", _REFUSED),
    _row(ContentFiltered, r"violating our usage policy|content management policy|flagged (by|as)|requires moderation"),
    _row(ModelNotFound, r"model\b.{0,200}(does not exist|not found|not loaded)", frozenset({400, 404})),
    _row(ModelNotFound, r"not a valid model id|(unknown|no such) model", frozenset({400, 404})),
    _row(OutputInvalid, r"model produced output that does not match"),  # llama.cpp
    # llama.cpp answers 500 to these mistakes of the caller
    _row(BadRequest, r"missing '?(role|tool|content|message)|unsupported (tool|content)", frozenset({500})),
    _row(BadRequest, r"expected '(tools|messages?|content)'|failed to parse (messages|tools)", frozenset({500})),
    _row(BadRequest, r"does not support (image|audio)|(image|audio) input is not supported", frozenset({500})),
)

STATUSES: Mapping[int, tuple[type[LLMError], Mapping[str, Any]]] = {
    401: (AuthFailed, {}),
    402: (QuotaExhausted, {}),
    403: (AuthFailed, {}),
    404: (BadRequest, _ELSEWHERE),  # no such path: the wrong base URL, or a feature that this server lacks
    407: (AuthFailed, {}),
    408: (ServerError, {}),
    409: (ServerError, {}),  # a lock; openai-python repeats it too
    412: (QuotaExhausted, {}),  # Fireworks: the account is suspended
    424: (ServerError, {}),  # TGI: the generation failed
    425: (ServerError, {}),
    429: (RateLimited, {}),
    498: (Overloaded, {}),  # Groq
    499: (ServerError, {}),
    501: (BadRequest, _ELSEWHERE),
    503: (Overloaded, {}),
    529: (Overloaded, {}),
}

_ECHO = re.compile(r"input_value\s*=.*|(?<=:)\s*['\"]?[\[{].*", re.DOTALL)
_LITELLM = re.compile(r"litellm\.(\w+Error)")
_REQUESTED = re.compile(r"limit:? (\d{1,15}).{0,40}requested:? (\d{1,15})", re.IGNORECASE | re.DOTALL)


def error_from(status: int | None, headers: Mapping[str, str], body: bytes | object) -> LLMError:
    """The error that an answer means.

    Args:
        status: of the HTTP answer; `None` or 200 for an error inside an answer that had begun well.
        headers: with names in lower case.
        body: the bytes of the answer, or the error in it, already parsed.
    """
    found = open_envelope(body)
    text = found.message[:_LOOKED_AT]
    sentence = _sentence(status, text)
    if status is None or status == 200:
        status = found.status
    # A proxy that answers 5xx for an upstream's 429 is throttled; other disagreements are not believed.
    kind, facts = _classified(429 if (status or 0) >= 500 and found.status == 429 else status, found, text)
    wait = retry_after(headers, text, found.json)
    facts = {**facts, "retry_after": wait, "status": status, "code": found.code, "request_id": request_id(headers)}
    if kind is QuotaExhausted and status == 402 and "retry-after" in headers and wait is not None:
        kind = RateLimited
    if kind is RateLimited:
        facts["oversize"] = oversize = _oversize(status, text)
        if wait is not None and wait >= _QUOTA_AFTER and not oversize:
            kind = QuotaExhausted
            del facts["oversize"]
    if kind is ContextOverflow:
        tokens, limit = sizes(text)
        facts |= {"tokens": found.sizes.get("tokens", tokens), "limit": found.sizes.get("limit", limit)}
    if kind is UnsupportedParameter and facts.get("parameter") is None:
        facts["parameter"] = found.param
    return kind(sentence, **facts)


def _classified(status: int | None, found: Envelope, text: str) -> tuple[type[LLMError], dict[str, Any]]:
    codes = found.codes
    codes += [name.lower() for name in _LITELLM.findall(text)]
    for row in CODES:
        if any(row.pattern.fullmatch(code) for code in codes):
            facts = dict(row.facts)
            if row.kind is UnsupportedParameter:
                facts["parameter"] = found.param or _parameter(text)
            return row.kind, facts
    if status != 429 and is_overflow(text):
        return ContextOverflow, {}
    for row in WORDS:
        match = row.pattern.search(text)
        if match and (not row.statuses or status is None or status in row.statuses):
            return row.kind, {**row.facts, **match.groupdict()}
    if status is not None and status in STATUSES:
        kind, more = STATUSES[status]
        return kind, dict(more)
    if status is None or status >= 500:
        return ServerError, {}
    return BadRequest, {}


def _parameter(text: str) -> str | None:
    for row in WORDS:
        match = row.pattern.search(text) if row.kind is UnsupportedParameter else None
        if match and match.groupdict().get("parameter"):
            return match["parameter"]
    return None


def _oversize(status: int | None, text: str) -> bool:
    """This request alone is over the limit (OpenAI's 429 "Request too large", Groq's 413): waiting never helps."""
    match = _REQUESTED.search(text)
    return status == 413 or "request too large" in text.lower() or (match is not None and int(match[2]) > int(match[1]))


def _sentence(status: int | None, text: str) -> str:
    where = "the server reported an error in its answer" if status in (None, 200) else f"HTTP {status}"
    reason = shown(_ECHO.sub(" …", text))
    return f"{where}: {reason}" if reason else where
