"""Finds the error in what a server sent: message, codes and status, however they are wrapped.

It exists because sixteen servers wrap errors in eleven ways: flat, nested, in arrays, as JSON inside a string, as a
list of validation details, as HTML, as nothing. Rules of the file: only known keys are followed, because servers echo
the request beside their message; what is cut off is read as far as it goes; whatever cannot be read is left out,
nothing raises; a name that a server gives (a code, a field, a category) is a word of a bounded length, or not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import from_json

_LEVELS = 8  # three envelopes of two steps each, and two for the details
_MANY = 8  # elements of a list, categories of a filter
_MESSAGES = ("message", "msg", "faultstring", "error_message", "error_description", "title")
_CODES = ("code", "type", "error_type", "errorcode", "status", "limit_source", "reason", "quotaId")
_STATUSES = ("code", "raw_status_code", "status_code", "status")  # not TGI's `http_status_code`: it is always 422
_INNER = (
    "error", "fault", "detail", "innererror", "provider_specific_fields", "metadata", "raw", "details", "violations",
    "errors", "message",
)  # fmt: skip
_FILTERS = ("content_filter_result", "content_filter_results")  # Azure
_SIZES = {"n_prompt_tokens": "tokens", "n_ctx": "limit"}  # llama.cpp
_STATUS = re.compile(r"[45]\d\d", re.ASCII)
_CODE = re.compile(r"[A-Za-z][\w.:-]{0,99}", re.ASCII)  # xAI's are sentences: they are told apart, but not shown
_FIELD = re.compile(r"[\w.\[\]-]{1,100}", re.ASCII)
_CATEGORY = re.compile(r"[A-Za-z][\w ./-]{0,49}", re.ASCII)
_NO_TEXT = re.compile(rb"[{\[]|<[A-Za-z!?]")
_CUT: tuple[Literal[False], Literal["trailing-strings"]] = (False, "trailing-strings")


@dataclass(slots=True)
class Envelope:
    """What was found.

    Attributes:
        message: the innermost one.
        codes: every code and type, from the outside in, in lower case.
        param: the field that the server blames.
        status: the HTTP status that the body claims.
        sizes: `tokens` and `limit`, where the server counts them.
        categories: what a content filter stopped.
        json: the parsed body.
    """

    message: str = ""
    codes: list[str] = field(default_factory=list)
    param: str | None = None
    status: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    json: object = None

    @property
    def code(self) -> str | None:
        """The server's own word for the error: the first that is one and not a number."""
        return next((code for code in self.codes if _CODE.fullmatch(code)), None)


def open_envelope(body: bytes | object) -> Envelope:
    """The error in a body, or in the part of one that is already parsed."""
    found = Envelope()
    found.json = _parsed(body) if isinstance(body, (bytes, str)) else body
    _walk(found.json, found, _LEVELS)
    return found


def filtered(results: object) -> tuple[str, ...]:
    """The categories that stopped the text, in one of Azure's lists of them; the others were only looked at."""
    if not isinstance(results, dict):
        return ()
    hits = [name for name, result in results.items() if isinstance(result, dict) and result.get("filtered") is True]
    return tuple(name for name in hits[:_MANY] if _CATEGORY.fullmatch(name))


def _parsed(text: bytes | str) -> object:
    """JSON, whole or cut off; else the text itself. HTML says nothing, and broken JSON holds what it echoes."""
    for partial in _CUT:
        try:
            return from_json(text, allow_partial=partial)
        except ValueError:
            continue
    if isinstance(text, str):
        return text
    stripped = text.strip()
    return None if _NO_TEXT.match(stripped) else stripped[:4096].decode("utf-8", "replace")


def _walk(value: object, found: Envelope, levels: int) -> None:
    if not levels:
        return
    if isinstance(value, list):
        for one in value[:_MANY]:
            _walk(one, found, levels - 1)
    elif isinstance(value, str):
        if _wraps(value):
            inner = _parsed(value)
            if not isinstance(inner, str):
                _walk(inner, found, levels - 1)
                return
        if value.strip():
            found.message = value
    elif isinstance(value, dict):
        said = _fields(value, found)
        for key in _INNER:
            inner = value.get(key)
            if inner and not (said and isinstance(inner, str) and not _wraps(inner)):
                _walk(inner, found, levels - 1)


def _wraps(text: str) -> bool:
    """It may be JSON and not words."""
    return text.lstrip()[:1] in ("{", "[")


def _fields(value: dict[str, Any], found: Envelope) -> bool:
    """Takes what stands in one object; tells whether it has words of its own, which go before those beside them."""
    said = next((text for key in _MESSAGES if isinstance(text := value.get(key), str) and text.strip()), None)
    found.message = said or found.message
    for key in _CODES:
        code = value.get(key)
        if isinstance(code, str) and code:
            found.codes.append(code[:1000].lower())
    for key in _STATUSES:
        code = value.get(key)
        if type(code) is int and 400 <= code <= 599:
            found.status = code
        elif isinstance(code, str) and _STATUS.fullmatch(code):
            found.status = int(code)
    for key, name in _SIZES.items():
        size = value.get(key)
        if type(size) is int and 0 <= size < 10**15:
            found.sizes[name] = size
    _blamed(value, found)
    _stopped(value, found)
    return said is not None


def _blamed(value: dict[str, Any], found: Envelope) -> None:
    """The field: `param`, or pydantic's path to it, `["body", "stream_options"]`."""
    param, where = value.get("param"), value.get("loc")
    if isinstance(where, list) and (found.param is None or value.get("type") == "extra_forbidden"):
        param = ".".join(str(step) for step in where[:9] if step != "body")
    if isinstance(param, str) and _FIELD.fullmatch(param):
        found.param = param


def _stopped(value: dict[str, Any], found: Envelope) -> None:
    reasons = value.get("reasons")  # OpenRouter, of its moderation
    if isinstance(reasons, list):
        found.categories = tuple(
            reason for reason in reasons[:_MANY] if isinstance(reason, str) and _CATEGORY.fullmatch(reason)
        )
    for key in _FILTERS:
        found.categories = filtered(value.get(key)) or found.categories
