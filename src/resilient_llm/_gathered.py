"""The pieces of an answer while they come in.

Rules of the file: an event costs an append and one comparison. What watches the answer is made when it first looks,
which most answers are over before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from resilient_llm._replies import Done, ReasoningDelta, TextDelta, Vectors
from resilient_llm._types import ToolCall
from resilient_llm.sentinels import EVERY, Lookout
from resilient_llm.wire import ToolPiece, WireEvent


class Gathered:
    """The pieces of an answer.

    Attributes:
        over: the server said that it was done.
    """

    __slots__ = ("_building", "_due", "_lookout", "_make", "calls", "done", "over", "texts", "thoughts", "vectors")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []
        self._building: list[str] = []  # the pieces of tool calls
        self.vectors: Vectors | None = None
        self.done: Done | None = None
        self.over = False
        self._make: Callable[[], Lookout] | None = None
        self._lookout: Lookout | None = None
        self._due = sys.maxsize  # the number of texts at which it is looked at; any other piece makes it one less

    def watched(self, make: Callable[[], Lookout]) -> None:
        """From now on it is looked at whether it has to be cut, every so many pieces and when its limit ended it."""
        self._make, self._due = make, EVERY

    def add(self, batch: Sequence[WireEvent]) -> None:
        """Takes events in.

        Raises:
            OutputInvalid: the answer has to be cut.
        """
        for event in batch:
            kind = type(event)
            if kind is TextDelta:
                self.texts.append(event.text)  # type: ignore[union-attr]  # `type() is` is faster and not narrowed
            elif kind is ReasoningDelta:
                self.thoughts.append(event.text)  # type: ignore[union-attr]
                self._due -= 1
            elif kind is ToolPiece:
                self._building.append(event.text)  # type: ignore[union-attr]
                self._due -= 1
            elif isinstance(event, Done):
                self.done, self.over = event, True
                # An answer that ends by itself is one, whatever it repeats; where its limit cut it, it is looked at.
                self._due = -1 if event.finish_reason == "length" else sys.maxsize
            elif isinstance(event, ToolCall):
                self.calls.append(event)
            elif isinstance(event, Vectors):
                self.vectors, self.over = event, True
        if len(self.texts) >= self._due:
            self._look()

    def _look(self) -> None:
        if self._make is None:
            return
        if self._lookout is None:
            self._lookout = self._make()
        self._due = len(self.texts) + EVERY
        fault = self._lookout.look(self.texts, self.thoughts, self._building)
        if fault is not None:
            raise fault

    def __repr__(self) -> str:
        return f"Gathered({sum(map(len, self.texts))} chars)"
