"""How long a server asks us to wait, and what it calls the request.

It exists because a dozen servers say it in a dozen ways: milliseconds, seconds, dates, Go durations, epochs, prose,
in headers and in bodies. Rules of the file: the most exact source wins; what cannot be read is not there (`None`),
never zero and never an exception; header names are in lower case. The patterns are strings, which `re` compiles when
a server first refuses.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_UNITS = (1e-6, 1e-3, 1.0, 60.0, 3600.0, 86400.0)  # seconds, in the order of the groups of `_PART`
_NUMBER = r"\d{1,300}(?:\.\d{0,300})?"
# Go's "2m59.56s" as well as prose's "2 minutes"; a unit is not followed by a letter, so that "ms" is no minute.
_PART = (
    r"(\d{1,18}(?:\.\d{1,18})?)\s?"
    r"(?:(us|µs)|(ms|milliseconds?)|(s|secs?|seconds?)|(m|mins?|minutes?)|(h|hrs?|hours?)|(d|days?))(?![a-z])"
)
_PROSE = (
    r"(?:try again|retry(?: your request)?|resets?|wait)(?: in| after| for)? (?:about |approximately )?"
    rf"((?:{_PART},?\s?){{1,4}})"
)
_PLAIN = re.ASCII | re.IGNORECASE
_LOOKED_AT = 4096  # characters of a message; the hint is never further in, an echoed prompt may be
_NODES = 500  # of a body; Gemini's RetryInfo is among the first twenty
_BODY = ("retryDelay", "resets_at", "headers")  # Gemini; OpenRouter's budgets; what OpenRouter quotes
_QUOTED = "llm_provider-"  # LiteLLM puts this before a header of the server behind it

_LONGEST = 366 * 86400.0  # seconds; more is no hint but a unit misread
_REQUEST_IDS = (
    "x-request-id",  # OpenAI, Groq, vLLM
    "request-id",  # Anthropic
    "apim-request-id",  # Azure
    "mistral-correlation-id",
    "x-generation-id",  # OpenRouter
    "inference-id",  # Cerebras
    "x-litellm-call-id",
    "cf-ray",  # any server behind Cloudflare, last because it names the hop and not the request
)


def retry_after(
    headers: Mapping[str, str],
    message: str = "",
    body: object = None,
    *,
    now: Callable[[], float] = time.time,
) -> float | None:
    """Seconds to wait before the next request, as far as the server says.

    Args:
        headers: with names in lower case.
        message: the server's text, where "try again in 4.77s" may stand.
        body: the parsed JSON of the answer, where Gemini's `retryDelay` and OpenRouter's quoted headers may stand.
        now: the wall clock, in seconds since the epoch; dates and epochs are counted from it.

    Returns:
        From the first of these that can be read: `retry-after-ms`, `x-ms-retry-after-ms`, `retry-after`, the same of
        the server behind a proxy, `RetryInfo.retryDelay`, `resets_at`, the message, the reset time of a bucket whose
        `remaining` is 0 (the latest, if several are). Negative, not finite or longer than a year: not a hint, the next
        source is asked. Not clamped otherwise.
    """
    for seconds in _candidates(headers, message, body, now):
        if seconds is not None and 0 <= seconds <= _LONGEST:  # also turns NaN away
            return seconds
    return None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """What the server itself says of a repeat: `x-should-retry`, which OpenAI and Anthropic send."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def request_id(headers: Mapping[str, str]) -> str | None:
    """The server's id of the request, to be quoted to its support; at most 128 characters."""
    for name in _REQUEST_IDS:
        value = headers.get(name, "").strip()[:128]
        if value and value.isascii() and value.isprintable():
            return value
    return None


def _candidates(
    headers: Mapping[str, str], message: str, body: object, now: Callable[[], float]
) -> Iterator[float | None]:
    for prefix in ("", _QUOTED):
        for name in ("retry-after-ms", "x-ms-retry-after-ms"):
            milliseconds = _number(headers.get(prefix + name, ""))
            yield None if milliseconds is None else milliseconds / 1000
        yield _wait(headers.get(prefix + "retry-after", ""), now)
    found = dict(_search(body))
    yield _delay(found.get("retryDelay"), now)
    yield _delay(found.get("resets_at"), now)
    prose = re.search(_PROSE, message[:_LOOKED_AT], _PLAIN)
    yield _duration(prose[1]) if prose else None
    yield _exhausted(headers, now)
    quoted = found.get("headers")
    if isinstance(quoted, Mapping):
        lower = {str(name).lower(): str(value) for name, value in quoted.items()}
        yield _wait(lower.get("retry-after", ""), now)
        yield _exhausted(lower, now)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(_NUMBER, text := text.strip(), re.ASCII) else None


def _duration(text: str) -> float | None:
    """`6m0s`, `12ms`, `2m59.56s`, `18h31m10s`, `2 minutes`: the sum of its parts, if it consists of them."""
    if re.sub(_PART, "", text, flags=_PLAIN).strip(", "):
        return None
    parts = re.findall(_PART, text, _PLAIN)
    if not parts:
        return None
    return sum(
        float(number) * unit for number, *given in parts for unit, name in zip(_UNITS, given, strict=True) if name
    )


def _wait(text: str, now: Callable[[], float]) -> float | None:
    """Any of the forms that a header takes: duration, seconds, epoch in seconds or milliseconds, date."""
    text = text.strip()[:64]
    number = _number(text)
    if number is None:
        seconds = _duration(text)
        return seconds if seconds is not None else _until(text, now)
    if number > 1e12:
        return number / 1000 - now()
    return number - now() if number > 1e9 else number


def _until(text: str, now: Callable[[], float]) -> float | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(text)
            aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return aware.timestamp() - now()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _delay(value: object, now: Callable[[], float]) -> float | None:
    if isinstance(value, Mapping):  # protobuf's Duration, written out
        value = value.get("seconds")
    return _wait(str(value), now) if isinstance(value, (str, int, float)) else None


def _search(body: object) -> list[tuple[str, Any]]:
    """The fields that hold a hint, wherever they stand. The outermost comes last and so wins."""
    todo: list[object] = [body]
    found: list[tuple[str, Any]] = []
    for node in todo:
        if len(todo) > _NODES:
            break
        if isinstance(node, Mapping):
            found += [(name, node[name]) for name in _BODY if name in node]
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return found[::-1]


def _exhausted(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """The reset time of the buckets that are empty. A bucket that is not says nothing about this request."""
    waits: list[float] = []
    for name, value in headers.items():
        if "remaining" in name and _number(value) == 0:
            wait = _wait(headers.get(name.replace("remaining", "reset"), ""), now)
            if wait is not None and wait > 0:  # Azure writes 0 and -1 for "unknown"
                waits.append(wait)
    return max(waits, default=None)
