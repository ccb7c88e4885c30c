"""Request bodies for OpenAI-compatible servers, and what is known about their dialects.

It exists because these servers agree on a shape and differ in fields: one refuses what another requires. Rules of the
file: a dialect is data (`Profile`), chosen by the first row of `PROFILES` that fits; a field is sent only if the caller
gave it; nothing is defaulted that the server defaults itself; `extra` is merged last, so the caller has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

from resilient_llm._types import ChatRequest, EmbedRequest, Image, Message, Reasoning, Tool, ToolCall
from resilient_llm.wire import HTTPCall, dump

_CHOICES = ("auto", "none", "required")
Fields = Mapping[str, Any]


def _effort(**other: str) -> Mapping[Reasoning, Fields]:
    levels: tuple[Reasoning, ...] = ("none", "low", "medium", "high")
    return {level: {"reasoning_effort": other.get(level, level)} for level in levels}


@dataclass(frozen=True, slots=True)
class Profile:
    """How one dialect differs.

    Attributes:
        max_tokens_field: its name for the output cap.
        system_role: its role for system and developer messages.
        stream_usage: it takes `stream_options.include_usage`.
        samples_while_reasoning: it takes `temperature` while the model reasons.
        reasons_by_default: its model reasons when nothing is said about it.
        reasoning: the fields that each level of reasoning adds to the body.
        reasoning_echo: the field of an assistant message in which it wants earlier reasoning back.
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    system_role: Literal["system", "developer"] = "system"
    stream_usage: bool = True
    samples_while_reasoning: bool = True
    reasons_by_default: bool = False
    reasoning: Mapping[Reasoning, Fields] = field(default_factory=_effort)
    reasoning_echo: Literal["reasoning_content", "reasoning"] | None = None

    def samples(self, request: ChatRequest) -> bool:
        """It takes a temperature with this request."""
        if self.samples_while_reasoning:
            return True
        if request.reasoning is None:
            return not self.reasons_by_default
        return self.reasoning[request.reasoning].get("reasoning_effort") == "none"


_OPENAI = "openai|azure"
_REASONER = Profile(
    max_tokens_field="max_completion_tokens",
    system_role="developer",
    samples_while_reasoning=False,
    reasons_by_default=True,
)
# Who reasons by default, and what is refused then: pydantic-ai's table of OpenAI's models, checked live in July 2026.
PROFILES: tuple[tuple[str, str, Profile], ...] = (
    (_OPENAI, r"o1-(mini|preview)", replace(_REASONER, system_role="system")),
    (_OPENAI, r"gpt-5[\w.]*-chat", Profile("max_completion_tokens")),
    (_OPENAI, r"gpt-5\.[1-4](?!.*(codex|pro))", replace(_REASONER, reasons_by_default=False)),
    # "none" came with 5.1; before it, "minimal" is the least
    (_OPENAI, r"gpt-5(?!\.)", replace(_REASONER, reasoning=_effort(none="minimal"))),
    (_OPENAI, r"gpt-5|o\d", _REASONER),
)


def profile_for(provider: str, model: str) -> Profile:
    """The dialect of a model at a provider (`openai`, `azure`, …); the common one if nothing else is known."""
    name = model.rpartition("/")[2].lower()
    for providers, models, profile in PROFILES:
        if re.fullmatch(providers, provider.lower()) and re.match(models, name):
            return profile
    return Profile()


def encode_chat(request: ChatRequest, model: str, profile: Profile, *, stream: bool) -> HTTPCall:
    """The body for `/chat/completions`."""
    body: dict[str, Any] = {"model": model, "messages": list(_messages(request.messages, profile)), "stream": stream}
    if stream and profile.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if request.temperature is not None and profile.samples(request):
        body["temperature"] = request.temperature
    given = {
        profile.max_tokens_field: request.max_tokens,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "response_format": _response_format(request.schema),
    }
    body |= {name: value for name, value in given.items() if value is not None}
    if request.reasoning is not None:
        body |= profile.reasoning[request.reasoning]
    return HTTPCall("/chat/completions", dump({**body, **request.extra}))


def encode_embed(request: EmbedRequest, model: str) -> HTTPCall:
    """The body for `/embeddings`. No `encoding_format`: some refuse one value, some the other, all have a default."""
    return HTTPCall("/embeddings", dump({"model": model, "input": list(request.texts)}))


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _tool_choice(choice: str | None) -> object:
    return choice if choice is None or choice in _CHOICES else {"type": "function", "function": {"name": choice}}


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if schema is None else {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _messages(messages: Sequence[Message], profile: Profile) -> Iterator[dict[str, Any]]:
    """The history in OpenAI's shape. A call without an id gets one, and the answer to it the same."""
    taken = {call.id for message in messages for call in message.tool_calls}
    fresh = (name for number in count() if (name := f"call_{number}") not in taken)
    waiting: list[tuple[str, str]] = []  # id and tool of the calls that have no answer yet
    for message in messages:
        role = profile.system_role if message.role in ("system", "developer") else message.role
        made: dict[str, Any] = {"role": role, "content": _content(message)}
        if message.tool_calls:
            ids = [call.id or next(fresh) for call in message.tool_calls]
            waiting = [(one, call.name) for one, call in zip(ids, message.tool_calls, strict=True)]
            made["tool_calls"] = [_call(call, one) for one, call in zip(ids, message.tool_calls, strict=True)]
        if message.role == "tool":
            made["tool_call_id"] = _answered(message, waiting)
        elif message.name:
            made["name"] = message.name
        if message.reasoning and profile.reasoning_echo:
            made[profile.reasoning_echo] = message.reasoning
        yield made


def _answered(message: Message, waiting: list[tuple[str, str]]) -> str:
    """The id of the call that a tool message answers: the one it names, else the first open one of its tool."""
    for one in waiting:
        if message.tool_call_id == one[0] or (not message.tool_call_id and message.name in (None, one[1])):
            waiting.remove(one)
            return one[0]
    return message.tool_call_id or "call_0"


def _call(call: ToolCall, id: str) -> dict[str, Any]:
    arguments = dump(call.arguments).decode()
    return {"id": id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    text = [{"type": "text", "text": message.content}] if message.content else []
    return [*text, *({"type": "image_url", "image_url": {"url": _url(image)}} for image in message.images)]


def _url(image: Image) -> str:
    return image.url if image.url is not None else f"data:{image.media_type};base64,{image.data}"
