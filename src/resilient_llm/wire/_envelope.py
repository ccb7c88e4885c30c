"""Finds the error in what a server sent: message, codes and status, however they are wrapped.

It exists because sixteen servers wrap errors in ten ways: flat, nested, in arrays, as JSON inside a string, as a list
of validation details, as HTML, as nothing. Rules of the file: only known keys are followed, because servers echo the
request beside their message; whatever cannot be read is left out, nothing raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

_LEVELS = 8  # three envelopes of two steps each, and two for the details
_MESSAGES = ("message", "msg", "faultstring", "error_description", "title")
_CODES = ("code", "type", "error_type", "errorcode", "status", "limit_source", "reason", "quotaId")
_INNER = ("error", "fault", "detail", "innererror", "metadata", "raw", "details", "violations", "errors", "message")
_SIZES = {"n_prompt_tokens": "tokens", "n_ctx": "limit"}  # llama.cpp
_STATUS = re.compile(r"[45]\d\d", re.ASCII)


@dataclass(slots=True)
class Envelope:
    """What was found.

    Attributes:
        message: the innermost one.
        codes: every code and type, from the outside in, in lower case.
        param: the field that the server blames.
        status: the HTTP status that the body claims.
        sizes: `tokens` and `limit`, where the server counts them.
        json: the parsed body.
    """

    message: str = ""
    codes: list[str] = field(default_factory=list)
    param: str | None = None
    status: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    json: object = None

    @property
    def code(self) -> str | None:
        """The server's own word for the error: the first that is one and not a number."""
        return next((code for code in self.codes if not code.isdigit()), None)


def open_envelope(body: bytes | object) -> Envelope:
    """The error in a body, or in the part of one that is already parsed."""
    found = Envelope()
    found.json = _parsed(body) if isinstance(body, (bytes, str)) else body
    _walk(found.json, found, _LEVELS)
    return found


def _parsed(text: bytes | str) -> object:
    try:
        return from_json(text)
    except ValueError:  # HTML, an empty body, plain text
        if isinstance(text, str):
            return text
        stripped = text.strip()
        return None if stripped.startswith(b"<") else stripped[:4096].decode("utf-8", "replace")


def _walk(value: object, found: Envelope, levels: int) -> None:
    if not levels:
        return
    if isinstance(value, list):
        for one in value[:8]:
            _walk(one, found, levels - 1)
    elif isinstance(value, str):
        if value.lstrip()[:1] in ("{", "["):
            inner = _parsed(value)
            if not isinstance(inner, str):
                _walk(inner, found, levels - 1)
                return
        if value.strip():
            found.message = value
    elif isinstance(value, dict):
        _fields(value, found)
        for key in _INNER:
            if key in value:
                _walk(value[key], found, levels - 1)


def _fields(value: dict[str, Any], found: Envelope) -> None:
    for key in _MESSAGES:
        text = value.get(key)
        if isinstance(text, str) and text.strip():
            found.message = text
            break
    for key in _CODES:
        code = value.get(key)
        if isinstance(code, str) and code:
            found.codes.append(code.lower())
    for key in ("code", "status_code", "status"):
        code = value.get(key)
        if not isinstance(code, bool) and isinstance(code, (int, str)) and _STATUS.fullmatch(str(code)[:9]):
            found.status = int(code)
    param = value.get("param")
    where = value.get("loc")
    if isinstance(param, str) and param:
        found.param = param
    elif isinstance(where, list) and where:
        found.param = str(where[-1])[:100]
    for key, name in _SIZES.items():
        size = value.get(key)
        if isinstance(size, int) and not isinstance(size, bool):
            found.sizes[name] = size
