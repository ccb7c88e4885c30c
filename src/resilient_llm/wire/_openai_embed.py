"""The vectors in an answer of `/embeddings`.

Rules of the file: they are put in the order of the texts by their `index`. Lists of numbers and base64 of
little-endian floats are both taken, whichever the server's default is.
"""

from __future__ import annotations

import binascii
import struct
from typing import Any

from resilient_llm._errors import Malformed
from resilient_llm._replies import Usage, Vectors
from resilient_llm.wire._checks import checked
from resilient_llm.wire._openai_errors import error_from
from resilient_llm.wire._openai_parts import figures
from resilient_llm.wire._vectors import matrix


def read_embeddings(answer: Any, count: int) -> Vectors:
    """The vectors for `count` texts.

    Raises:
        LLMError: the server reported an error with status 200.
        Malformed: vectors are missing, of unequal length, or hold something that is not a finite number.
    """
    first = answer[0] if isinstance(answer, list) and answer else answer
    if isinstance(first, dict) and (first.get("error") or first.get("object") == "error"):
        raise error_from(None, {}, first)
    checked(answer, dict, "the whole")
    vectors = matrix(_ordered(checked(answer.get("data"), list, "data"), count), count)
    model, usage = answer.get("model"), answer.get("usage")
    counted = Usage(**dict(figures(usage))) if isinstance(usage, dict) else Usage()  # type: ignore[arg-type]
    return Vectors(vectors, model if isinstance(model, str) and model else None, counted)


def _ordered(data: list[Any], count: int) -> list[Any]:
    if len(data) != count:
        return data  # `matrix` says so
    by_index: dict[int, Any] = {}
    for position, item in enumerate(data):
        checked(item, dict, "an element of data")
        index, given = item.get("index"), item.get("embedding")
        at = position if index is None else checked(index, int, "the index of a vector")
        by_index[at] = _decoded(given) if isinstance(given, str) else given
    if by_index.keys() != set(range(count)):
        raise Malformed("the vectors are not numbered from 0 to the last, each once")
    return [by_index[index] for index in range(count)]


def _decoded(text: str) -> list[float]:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    except (binascii.Error, struct.error, ValueError):
        raise Malformed("a vector is not base64 of 32-bit floats") from None
