"""What Ollama means when it refuses: one table from its words to our errors.

Why: its statuses do not tell. A wrong option is a 500, a crashed runner behind /api/embed a 400, a prompt that is too
long a 400 whose text is itself JSON, and after a 200 there is no status at all. So the text decides, with the status
as a condition where the same words could mean two things, and the bare status only where the text says nothing known.

Rules of the file: codes and numbers in JSON come before text; the first row that fits wins; a row is data. A server's
text goes through `shown`; a row whose text holds what the model wrote is never quoted.
Sources: api/types.go, server/routes.go and llm/llama_server.go of ollama 0.33, answers of a real 0.9.3, and the issues
of ollama/ollama that a row names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from resilient_llm._errors import (
    AuthFailed,
    BadRequest,
    ContextOverflow,
    LLMError,
    Malformed,
    ModelNotFound,
    OutputInvalid,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerError,
    UnsupportedParameter,
)
from resilient_llm.wire._hints import retry_after
from resilient_llm.wire._shown import shown

_LOOKED_AT = 16 * 1024  # bytes of a body without JSON, and characters of a text, that are searched
_NOT_AGAIN: Mapping[str, Any] = {"retryable": False}
_NOBODY: Mapping[str, Any] = {"fault": "nobody"}
_SIZES = ("tokens", "limit")
_MANY = re.compile(r"\d{1,15}")


@dataclass(frozen=True, slots=True)
class Row:
    """What a text, under one of these statuses, means.

    Attributes:
        kind: the error.
        pattern: searched in the text; its named groups `tokens`, `limit` and `parameter` become facts.
        statuses: only these, or any. An error in the body of a 200 has none and fits every row that has a pattern.
        facts: more arguments of the error.
        advice: what the reader can do; named groups may stand in it.
        quoted: the text may be shown.
    """

    kind: type[LLMError]
    pattern: re.Pattern[str]
    statuses: frozenset[int] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""
    quoted: bool = True


def _row(kind: type[LLMError], pattern: str, *statuses: int, **more: Any) -> Row:
    return Row(kind, re.compile(pattern, re.IGNORECASE), frozenset(statuses) or None, **more)


_OUT_OF_MEMORY = (
    r"out[ -]of[ -](?:device[ -])?memory|cudaMalloc failed|hipMalloc failed|failed to allocate|allocation failed"
    r"|not enough memory|insufficient memory|vk_error_out_of_device_memory|requires more system memory"
)
_RUNNER = (
    r"timed out waiting for (?:llama|the llama)|process has terminated|process no longer running"
    r"|unexpected server status|no slots available|model runner has unexpectedly stopped"
    r"|error was encountered while running the model|embedding contains NaN|unsupported value: (?:NaN|[+-]?Inf)"
    r"|do embedding request|unexpected EOF|connection re(?:fused|set)|forcibly closed"
)
_FIELDS = {"thinking": "think"}  # its word for a field, where the field of the request is called otherwise

ROWS: tuple[Row, ...] = (
    # The prompt, or what was written after it, is larger than the window. Where the server counted, so do we.
    _row(ContextOverflow, r"request \((?P<tokens>\d+) tokens\) exceeds the available context size \((?P<limit>\d+) t"),
    _row(
        ContextOverflow,
        r"input length \((?P<tokens>\d+) tokens\) exceeds the model's maximum context length \((?P<limit>\d+) t",
    ),
    _row(ContextOverflow, r"prompt is longer than the context length|context size has been exceeded"),
    _row(ContextOverflow, r"input length exceeds (?:the |maximum )*context length|exceed_context_size_error"),
    # The caller's request
    _row(UnsupportedParameter, r"does not support (?P<parameter>thinking|tools|images)\b"),
    _row(UnsupportedParameter, r"think value .* is not supported", facts={"parameter": "think"}),
    _row(UnsupportedParameter, r"missing data required for image input", facts={"parameter": "images"}),
    _row(BadRequest, r"does not support (?:generate|chat|embeddings?|insert)\b"),
    _row(BadRequest, r"option \"?[^\"]*\"? must be of type|invalid format:|invalid JSON schema in format"),
    _row(
        ModelNotFound,
        r"model ['\"]?(?P<model>[^'\"\s]+)['\"]? not found",
        advice="`ollama pull {model}` brings it there",
    ),
    # What the model wrote: its text is in the message and stays there (ollama/ollama#17638, #12884)
    _row(OutputInvalid, r"error parsing tool call", quoted=False, advice="the model wrote a tool call without JSON"),
    # The server. Memory and models that do not load come first: the same messages say that the process has terminated
    _row(
        ServerError,
        _OUT_OF_MEMORY,
        facts=_NOT_AGAIN,
        advice="the model does not fit into memory: a smaller num_ctx or model may",
    ),
    _row(
        ServerError,
        r"failed to load model.*incompatible|incompatible with your version|unknown model architecture",
        facts=_NOT_AGAIN,
    ),
    _row(Overloaded, r"maximum pending requests exceeded", facts=_NOBODY),
    _row(QuotaExhausted, r"usage limit"),  # of Ollama's cloud (ollama/ollama#15934)
    _row(ServerError, _RUNNER),
    _row(Overloaded, r"server (?:is )?overloaded"),  # of Ollama's cloud, with a 503
    _row(AuthFailed, r"^unauthorized|requires a subscription"),
)

_ANY = re.compile("")
STATUSES: tuple[Row, ...] = (
    Row(AuthFailed, _ANY, frozenset({401})),
    Row(
        BadRequest,
        _ANY,
        frozenset({403}),
        advice="the server refuses this host name or origin, or has its cloud turned off: check OLLAMA_HOST and "
        "OLLAMA_ORIGINS there, and the Host header that a proxy sends",
    ),
    Row(
        BadRequest,
        _ANY,
        frozenset({404, 405}),
        advice="not an answer of Ollama's /api: check base_url for a wrong path or a proxy",
    ),
    Row(ServerError, _ANY, frozenset({408})),
    Row(RateLimited, _ANY, frozenset({429})),
    Row(
        ServerError,
        _ANY,
        frozenset({499}),
        facts=_NOBODY,
        advice="the request was cancelled on the way",
    ),
    Row(Overloaded, _ANY, frozenset({503, 529})),
    Row(Malformed, _ANY, frozenset(range(200, 300)), advice="a status that Ollama does not use"),
    Row(BadRequest, _ANY, frozenset(range(300, 400)), advice="redirects are not followed: set base_url to the target"),
    Row(BadRequest, _ANY, frozenset(range(400, 500))),
    Row(ServerError, _ANY),
)


def classify(status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
    """What an answer with this status (not 200) means. Header names are in lower case."""
    data = _object(body)
    text = body[:_LOOKED_AT].decode("utf-8", "replace") if data is None else ""
    text, detail = _said(data, text)
    error = _first(status, text, detail)
    error.retry_after = retry_after(headers, text)
    error.request_id = headers.get("x-request-id")
    return error


def in_band(data: Mapping[str, Any]) -> LLMError:
    """What a line `{"error": …}` means that came after a 200; some carry the status that would have been theirs."""
    status = data.get("status", data.get("status_code"))
    return _first(status if type(status) is int and status != 200 else None, *_said(data, ""))


def _first(status: int | None, text: str, detail: Mapping[str, Any]) -> LLMError:
    code = detail.get("type") if isinstance(detail.get("type"), str) else None
    error = _counted(text, detail)
    if error is None:
        error = _match(status, text)
    error.status = status
    error.code = shown(code) if code else None
    return error


def _counted(text: str, detail: Mapping[str, Any]) -> LLMError | None:
    """llama-server's own refusal, passed on by Ollama: it counted the prompt with the model's tokenizer."""
    tokens, limit = detail.get("n_prompt_tokens"), detail.get("n_ctx")
    if detail.get("type") != "exceed_context_size_error" or type(tokens) is not int or type(limit) is not int:
        return None
    return ContextOverflow(shown(text), tokens=tokens, limit=limit)


def _match(status: int | None, text: str) -> LLMError:
    for row in ROWS:
        if status is None or row.statuses is None or status in row.statuses:
            match = row.pattern.search(text)
            if match is not None:
                return _make(row, status, text, match)
    row = next(row for row in STATUSES if row.statuses is None or status in row.statuses)
    return _make(row, status, text, None)


def _make(row: Row, status: int | None, text: str, match: re.Match[str] | None) -> LLMError:
    groups = match.groupdict() if match is not None else {}
    said = shown(text) if row.quoted else ""
    if not said:
        said = "an error in the answer" if status is None else f"HTTP {status}"
    if row.advice:
        said += f" ({row.advice.format_map({name: shown(value or '') for name, value in groups.items()})})"
    facts = dict(row.facts)
    facts |= {name: int(value) for name, value in groups.items() if name in _SIZES and _MANY.fullmatch(value)}
    if "parameter" in groups:
        facts["parameter"] = _FIELDS.get(groups["parameter"].lower(), groups["parameter"].lower())
    return row.kind(said, **facts)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        data = from_json(body)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _said(data: Mapping[str, Any] | None, text: str) -> tuple[str, Mapping[str, Any]]:
    """The text of an error and, where it is an object or JSON within the text, that object."""
    if data is None:
        return text, {}
    error: Any = next((data[key] for key in ("error", "message", "detail") if data.get(key)), "")
    if isinstance(error, str):
        inner = _object(error.encode("utf-8", "replace")) if error.startswith("{") else None
        if inner is None:
            return error[:_LOOKED_AT], {}
        error = inner.get("error") or inner
    if not isinstance(error, dict):
        return "", {}
    message = error.get("message")
    return (message[:_LOOKED_AT] if isinstance(message, str) else ""), error
