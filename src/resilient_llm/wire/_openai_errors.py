"""What an OpenAI-compatible server means when it refuses.

It exists because a status alone misleads: a 429 may be a rate, an empty account or an overload, a 500 the caller's
mistake, a 400 a wrong key, and a 200 any of them. The classification is made here, once; what it goes by is data and
stands in `_openai_rows`.

Rules of the file: codes go before words and words before the status; the first row that fits wins. Words are the
server's message alone. A server's text goes through `shown`, without what it echoes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from resilient_llm._errors import (
    BadRequest,
    ContentFiltered,
    ContextOverflow,
    LLMError,
    QuotaExhausted,
    RateLimited,
    ServerError,
    UnsupportedParameter,
)
from resilient_llm.wire._envelope import Envelope, open_envelope
from resilient_llm.wire._hints import request_id, retry_after, should_retry
from resilient_llm.wire._openai_rows import CODES, STATUSES, TYPES, WORDS
from resilient_llm.wire._overflow import is_overflow, sizes
from resilient_llm.wire._shown import shown

_LOOKED_AT = 4096  # characters of a message that are searched
_QUOTA_AFTER = 3600.0  # seconds: who is told to wait longer has used up a quota (Azure says 86400), not a rate
_NO_PATH = "no such path there: base_url goes up to and including /v1, or what the server has instead"
_ECHO = re.compile(r"input_value\s*=.*|(?<=:)\s*['\"]?[\[{].*", re.DOTALL)
_LITELLM = re.compile(r"litellm\.(\w{1,60}Error)")
_REQUESTED = re.compile(r"limit:? (\d{1,15}).{0,40}requested:? (\d{1,15})", re.IGNORECASE | re.DOTALL)


def error_from(status: int | None, headers: Mapping[str, str], body: bytes | object) -> LLMError:
    """The error that an answer means.

    Args:
        status: of the HTTP answer; `None` or 200 for an error inside an answer that had begun well.
        headers: with names in lower case.
        body: the bytes of the answer, also if they were cut off, or the error in it, already parsed.
    """
    found = open_envelope(body)
    text = found.message[:_LOOKED_AT]
    sentence = _sentence(status, text)
    if status is None or status == 200:
        status = found.status
    # A proxy that answers 5xx for an upstream's 429 is throttled; other disagreements are not believed.
    believed = 429 if (status or 0) >= 500 and found.status == 429 else status
    kind, facts = _explained(believed, found, text)
    explained = kind is not None
    if kind is None:
        kind, facts = _by_status(believed if believed is not None else _by_type(found))
    wait = retry_after(headers, text, found.json)
    if kind is QuotaExhausted and not explained and "retry-after" in headers and wait is not None:
        kind = RateLimited  # a 402 that passes
    oversize = kind is RateLimited and _oversize(status, text)
    if kind is RateLimited and wait is not None and wait >= _QUOTA_AFTER and not oversize:
        kind = QuotaExhausted
    again = should_retry(headers)
    if again is False or (again and not explained):
        facts["retryable"] = again
    if status in (404, 405) and not explained:
        sentence = f"{sentence} ({_NO_PATH})"
    facts |= {"retry_after": wait, "status": status, "code": found.code, "request_id": request_id(headers)}
    return kind(sentence, **facts, **_details(kind, found, text, oversize=oversize))


def _explained(status: int | None, found: Envelope, text: str) -> tuple[type[LLMError] | None, dict[str, Any]]:
    """What the codes, then the words, tell; `None` if nothing."""
    codes = [*found.codes, *(name.lower() for name in _LITELLM.findall(text))]
    for row in CODES:
        if any(re.fullmatch(row.pattern, code) for code in codes):
            return row.kind, dict(row.facts)
    if status != 429 and is_overflow(text):
        return ContextOverflow, {}
    for row in WORDS:
        if (not row.statuses or status is None or status in row.statuses) and row.search(text):
            return row.kind, dict(row.facts)
    return None, {}


def _by_status(status: int | None) -> tuple[type[LLMError], dict[str, Any]]:
    if status in STATUSES:
        kind, facts = STATUSES[status]
        return kind, dict(facts)
    return (ServerError if status is None or status >= 500 else BadRequest), {}


def _by_type(found: Envelope) -> int | None:
    """The status that the server would have sent, if there had still been one to send."""
    return next((TYPES[code] for code in found.codes if code in TYPES), None)


def _details(kind: type[LLMError], found: Envelope, text: str, *, oversize: bool) -> dict[str, Any]:
    """What only this kind of error carries."""
    if kind is RateLimited:
        return {"oversize": oversize}
    if kind is ContextOverflow:
        tokens, limit = sizes(text)
        return {"tokens": found.sizes.get("tokens", tokens), "limit": found.sizes.get("limit", limit)}
    if kind is UnsupportedParameter:
        return {"parameter": _parameter(found.param, text)}
    return {"categories": found.categories} if kind is ContentFiltered else {}


def _parameter(blamed: str | None, text: str) -> str | None:
    """The field: the one blamed, unless the words name another instead (Cerebras blames `validation_error`)."""
    if blamed and blamed in text:
        return blamed
    for row in WORDS:
        match = row.search(text) if row.kind is UnsupportedParameter else None
        if match and match.groupdict().get("parameter"):
            return match["parameter"]
    return blamed


def _oversize(status: int | None, text: str) -> bool:
    """This request alone is over the limit (OpenAI's 429 "Request too large", Groq's 413): waiting never helps."""
    match = _REQUESTED.search(text)
    return status == 413 or "request too large" in text.lower() or (match is not None and int(match[2]) > int(match[1]))


def _sentence(status: int | None, text: str) -> str:
    where = "the server reported an error in its answer" if status in (None, 200) else f"HTTP {status}"
    if status is not None and 300 <= status < 400:
        where += ", and redirects are not followed: set base_url to the target"
    reason = shown(_ECHO.sub(" …", text))
    return f"{where}: {reason}" if reason else where
