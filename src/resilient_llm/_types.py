"""What goes in: messages, tools and the two kinds of request. Frozen values, checked when they are made.

Rules of the file: a `repr` gives sizes, never text; what is wrong is a `ConfigError` that names the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from resilient_llm._errors import ConfigError
from resilient_llm._messages import Image, Message, Messages, Role, ToolCall, messages_from

__all__ = [
    "ZONES", "ChatRequest", "EmbedRequest", "Image", "Message", "Messages", "Reasoning", "Request", "Role", "Tool",
    "ToolCall", "Zone", "messages_from",
]  # fmt: skip

Zone = Literal["machine", "network", "internet"]
Reasoning = Literal["none", "low", "medium", "high"]
ZONES: tuple[Zone, ...] = ("machine", "network", "internet")  # from the nearest to the farthest


@dataclass(frozen=True, slots=True, repr=False)
class Tool:
    """A function that the model may ask for.

    Attributes:
        name: by which the model calls it.
        description: what it does, in the words that the model reads.
        parameters: the JSON schema of its arguments, an object.
        function: what it was made from, where it was made from a function.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"


def _number(name: str, value: float, low: float, high: float = math.inf, kind: Any = (int, float)) -> None:
    if not (isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high):
        wanted = f"between {low:g} and {high:g}" if high < math.inf else f"{low:g} or more"
        raise ConfigError(f"{name}: {value!r} is not a {'whole ' if kind is int else ''}number {wanted}")


@dataclass(frozen=True, slots=True, repr=False)
class ChatRequest:
    """What is asked of a model, the same for every backend: what `ChatOptions` says of its fields holds.

    Attributes:
        messages: in order; that of `system=` is the first.
        schema: the JSON schema that the answer must follow, or `None`.
        extra: fields for the server's request body that this library does not know, passed through.
        tags: words for the user's own plan and traces; never sent.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    reasoning: Reasoning | None = None
    schema: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConfigError("messages: the list is empty; give at least one message")
        if self.max_tokens is not None:
            _number("max_tokens", self.max_tokens, 1, 2**63 - 1, kind=int)
        if self.seed is not None:
            _number("seed", self.seed, -(2**63), 2**63 - 1, kind=int)
        if self.temperature is not None:
            _number("temperature", self.temperature, 0, 2)
        if self.reasoning not in (None, "none", "low", "medium", "high"):
            raise ConfigError(f"reasoning: {self.reasoning!r} is not one of none, low, medium, high")
        for name, words in (("stop", self.stop), ("tags", self.tags)):
            if words and not all(isinstance(word, str) and word for word in words):
                raise ConfigError(f"{name}: each must be a string that is not empty")
        if self.tools:
            self._check_tools([tool.name for tool in self.tools])

    def _check_tools(self, names: list[str]) -> None:
        if len(set(names)) < len(names):
            raise ConfigError(f"tools: two are named {max(names, key=names.count)!r}")
        if self.tool_choice not in (None, "auto", "none", "required", *names):
            raise ConfigError(f"tool_choice: {self.tool_choice!r} is not auto, none, required or the name of a tool")

    @property
    def private(self) -> bool:
        """A message in it is private."""
        for message in self.messages:  # noqa: SIM110  # a generator costs twice as much
            if message.private:
                return True
        return False

    def __repr__(self) -> str:
        chars = sum(message.size for message in self.messages)
        return f"ChatRequest({len(self.messages)} messages, {chars} chars, {len(self.tools)} tools)"


@dataclass(frozen=True, slots=True, repr=False)
class EmbedRequest:
    """Texts to turn into vectors; `tags` are words for the user's own plan and traces."""

    texts: tuple[str, ...]
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("texts: the list is empty; give at least one text")
        for number, text in enumerate(self.texts):
            if not isinstance(text, str) or not text:
                raise ConfigError(f"texts[{number}]: a string that is not empty is needed")

    @property
    def private(self) -> bool:
        """Texts carry no mark of their own; use `local_only`."""
        return False

    def __repr__(self) -> str:
        return f"EmbedRequest({len(self.texts)} texts, {sum(map(len, self.texts))} chars)"


Request = ChatRequest | EmbedRequest
