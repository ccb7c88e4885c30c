"""One message of a conversation, and how it is made of what people already have. Frozen, checked when it is made.

Rules of the file: a `repr` gives sizes, never text; what is wrong is a `ConfigError` that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from resilient_llm._errors import ConfigError

Role = Literal["system", "developer", "user", "assistant", "tool"]
# Built by the first client, not by the import: that would take a fifth longer.
_FROZEN = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)


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
    """An image in a message.

    Args:
        data: the picture in base64, or
        url: where it is, which not every server fetches.
        media_type: of `data`. Default `image/png`.

    Raises:
        ConfigError: not just one of `data` and `url` is given, or a field is wrong.
    """

    model_config = _FROZEN

    data: str | None = None
    url: str | None = None
    media_type: str = "image/png"

    def __init__(
        self, *, data: str | None = None, url: str | None = None, media_type: str = "image/png", **openai: Any
    ) -> None:
        _made(super().__init__, {"data": data, "url": url, "media_type": media_type, **openai}, "image")

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

    def __init__(
        self, role: Role | None = None, content: str | Sequence[Any] | None = "", *,
        images: Sequence[Image] = (), reasoning: str | None = None, tool_calls: Sequence[ToolCall] | None = (),
        tool_call_id: str | None = None, name: str | None = None, route: str | None = None, private: bool = False,
        reasoning_content: str | None = None, **unknown: Any,
    ) -> None:  # fmt: skip
        if unknown:  # a `privat=True` that is taken for nothing would be sent to anybody
            raise ConfigError(
                f"message: there is no field {min(unknown)!r}; there are {', '.join(type(self).model_fields)}"
            )
        given: dict[str, Any] = {"role": role, "content": content}  # and what is given: each field costs 0.3 µs
        if images != ():
            given["images"] = images
        if reasoning is not None or reasoning_content is not None:
            given["reasoning"] = reasoning or reasoning_content
        if tool_calls:
            given["tool_calls"] = tool_calls
        if private is not False:
            given["private"] = private
        others = {"tool_call_id": tool_call_id, "name": name, "route": route}
        given |= {field: value for field, value in others.items() if value is not None}
        _made(super().__init__, given, "message")

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


def _made(make: Callable[..., None], fields: Mapping[str, Any], what: str) -> None:
    """Makes it of these fields, with the first thing that is wrong as a `ConfigError`."""
    try:
        make(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "".join(f"{part}: " for part in [".".join(str(one) for one in first["loc"])] if part)
        raise ConfigError(f"{what}: {where}{first['msg'].removeprefix('Value error, ')}") from None


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


@cache
def _blank() -> dict[str, Any]:
    return Message("user", "").__getstate__()


def _user(text: str) -> Message:
    """A user's message. Where there is nothing to check it is made as `pickle` would, in a third of the time."""
    if type(text) is str and text.isascii():  # no half of a surrogate pair
        message, blank = Message.__new__(Message), _blank()
        message.__setstate__({**blank, "__dict__": {**blank["__dict__"], "content": text}})
        return message
    return Message("user", text)


_SAID = {*Message.model_fields, "reasoning_content"}  # what of a server's own message is read; the rest is its own
Messages = str | Message | Mapping[str, Any] | Sequence[str | Message | Mapping[str, Any]]


def messages_from(given: Messages, system: str | None = None) -> tuple[Message, ...]:
    """The messages of a call from what its user wrote: a string, a message, OpenAI-style dicts, or a list of those.

    Raises:
        ConfigError: there are none, or one is wrong; the error names which.
    """
    if system is None and type(given) is str:  # what most calls are, at a third of the cost of the loop below
        return (_user(given),)
    items: Iterable[Any] = [given] if isinstance(given, (str, Message, Mapping)) else given
    if system is not None and not isinstance(system, str):
        raise ConfigError(f"system: a string is needed, not {type(system).__name__}")
    made: list[Message] = [Message("system", system)] if system is not None else []
    try:
        numbered = list(items)
    except TypeError:
        raise ConfigError(f"messages: a string, a message or a list is needed, not {type(given).__name__}") from None
    if not numbered:
        raise ConfigError("messages: the list is empty; give at least one message")
    for number, item in enumerate(numbered):
        if isinstance(item, str):
            made.append(_user(item))
        elif isinstance(item, Message):
            made.append(item)
        elif isinstance(item, Mapping):
            try:
                made.append(Message(**{name: item[name] for name in item if name in _SAID}))
            except ConfigError as error:
                raise ConfigError(f"messages[{number}]: {error.message.removeprefix('message: ')}") from None
        else:
            raise ConfigError(f"messages[{number}]: a message or a dict is needed, not {type(item).__name__}")
    return tuple(made)
