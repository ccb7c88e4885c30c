"""Conversations as a server counted them: what the beginning of a prompt was counted as, where it was asked before.

A conversation grows at its end. So of a prompt that begins as another one did all but the new turns has been counted,
by the model's own tokenizer, and of one whose beginning was too long nothing has to be counted.

Rules of the file: pure; of the texts nothing is kept but their hashes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

from resilient_llm._types import ChatRequest

KEPT = 100  # prompts
_NEVER: Any = object()


class Begun(NamedTuple):
    """How a prompt begins.

    Attributes:
        messages: how many of them were asked before.
        counted: their tokens, by the server; `None` if they were cut already.
    """

    messages: int
    counted: int | None


class Talks:
    """The last prompts of one model."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: OrderedDict[int, int | None] = OrderedDict()

    def begun(self, request: ChatRequest, window: int | None) -> Begun | None:
        """The longest beginning of it that was asked before, in the same window."""
        found = None
        for number, name in enumerate(_names(request, window), 1):
            counted = self._told.get(name, _NEVER)  # in one step: other threads add and drop
            if counted is not _NEVER:
                found = Begun(number, counted)
        return found

    def remember(self, request: ChatRequest, window: int | None, counted: int | None) -> None:
        """It was counted so, or cut (`None`)."""
        *_, name = _names(request, window)
        self._told.pop(name, None)  # it is the latest now
        self._told[name] = counted
        while len(self._told) > KEPT:
            self._told.popitem(last=False)

    def __repr__(self) -> str:
        return f"Talks({len(self._told)})"


def _names(request: ChatRequest, window: int | None) -> Iterator[int]:
    """One for each beginning; what else of a request has tokens is in all of them. Python hashes a text but once."""
    name = hash((window, tuple(tool.name for tool in request.tools), request.schema is None))
    for message in request.messages:
        calls = tuple((call.name, repr(call.arguments)) for call in message.tool_calls)
        name = hash((name, message.role, message.content, message.reasoning, calls))
        yield name
