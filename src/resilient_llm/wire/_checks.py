"""What every decoder checks before it believes a server.

Rules of the file: a field that decides about the answer and is of a wrong type is `Malformed`; the message names the
field, never its value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from resilient_llm._errors import EmptyReply, LLMError, Malformed, OutputInvalid, Truncated

_NAME = 512  # characters of a name; llama.cpp's models are called by their path


def checked(value: Any, wanted: type, name: str) -> Any:
    """`value`, which must be of the type.

    Raises:
        Malformed: it is of another; the message names the field, never the value.
    """
    if type(value) is not wanted:
        raise Malformed(f"{name} in the answer is {type(value).__name__}, not {wanted.__name__}")
    return value


def whole(body: bytes) -> Any:
    """The one JSON value that a body is.

    Raises:
        Truncated: it ends inside the value, or before it began.
        Malformed: it is something else.
    """
    try:
        return from_json(body)
    except ValueError as error:
        raise unreadable(body, error, last=True) from None


def unreadable(text: bytes, error: ValueError, *, last: bool) -> LLMError:
    """What it means that `text` is not JSON.

    Args:
        text: that it is.
        error: the parser's; it quotes nothing of it.
        last: the body ended with it, so that it may have been cut.
    """
    if text.lstrip()[:1] == b"<":
        return Malformed("the server sent a page of HTML instead of an answer")
    if last and "EOF" in str(error):
        return Truncated("the answer ended inside its JSON")
    return Malformed(f"the answer is not JSON: {error}")


def counts(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, int]:
    """The counts among `values`, by our names for theirs; what is no count is left out."""
    found = {ours: values.get(theirs) for theirs, ours in names.items()}
    return {ours: value for ours, value in found.items() if type(value) is int and value >= 0}


def is_name(text: str) -> bool:
    """It can stand for something in a log: it is there, it is short and it has no control characters."""
    return 0 < len(text) <= _NAME and text.isprintable()


def name_in(chunk: Mapping[str, Any], key: str) -> str | None:
    """A name that the server gives, if it is one."""
    value = chunk.get(key)
    return value if isinstance(value, str) and is_name(value) else None


def finite(value: Any) -> bool:
    """No number in a parsed value is infinite or none: `1e999` becomes infinity, which no JSON can say again."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, float) and not math.isfinite(one):
            return False
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return True


def one_meaning(text: str | bytes) -> bool:
    """Every object in a JSON text has each of its keys once: of two, one program takes the first, another the last.

    The text is one that another parser has already accepted, which bounds its depth.
    """
    try:
        json.loads(text, object_pairs_hook=_once)
    except ValueError:
        return False
    return True


def read_once(text: str | bytes) -> None:
    """Refuses the text of tool calls whose arguments were parsed with it.

    Raises:
        OutputInvalid: an object in it has a key twice.
    """
    if not one_meaning(text):
        raise OutputInvalid("the model wrote a tool call with arguments that have a key twice")


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError


def spent(limit: int | None, hidden: int | None = None) -> EmptyReply:
    """The token limit came before the first word. The same request would spend it again.

    Args:
        limit: the tokens of the limit, as far as known.
        hidden: the tokens of them that went into reasoning that the server does not show.
    """
    size = f"the limit of {limit} tokens" if limit else "the token limit"
    where = f", {hidden} tokens of it on reasoning that is not shown" if hidden else ""
    return EmptyReply(f"{size} was spent before any text{where}; raise max_tokens", retryable=False)
