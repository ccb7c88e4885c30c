"""The pieces of an answer while they come in."""

from __future__ import annotations

from collections.abc import Sequence

from resilient_llm._replies import Done, ReasoningDelta, TextDelta, Vectors
from resilient_llm._types import ToolCall
from resilient_llm.wire import WireEvent


class Gathered:
    """The pieces of an answer."""

    __slots__ = ("calls", "done", "texts", "thoughts", "vectors")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []
        self.vectors: Vectors | None = None
        self.done: Done | None = None

    def add(self, batch: Sequence[WireEvent]) -> None:
        """Takes events in."""
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

    @property
    def over(self) -> bool:
        """The server said that it was done."""
        return self.done is not None or self.vectors is not None

    def __repr__(self) -> str:
        return f"Gathered({sum(map(len, self.texts))} chars)"
