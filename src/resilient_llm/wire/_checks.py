"""What every decoder checks before it believes a server.

Rules of the file: a field that decides about the answer and is of a wrong type is `Malformed`; the message names the
field, never its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from resilient_llm._errors import LLMError, Malformed, Truncated


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
