"""What OpenAI-compatible servers say when they refuse, as data: three tables, for codes, for words, for statuses.

Rules of the file: a row is data and the first that fits wins; a new server is new rows, with its name where only one is
meant. A code counts under any status, also in the body of a 200. Words are searched where no code is known; they hold
under the statuses of their row, and where there is no status. Patterns are strings, which `re` compiles when a server
first refuses: importing the package need not wait for that. They are applied to 4,096 characters at most.
Sources: the code of vLLM 0.33, SGLang 0.5.23, llama.cpp b11549, TGI 3.3 and Ollama 0.33; openai-python 3.54 and
litellm 1.109; the error pages of OpenRouter, DeepSeek and Fireworks; answers recorded by other projects, and reports of
users. `tests/wire/cases` holds an answer for nearly every row.
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


@dataclass(frozen=True, slots=True)
class Row:
    """What a code or a wording means.

    Attributes:
        kind: the error.
        pattern: of a whole code in lower case, or searched in the message, in any case; its group `parameter` names the
            refused field.
        statuses: the row holds under these alone; empty for any, also for an error in the body of a 200.
        facts: more arguments of the error.
    """

    kind: type[LLMError]
    pattern: str
    statuses: frozenset[int] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def search(self, text: str) -> re.Match[str] | None:
        """Where the words stand in `text`."""
        return re.search(self.pattern, text, re.IGNORECASE)


_ANY: frozenset[int] = frozenset()
_REFUSED = frozenset({400, 422})
_ABSENT = frozenset({400, 404})
_MONEY = frozenset({400, 402, 403, 412, 429})
_BUSY = frozenset({429, 498, 500, 502, 503, 529})
_WRONG = frozenset({500})
_ELSEWHERE: Mapping[str, Any] = {"falls_back": True}


def _row(kind: type[LLMError], pattern: str, statuses: frozenset[int] = _ANY, **facts: Any) -> Row:
    return Row(kind, pattern, statuses, facts)


# The names without underscores are LiteLLM's classes: its proxy writes them before the message.
CODES = (
    _row(ContextOverflow, "context_length_exceeded|exceed_context_size_error|model_context_window_exceeded"),
    _row(ContextOverflow, "contextwindowexceedederror"),
    _row(ContextOverflow, "max_tokens_per_request"),  # OpenAI embeddings: the batch, in tokens
    _row(RateLimited, "in_flight_budget_exhausted|openrouter_in_flight_budget"),  # a 402 that passes
    _row(QuotaExhausted, r"insufficient_quota|.*credit_balance.*|billing_.*|enforced_spend_limit_reached"),
    _row(QuotaExhausted, r"(organization|project)_(spend|usage)_limit_exceeded|payment_required"),  # OpenAI; OpenRouter
    _row(QuotaExhausted, r"weight_exceeds_budget|token_limit_exceeded|openrouter_(credits|key_limit)"),
    _row(QuotaExhausted, r"openrouter_(guardrail|workspace)_budget|openrouter_free_tier_daily"),
    _row(QuotaExhausted, r".*perday.*"),  # Gemini's quotaId
    _row(QuotaExhausted, r"budget_exceeded|budgetexceedederror"),  # LiteLLM's own budgets
    _row(QuotaExhausted, r"exceeded_current_quota_error|organization_restricted"),  # Moonshot; Groq
    _row(Overloaded, "slow_down", fault="nobody"),  # OpenAI: our traffic rose too fast
    _row(Overloaded, "server_is_overloaded|service_unavailable_error|overloaded_error|overloaded|unavailable"),
    _row(Overloaded, "(service_tier_)?capacity_exceeded|engine_overloaded_error"),  # Mistral, Groq; Moonshot
    _row(Overloaded, "provider_overloaded"),  # OpenRouter
    _row(RateLimited, "rate_limit_exceeded|rate_limit_error|rate_limited|ratelimitreached|too_many_requests|1300"),
    _row(RateLimited, "resource_exhausted|rate_limit_reached_error|ratelimiterror"),  # Gemini; Moonshot
    _row(RateLimited, r"throttling(\..*)?"),  # Alibaba, in the data of a 200 (hermes-agent#58017)
    _row(AuthFailed, "invalid_api_key|api_key_invalid|authentication_error|unauthenticated|authenticationerror"),
    _row(AuthFailed, "unauthorized|permission_error|permission_denied|permissiondeniederror|authentication"),
    _row(AuthFailed, "no_db_connection"),  # LiteLLM: not the master key, and no place to look for another
    _row(ModelNotFound, "model_not_found|deploymentnotfound|model_not_available|invalid_model|model_decommissioned"),
    _row(UnsupportedParameter, "unsupported_parameter|unsupported_value|unknown_parameter|extra_forbidden"),
    _row(UnsupportedParameter, "unsupportedparamserror"),
    _row(ContentFiltered, "content_filter|content_policy_violation|responsibleaipolicyviolation|cyber_policy"),
    _row(ContentFiltered, "contentpolicyviolationerror|refusal"),  # LiteLLM; OpenRouter
    _row(OutputInvalid, "tool_use_failed|json_validate_failed|tool_error"),  # Groq; TGI
    _row(BadRequest, "feature_disabled|not_supported_error", falls_back=True),  # llama.cpp: switched off there
)

_FIELD = r"[\w.\[\]-]{1,100}"
_NAMED = rf"(?<!model )['\"`](?P<parameter>{_FIELD})['\"`]"
WORDS = (
    _row(AuthFailed, r"api.?key (is )?(not valid|invalid|missing|expired)|(invalid|incorrect|missing) api.?key"),
    _row(AuthFailed, r"location is not supported for the api", _REFUSED),  # Gemini
    _row(Overloaded, r"loading model|\bis (currently |still )?loading|warming up", frozenset({503}), fault="nobody"),
    # A full queue of a server that is well: Ollama, llama.cpp, SGLang, vLLM
    _row(Overloaded, r"pending requests exceeded|no slot available|queue is full", fault="nobody"),
    _row(Overloaded, r"engine is currently busy|token backlog limit|request waiting timeout", fault="nobody"),
    _row(Overloaded, r"(tier |at |over |no )capacity|high demand|is (currently )?overloaded", _BUSY),
    _row(QuotaExhausted, r"insufficient (balance|credits)|exceeded your current quota|credit balance", _MONEY),
    _row(
        QuotaExhausted, r"(out of|more|any) credits|free-models-per-day|usage limit for this (billing|period)", _MONEY
    ),
    _row(QuotaExhausted, r"reached your (\w+ )?usage limit", _MONEY),  # Ollama's cloud (ollama/ollama#15934)
    _row(QuotaExhausted, r"(spend|spending|monthly|budget) (limit|exceeded)|budget has been exceeded", _MONEY),
    _row(QuotaExhausted, r"crossed budget|over budget", _MONEY),  # LiteLLM
    _row(QuotaExhausted, r"key limit exceeded", _MONEY),  # OpenRouter's, of one key's budget
    _row(
        UnsupportedParameter,
        r"(unsupported|unknown|unrecognized) (request )?(parameter|argument|field)( supplied)?:? ['\"`]?"
        rf"(?P<parameter>{_FIELD})",
        _REFUSED,
    ),
    _row(UnsupportedParameter, rf"(unknown name|property) {_NAMED}", _REFUSED),  # Gemini, Groq
    _row(UnsupportedParameter, r"this (?P<parameter>response_format) type is unavailable", _REFUSED),  # DeepSeek
    _row(
        UnsupportedParameter,
        r"does not support (this )?(?P<parameter>tools|thinking|tool_choice|reasoning_effort)",
        _REFUSED,
    ),  # Ollama, DeepSeek
    _row(UnsupportedParameter, rf"{_NAMED} is (not (supported|permitted|allowed)|deprecated)", _REFUSED),
    _row(UnsupportedParameter, rf"extra inputs are not permitted, field: '(?P<parameter>{_FIELD})'", _REFUSED),
    _row(UnsupportedParameter, rf"^(?P<parameter>{_FIELD}): extra inputs are not permitted", _REFUSED),  # Anthropic
    _row(UnsupportedParameter, r"extra inputs are not permitted", _REFUSED),  # Mistral, Fireworks
    _row(UnsupportedParameter, r"(?P<parameter>stream_options)", _REFUSED),
    _row(ContentFiltered, r"violating our usage policy|content management policy|flagged (by|as|for)"),
    _row(ContentFiltered, r"requires moderation"),  # OpenRouter
    _row(ContentFiltered, r"content exists risk|violates (our )?usage guidelines", _MONEY),  # DeepSeek, xAI
    _row(ModelNotFound, r"models?\b.{0,200}(not exist|not found|not loaded|not deployed|decommissioned)", _ABSENT),
    _row(ModelNotFound, r"not a valid model id|(unknown|no such|invalid) model|no models? loaded", _ABSENT),
    _row(ModelNotFound, r"no (endpoints found|allowed providers)|^model: \S{1,200}$", _ABSENT),  # OpenRouter; Anthropic
    _row(ModelNotFound, r"unable to access model", _ABSENT),  # Together
    _row(
        BadRequest, r"unexpected endpoint or method", falls_back=True
    ),  # LM Studio, with a 200: a base URL without /v1
    _row(BadRequest, r"image urls are not (currently )?supported", _REFUSED, falls_back=True),  # Ollama's /v1
    _row(OutputInvalid, r"model produced output that does not match"),  # llama.cpp
    # llama.cpp answers 500 to these mistakes of the caller
    _row(BadRequest, r"missing '?(role|tool|content|message)|unsupported (tool|content)", _WRONG),
    _row(BadRequest, r"expected '(tools|messages?|content)'|failed to parse (messages|tools)", _WRONG),
    _row(BadRequest, r"does not support (image|audio)|(image|audio) input is not supported", _WRONG),
)

# Words for a kind of error where a number might stand, and the status that they mean. They decide where there is no
# status: in the midst of a stream, a caller's mistake would else look like the server's.
TYPES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "badrequesterror": 400,  # vLLM
    "badrequest": 400,  # SGLang
    "invalid_argument": 400,  # Gemini, and the next
    "failed_precondition": 400,
    "not_found_error": 404,
    "notfounderror": 404,
    "not_found": 404,
    "request_too_large": 413,
    "payload_too_large": 413,
    "validation": 422,  # TGI, which sends it in the stream
    "template_error": 422,
    "unprocessable": 422,
}
STATUSES: Mapping[int | None, tuple[type[LLMError], Mapping[str, Any]]] = {
    401: (AuthFailed, {}),
    402: (QuotaExhausted, {}),
    403: (AuthFailed, {}),
    404: (BadRequest, _ELSEWHERE),  # no such path: the wrong base URL, or a feature that this server lacks
    405: (BadRequest, _ELSEWHERE),
    407: (AuthFailed, {}),
    408: (ServerError, {}),
    409: (ServerError, {}),  # a lock; openai-python repeats it too
    412: (QuotaExhausted, {}),  # Fireworks: the account is suspended
    413: (BadRequest, _ELSEWHERE),  # in bytes; another server may take more
    424: (ServerError, {}),  # TGI: the generation failed
    425: (ServerError, {}),
    429: (RateLimited, {}),
    498: (Overloaded, {}),  # Groq
    499: (ServerError, {}),
    501: (BadRequest, _ELSEWHERE),
    503: (Overloaded, {}),
    529: (Overloaded, {}),
}
