"""How much of a local model the CPU computes, and whether that is more than was meant.

A model that does not fit on the GPU, or whose GPU went away, answers as ever, five to ten times slower
(ollama/ollama#14258, #10848). Only the server's list of what is loaded tells. Rules of the file: pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

ROUNDED = 0.05  # of a model; less on the CPU is within what `/api/ps` rounds
_COUNTED_TWICE = ((0, 30, 0), (0, 30, 9))  # in these versions /api/ps takes a mapped file for memory of the CPU, too


class Spill:
    """The CPU's share of one model.

    Args:
        meant: the caller has said how much of it the GPU is to have.

    Attributes:
        share: of the CPU, 0 to 1, as it was told last.
    """

    __slots__ = ("_gpu", "_least", "_meant", "share")

    def __init__(self, *, meant: bool = False) -> None:
        self.share: float | None = None
        self._meant = meant
        self._least = math.inf
        self._gpu = False  # the server has one: it was seen in use

    def saw(self, vram: Iterable[int | None]) -> None:
        """The server's models have these bytes on a GPU."""
        self._gpu = self._gpu or any(vram)

    def told(self, share: float | None) -> None:
        """The CPU has this share of the model now."""
        self.share = share
        if share is not None:
            self._least = min(self._least, share)

    def spilled(self, version: tuple[int, ...] | None) -> bool:
        """A part of the model is computed by the CPU that was not told to: by its caller, or for want of any GPU."""
        if self.share is None or self._meant:
            return False
        if self.share == 1:
            return self._gpu
        first, fixed = _COUNTED_TWICE
        return self.share > ROUNDED + (self._least if first <= (version or ()) < fixed else 0.0)

    def __repr__(self) -> str:
        return f"Spill({self.share})"
