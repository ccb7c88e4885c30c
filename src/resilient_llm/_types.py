"""What goes in: messages, tools and the two kinds of request. Frozen values, checked when they are made.

Rules of the file: a `repr` gives sizes, never text; what is wrong is a `ConfigError` that names the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from resilient_llm._errors import ConfigError
from resilient_llm._given import doing, of

Role = Literal["system", "developer", "user", "assistant", "tool"]
Zone = Literal["machine", "network", "internet"]
Reasoning = Literal["none", "low", "medium", "high"]
ZONES: tuple[Zone, ...] = ("machine", "network", "internet")  # from the nearest to the farthest
# Built by the first client, not by the import: that would take a fifth longer.
_FROZEN = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)


def _wrong(what: str, error: ValidationError) -> ConfigError:
    """What is wrong first, and where."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or what
    return ConfigError(f"{what}: {where}: {first['msg']}")


@dataclass(frozen=True, slots=True, repr=False)
class ToolCall:
    """A call that the model wants made, whole: its arguments are parsed, never a piece of JSON.

    Attributes:
        name: the tool.
        arguments: by name.
        id: the server's id of the call, or one made here (`call_0`) where the server sends none.
    """

    name: str
    arguments: dict[str, Any]
    id: str = ""

    def __repr__(self) -> str:
        return f"ToolCall({self.name!r}, {len(self.arguments)} arguments)"


class Image(BaseModel):
    """An image in a message: `data` as base64, or a `url` (not every server fetches one).

    Raises:
        ConfigError: it has neither or both, or one is no string.
    """

    model_config = _FROZEN

    data: str | None = None
    url: str | None = None
    media_type: str = "image/png"

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _wrong("image", error) from None

    @model_validator(mode="before")
    @classmethod
    def _from_openai(cls, value: Any) -> Any:
        """Takes the part that OpenAI's users have: `{"type": "image_url", "image_url": {"url": …}}`."""
        if not isinstance(value, Mapping) or "image_url" not in value:
            return value
        source = value["image_url"]
        url = source.get("url") if isinstance(source, Mapping) else source
        if isinstance(url, str) and url.startswith("data:") and ";base64," in url:
            kind, _, data = url[5:].partition(";base64,")
            return {"data": data, "media_type": kind}
        return {"url": url}

    @model_validator(mode="after")
    def _one_of(self) -> Image:
        if (self.data is None) == (self.url is None):
            raise ValueError("an image needs either data or url")
        return self

    def __repr__(self) -> str:
        return f"Image({self.media_type}, {len(self.data or self.url or '')} chars)"

    __str__ = __repr__


class Message(BaseModel):
    """One message of a conversation.

    Args:
        role: `system`, `developer`, `user`, `assistant` or `tool`.
        content: the text.
        images: beside the text.
        reasoning: what an assistant thought before it wrote `content`.
        tool_calls: the calls that an assistant wants made.
        tool_call_id: which call a `tool` message answers.
        name: the tool that a `tool` message comes from.
        route: which wrote it; its `reasoning` goes back to that one alone.
        private: a call that holds this message is never sent to a route outside (`local_only`).

    Raises:
        ConfigError: a field is missing or wrong; the message names it.
    """

    model_config = _FROZEN

    role: Role
    content: str = ""
    images: tuple[Image, ...] = ()
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    route: str | None = None
    private: bool = Field(default=False, strict=True)

    def __init__(self, role: Any = None, content: Any = "", /, **fields: Any) -> None:
        if role is not None:
            fields = {"role": role, "content": content, **fields}
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _wrong("message", error) from None

    @model_validator(mode="before")
    @classmethod
    def _from_openai(cls, value: Any) -> Any:
        """Takes OpenAI's shape as well: content in parts or null, tool calls with their JSON in a string."""
        if not isinstance(value, Mapping):
            return value
        message = dict(value)
        content = message.get("content")
        if content is None:
            message["content"] = ""
        elif isinstance(content, (list, tuple)):
            texts, images = _parts(content)
            message["content"], message["images"] = "".join(texts), (*message.get("images", ()), *images)
        if message.get("tool_calls") is None:
            message.pop("tool_calls", None)
        if "reasoning_content" in message:
            message.setdefault("reasoning", message.pop("reasoning_content"))
        return message

    @field_validator("tool_calls", mode="before")
    @classmethod
    def _calls(cls, value: Any) -> Any:
        return tuple(_tool_call(call) for call in value) if isinstance(value, (list, tuple)) else value

    @field_validator("tool_calls", mode="after")
    @classmethod
    def _sound(cls, value: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        for call in value:
            if not (isinstance(call.name, str) and isinstance(call.id, str) and isinstance(call.arguments, dict)):
                raise ValueError("a tool call needs a name and an id, which are strings, and a dict of arguments")
        return value

    @property
    def size(self) -> int:
        """Characters of its text."""
        return len(self.content) + len(self.reasoning or "")

    def __repr__(self) -> str:
        extras = [f"{len(self.images)} images"] if self.images else []
        extras += [f"{len(self.tool_calls)} tool calls"] if self.tool_calls else []
        return f"Message({', '.join([self.role, f'{len(self.content)} chars', *extras])})"

    __str__ = __repr__


def _parts(parts: Sequence[Any]) -> tuple[list[str], list[Any]]:
    texts: list[str] = []
    images: list[Any] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in ("text", "input_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url" or isinstance(part, Image):
            images.append(part)
        else:
            raise ValueError(f"a content part of type {kind!r} is not supported; text and image_url are")
    return texts, images


def _tool_call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    inner = call.get("function")
    function = inner if isinstance(inner, Mapping) else call
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise ValueError("the arguments of a tool call are not JSON") from None
    return ToolCall(name=function.get("name", ""), arguments=arguments, id=call.get("id") or "")


@dataclass(frozen=True, slots=True, repr=False)
class Tool:
    """A function that the model may ask for: its JSON schema and, where it is ours to call, the function.

    Raises:
        ConfigError: the name is no string or empty, or another part is of a wrong type.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        of(str, name=self.name or (), description=self.description)
        of(Mapping, parameters=self.parameters)
        doing("__call__", function=self.function)

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"


def _number(name: str, value: float | None, low: float, high: float = math.inf, kind: Any = (int, float)) -> None:
    if value is not None and not (isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high):
        wanted = f"between {low:g} and {high:g}" if high < math.inf else f"{low:g} or more"
        raise ConfigError(f"{name}: {value!r:.40} is not a {'whole ' if kind is int else ''}number {wanted}")


@dataclass(frozen=True, slots=True, repr=False)
class ChatRequest:
    """What is asked of a model, the same for every backend.

    Attributes:
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
        _number("max_tokens", self.max_tokens, 1, 2**63 - 1, kind=int)
        _number("seed", self.seed, -(2**63), 2**63 - 1, kind=int)
        _number("temperature", self.temperature, 0, 2)
        if self.reasoning not in (None, "none", "low", "medium", "high"):
            raise ConfigError(f"reasoning: {self.reasoning!r} is not one of none, low, medium, high")
        if not all(isinstance(word, str) and word for word in self.stop):
            raise ConfigError("stop: every stop sequence must be a string that is not empty")

    @property
    def private(self) -> bool:
        """A message in it is private."""
        return any(message.private for message in self.messages)

    def __repr__(self) -> str:
        chars = sum(message.size for message in self.messages)
        return f"ChatRequest({len(self.messages)} messages, {chars} chars, {len(self.tools)} tools)"


@dataclass(frozen=True, slots=True, repr=False)
class EmbedRequest:
    """Texts to turn into vectors."""

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
