"""The answer to an embedding request, from bytes to vectors, for every server.

It exists because a vector that is missing, of another length or not a number poisons an index for good and in silence.
Rules of the file: all of an answer is checked before one vector is handed over. How a server wraps its vectors is the
business of its own module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from resilient_llm._errors import Malformed
from resilient_llm._replies import Vectors
from resilient_llm.wire import WireEvent
from resilient_llm.wire._checks import checked, whole

MAX_BODY = 128 * 1024 * 1024  # bytes: 2048 vectors of 3072 numbers in decimal digits


class EmbedDecoder:
    """Decodes one answer; see `wire.Decoder`.

    Args:
        count: how many texts were sent.
        read: finds the vectors in the parsed answer.
    """

    __slots__ = ("_body", "_count", "_read", "finishing")

    def __init__(self, count: int, read: Callable[[Any, int], Vectors]) -> None:
        self.finishing = False
        self._body = bytearray()
        self._count = count
        self._read = read

    def feed(self, data: bytes) -> list[WireEvent]:
        """Nothing yet: the vectors come when the body is whole.

        Raises:
            Malformed: the body is longer than 128 MiB.
        """
        self._body += data
        if len(self._body) > MAX_BODY:
            raise Malformed(f"the answer is longer than {MAX_BODY} bytes")
        return []

    def close(self) -> list[WireEvent]:
        """The vectors.

        Raises:
            LLMError: the server reported an error with status 200.
            Malformed: vectors are missing, of unequal length, or hold something that is not a finite number.
            Truncated: the body ended too early.
        """
        return [self._read(whole(bytes(self._body).removeprefix(b"\xef\xbb\xbf")), self._count)]


def matrix(rows: list[Any], count: int) -> list[list[float]]:
    """The rows as vectors of one length, of finite numbers, one for each text.

    Raises:
        Malformed: they are not.
    """
    if len(rows) != count:
        raise Malformed(f"{count} texts were sent and {len(rows)} vectors came back")
    vectors = [_vector(row) for row in rows]
    if len({len(vector) for vector in vectors}) > 1 or not vectors[0]:
        raise Malformed("the vectors are empty or not of one length")
    return vectors


def _vector(row: Any) -> list[float]:
    if not all(type(number) in (float, int) for number in checked(row, list, "a vector")):
        raise Malformed("a vector holds something that is not a number")
    try:
        vector = [float(number) for number in row]
    except OverflowError:  # an integer of more than 308 digits
        raise Malformed("a vector holds a number that is not finite") from None
    if not all(map(math.isfinite, vector)):
        raise Malformed("a vector holds a number that is not finite")
    return vector
