"""The pieces of an answer while they come in."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from resilient_llm._replies import Done, ReasoningDelta, TextDelta, Vectors
from resilient_llm._types import ToolCall
from resilient_llm.sentinels import EVERY, Lookout
from resilient_llm.wire import WireEvent


class Gathered:
    """The pieces of an answer.

    Attributes:
        lookout: looks whether it has to be cut, every so many pieces and when its limit ended it.
    """

    __slots__ = ("_due", "calls", "done", "lookout", "texts", "thoughts", "vectors")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []
        self.vectors: Vectors | None = None
        self.done: Done | None = None
        self.lookout: Lookout | None = None
        self._due = sys.maxsize

    def watched(self, lookout: Lookout) -> None:
        """From now on it is looked at."""
        self.lookout, self._due = lookout, EVERY

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
            elif isinstance(event, ToolCall):
                self.calls.append(event)
            elif isinstance(event, Done):
                self.done = event
            elif isinstance(event, Vectors):
                self.vectors = event
        if len(self.texts) + len(self.thoughts) >= self._due or self.done is not None:
            self._look()

    def _look(self) -> None:
        if self.lookout is not None and (self.done is None or self.done.finish_reason == "length"):
            self._due = len(self.texts) + len(self.thoughts) + EVERY
            fault = self.lookout.look(self.texts, self.thoughts)
            if fault is not None:
                raise fault

    @property
    def over(self) -> bool:
        """The server said that it was done."""
        return self.done is not None or self.vectors is not None

    def __repr__(self) -> str:
        return f"Gathered({sum(map(len, self.texts))} chars)"
