"""An answer of a type: the schema that is asked for, and the check of what came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from resilient_llm._errors import OutputInvalid
from resilient_llm._tools import schema_of

T = TypeVar("T")


def typed(kind: type[T]) -> tuple[Mapping[str, Any], Callable[[str], tuple[T, bool]]]:
    """The JSON schema of a type, and what turns the text of an answer into it, or raises `OutputInvalid`.

    The second value of that is whether the text had to be repaired: it was taken out of its code fence.

    Raises:
        ConfigError: there is no schema for this type.
    """
    adapter, schema = schema_of(kind)
    name = getattr(kind, "__name__", kind)

    def check(text: str) -> tuple[T, bool]:
        inner = _unfenced(text)
        try:
            output: T = adapter.validate_json(text if inner is None else inner)
        except ValidationError as error:
            wrong = _first(error, schema)
        else:
            return output, inner is not None
        finally:
            del text, inner  # an error's traceback shows the locals of this frame to whoever prints them
        # Out here, because pydantic's error, which holds the answer, would be its context.
        raise OutputInvalid(f"the answer is not a {name}: {wrong}", kind="schema")

    return schema, check


def _unfenced(text: str) -> str | None:
    """What stands in a code fence that is the whole text: who is asked for JSON only in words likes to add one."""
    whole = text.strip()
    if not (whole.startswith("```") and whole.endswith("```")):
        return None
    return whole[3:-3].partition("\n")[2]  # behind the name of the language


def _first(error: ValidationError, schema: object) -> str:
    """What is wrong first, without a word of the answer: neither the value nor a name that is not in the schema."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    known = repr(schema)
    place = [str(part) if isinstance(part, int) or repr(part) in known else "…" for part in detail["loc"]]
    return f"{'.'.join(place)}: {detail['type']}" if place else detail["type"]
