"""The exact period of the end of a text."""

from __future__ import annotations

_PROBE = 32  # bytes of the end that are looked for further up
_TRIES = 64  # places where they stand that are looked at; more would mean a text made to be slow


def period(text: bytes, *, span: int, times: int) -> int | None:
    """The shortest period, in bytes, that the end of this text has kept to long enough, or `None`.

    Args:
        text: of which only the end counts.
        span: bytes that must be periodic, at the least.
        times: how often the period must be there, at the least.

    The longest period that is found is `len(text) // times`.
    """
    if len(text) < max(span, _PROBE + 1):
        return None
    # A text of period p has its last bytes again p before its end: only such places can be the answer.
    probe, end = text[-_PROBE:], len(text) - 1
    for _ in range(_TRIES):
        found = text.rfind(probe, max(0, len(text) - _PROBE - len(text) // times), end)
        if found < 0:
            return None
        length = len(text) - _PROBE - found
        needed = max(span, times * length)
        if needed <= len(text) and text[-needed:-length] == text[length - needed :]:
            return length
        end = found + _PROBE - 1
    return None
