"""Undoing a compression that was not asked for.

We ask for `identity`; a proxy in between may compress all the same. One piece from the network may not grow beyond a
bound: a gzip bomb turns 64 kB into 64 MB.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from resilient_llm._errors import Malformed

LARGEST = 16 * 1024 * 1024  # bytes that one piece from the network may become
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's window bits, which also choose the format


def inflater(encoding: str) -> Callable[[bytes], bytes] | None:
    """A function that decompresses the body piece by piece; `None` if it is not compressed.

    Raises:
        Malformed: the encoding is not one that we know, or (from the function) the data is broken or grows too large.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in _WINDOW:
        raise Malformed(f"the body is compressed as {encoding[:20]!r} though identity was asked for")
    state = zlib.decompressobj(_WINDOW[encoding])

    def inflate(data: bytes) -> bytes:
        try:
            plain = state.decompress(data, LARGEST)
        except zlib.error:
            raise Malformed(f"the body is not valid {encoding}") from None
        if state.unconsumed_tail:
            raise Malformed(f"the {encoding} body grows by more than {LARGEST >> 20} MiB at once")
        return plain

    return inflate
