"""What the model behind a fake server can do: count, make vectors, write JSON. All of it depends on its input alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any


def tokens(*texts: str) -> int:
    """The tokens in these texts by the one rule of every fake: a quarter of the characters, rounded up."""
    return -(-sum(map(len, texts)) // 4)


def texts_of(messages: object) -> list[str]:
    """The texts of a list of messages, parts joined; what has no text counts as empty."""
    return [_text(one.get("content")) for one in _dicts(messages)]


def roles_of(messages: object) -> list[str]:
    """The roles of the same messages, in their order."""
    return [str(one.get("role")) for one in _dicts(messages)]


def _text(content: object) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in _dicts(content))


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    return (one for one in value if isinstance(one, Mapping)) if isinstance(value, list) else iter(())


def integer(value: object) -> int | None:
    """A whole number, cut as Go cuts it; `None` for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)


def vector(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 that depends on the text alone."""
    raw = hashlib.shake_256(text.encode("utf-8", "replace")).digest(2 * dimensions)
    numbers = [int.from_bytes(raw[at : at + 2], "big") - 32767.5 for at in range(0, len(raw), 2)]
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def encode(value: object) -> bytes:
    """JSON without blanks, in UTF-8, as these servers write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
