"""What Ollama means when it refuses: one table from its words to our errors.

Why: its statuses do not tell. A wrong option is a 500, a crashed runner behind /api/embed a 400, a prompt that is too
long a 400 whose text is itself JSON, and after a 200 there is no status at all. So the text decides, and the status
only where the text says nothing known.

Rules of the file: codes and numbers in JSON come before text; the first row that fits wins; a row is data. A server's
text goes through `shown`; a text that holds what the model wrote is never quoted, and its row comes first, because it
may hold the words of any other. Patterns have no open ends: their time is linear in a text that a server chose.
Sources: api/types.go, server/routes.go and llm/llama_server.go of ollama 0.33, answers of a real 0.9.3, and the issues
of ollama/ollama that a row names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
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
from resilient_llm.wire._hints import request_id, retry_after
from resilient_llm.wire._shown import shown

_LOOKED_AT = 16 * 1024  # bytes of a body without JSON, and characters of a text, that are searched
_NOT_AGAIN: Mapping[str, Any] = {"retryable": False}
_NOBODY: Mapping[str, Any] = {"fault": "nobody"}
_SIZES = ("tokens", "limit")
_MANY = re.compile(r"\d{1,15}")


@dataclass(frozen=True, slots=True)
class Row:
    """What a text means.

    Attributes:
        kind: the error.
        words: a pattern, searched in the text; its named groups `tokens`, `limit` and `parameter` become facts.
        facts: more arguments of the error.
        advice: what the reader can do; named groups may stand in it.
        quoted: the text may be shown.
    """

    kind: type[LLMError]
    words: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""
    quoted: bool = True

    @property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when a server first refuses, and kept by `re`: importing the package need not wait for that."""
        return re.compile(self.words, re.IGNORECASE)


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
    # What the model wrote: its text is in the message and stays there (ollama/ollama#17638, #12884)
    Row(
        OutputInvalid,
        r"error parsing tool call",
        quoted=False,
        advice="the model wrote a tool call that cannot be read",
    ),
    # The prompt, or what was written after it, is larger than the window. Where the server counted, so do we.
    Row(ContextOverflow, r"request \((?P<tokens>\d+) tokens\) exceeds the available context size \((?P<limit>\d+) t"),
    Row(
        ContextOverflow,
        r"input length \((?P<tokens>\d+) tokens\) exceeds the model's maximum context length \((?P<limit>\d+) t",
    ),
    Row(ContextOverflow, r"prompt is longer than the context length|context size has been exceeded"),
    Row(ContextOverflow, r"input length exceeds (?:the |maximum )*context length|exceed_context_size_error"),
    # The caller's request
    Row(UnsupportedParameter, r"does not support (?P<parameter>thinking|tools|images)\b"),
    Row(UnsupportedParameter, r"think value .{0,200} is not supported", facts={"parameter": "think"}),
    # a level of thinking, where think is yes or no: before 0.10
    Row(UnsupportedParameter, r"cannot unmarshal \w{1,20} into [\w ]{1,40}\.think\b", facts={"parameter": "think"}),
    Row(UnsupportedParameter, r"missing data required for image input", facts={"parameter": "images"}),
    Row(BadRequest, r"does not support (?:generate|chat|embeddings?|insert)\b"),
    Row(BadRequest, r"option \"?[^\"]{0,200}\"? must be of type|invalid format:|invalid JSON schema in format"),
    Row(
        ModelNotFound,
        r"model ['\"]?(?P<model>[^'\"\s]{1,400})['\"]? not found",
        advice="`ollama pull {model}` brings it there",
    ),
    # The server. Memory and models that do not load come first: the same messages say that the process has terminated
    Row(
        ServerError,
        _OUT_OF_MEMORY,
        facts=_NOT_AGAIN,
        advice="the model does not fit into memory: a smaller num_ctx or model may",
    ),
    Row(
        ServerError,
        r"failed to load model.{0,400}incompatible|incompatible with your version|unknown model architecture",
        facts=_NOT_AGAIN,
    ),
    Row(Overloaded, r"maximum pending requests exceeded", facts=_NOBODY),
    Row(QuotaExhausted, r"usage limit"),  # of Ollama's cloud (ollama/ollama#15934)
    Row(ServerError, _RUNNER),
    Row(Overloaded, r"server (?:is )?overloaded"),  # of Ollama's cloud, with a 503
    Row(AuthFailed, r"^unauthorized|requires a subscription"),
)

# What a status alone means.
STATUSES: tuple[tuple[Collection[int], Row], ...] = (
    ({401}, Row(AuthFailed)),
    (
        {403},
        Row(
            BadRequest,
            advice="the server refuses this host name or origin, or has its cloud turned off: check OLLAMA_HOST and"
            " OLLAMA_ORIGINS there, and the Host header that a proxy sends",
        ),
    ),
    ({404, 405}, Row(BadRequest, advice="not Ollama's /api: check base_url for a wrong path or a proxy")),
    ({408}, Row(ServerError)),
    ({429}, Row(RateLimited)),
    ({499}, Row(ServerError, facts=_NOBODY, advice="the request was cancelled on the way")),
    ({503, 529}, Row(Overloaded)),
    (range(200, 300), Row(Malformed, advice="a status that Ollama does not use")),
    (range(300, 400), Row(BadRequest, advice="redirects are not followed: set base_url to the target")),
    (range(400, 500), Row(BadRequest)),
)
_FAILED = Row(ServerError)


def classify(status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
    """What an answer with this status (not 200) means. Header names are in lower case."""
    data = _object(body)
    text = body[:_LOOKED_AT].decode("utf-8", "replace") if data is None else ""
    text, detail = _said(data, text)
    error = _first(status, text, detail)
    error.retry_after = retry_after(headers, text)
    error.request_id = request_id(headers)
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
        match = row.pattern.search(text)
        if match is not None:
            return _make(row, status, text, match.groupdict())
    row = next((row for statuses, row in STATUSES if status in statuses), _FAILED)
    return _make(row, status, text, {})


def _make(row: Row, status: int | None, text: str, groups: Mapping[str, str]) -> LLMError:
    said = shown(text) if row.quoted else ""
    if not said:
        said = "an error in the answer" if status is None else f"HTTP {status}"
    if row.advice:
        said += f" ({row.advice.format_map({name: shown(value) for name, value in groups.items()})})"
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
