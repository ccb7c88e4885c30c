"""Request bodies for OpenAI-compatible servers, in the dialect of each.

Rules of the file: what differs is data (`Profile`); a field is sent only if the caller gave it; nothing is defaulted
that the server defaults itself; `extra` is merged last, so the caller has the last word, except about a field that the
server refused. What the caller gave and the server does not get is told (`drops`), never hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resilient_llm._types import ChatRequest, EmbedRequest, Message, Tool
from resilient_llm.wire import HTTPCall, dump, said_tool
from resilient_llm.wire._openai_history import history
from resilient_llm.wire._openai_profiles import Profile

_WORDS = ("auto", "none")
BY_SCHEMA = "Answer with nothing but JSON, and make it follow this JSON schema: "


def encode_chat(request: ChatRequest, model: str, profile: Profile, *, stream: bool) -> HTTPCall:
    """The body for `/chat/completions`.

    Raises:
        ConfigError: something in it has no JSON form.
        UnsupportedParameter: an image is given by its URL, and the server fetches none.
    """
    return HTTPCall("/chat/completions", dump(chat_body(request, model, profile, stream=stream)))


def chat_body(request: ChatRequest, model: str, profile: Profile, *, stream: bool) -> dict[str, Any]:
    """The same before it becomes JSON."""
    messages = history(_instructed(request, profile), profile, [tool.name for tool in request.tools])
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": stream}
    if stream and profile.stream_usage:
        body["stream_options"] = {"include_usage": True}
    body |= _asked(request, profile)
    if profile.empty_tools and "tools" not in body and any("tool_calls" in one for one in messages):
        body["tools"] = []
    body |= request.extra
    for name in profile.refused:
        body.pop(name, None)
    return body


def drops(request: ChatRequest, profile: Profile) -> bool:
    """Whether the server does not get something that the caller gave, or gets it in a weaker form."""
    if request.temperature is not None and not profile.samples(request) and "temperature" not in request.extra:
        return True
    if request.reasoning is not None and profile.reasoning[request.reasoning] is None:
        return True
    return (
        (request.seed is not None and profile.seed_field is None)
        or (profile.max_stop is not None and len(request.stop) > profile.max_stop)
        or (request.schema is not None and profile.schema != "json_schema")
        or (profile.forced is None and _must_call(request))
        or (bool(profile.refused) and not profile.refused.isdisjoint([*_asked(request, profile), *request.extra]))
    )


def encode_embed(request: EmbedRequest, model: str) -> HTTPCall:
    """The body for `/embeddings`. No `encoding_format`: some refuse one value, some the other, all have a default."""
    return HTTPCall("/embeddings", dump({"model": model, "input": list(request.texts)}))


def _asked(request: ChatRequest, profile: Profile) -> dict[str, Any]:
    """The fields that the caller's arguments become."""
    given: dict[str, Any] = {
        profile.max_tokens_field: request.max_tokens,
        "stop": list(request.stop[: profile.max_stop]) or None,
        "tools": [said_tool(tool) for tool in _offered(request, profile)] or None,
        "tool_choice": _tool_choice(request, profile),
        "response_format": _response_format(request.schema, profile),
    }
    if profile.samples(request):
        given["temperature"] = request.temperature
    if profile.seed_field is not None:
        given[profile.seed_field] = request.seed
    asked = {name: value for name, value in given.items() if value is not None}
    return asked if request.reasoning is None else {**asked, **(profile.reasoning[request.reasoning] or {})}


def _must_call(request: ChatRequest) -> bool:
    return request.tool_choice is not None and request.tool_choice not in _WORDS


def _offered(request: ChatRequest, profile: Profile) -> Sequence[Tool]:
    """The tools: only the one to be called, where that cannot be said in another way."""
    if profile.forced is not None or not _must_call(request):
        return request.tools
    return [tool for tool in request.tools if tool.name == request.tool_choice] or request.tools


def _tool_choice(request: ChatRequest, profile: Profile) -> object:
    choice = request.tool_choice
    if choice is None or choice in _WORDS:
        return choice
    if profile.forced is None:
        return None
    return profile.forced if choice == "required" else {"type": "function", "function": {"name": choice}}


def _response_format(schema: Mapping[str, Any] | None, profile: Profile) -> dict[str, Any] | None:
    if schema is None or profile.schema == "prompt":
        return None
    if profile.schema == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _instructed(request: ChatRequest, profile: Profile) -> Sequence[Message]:
    """The messages, with the schema among them where the server takes it no other way."""
    if request.schema is None or profile.schema == "json_schema":
        return request.messages
    order = Message("system", BY_SCHEMA + dump(request.schema).decode())
    spoken = [message.role in ("system", "developer") for message in request.messages]
    place = spoken.index(False) if False in spoken else len(spoken)
    return (*request.messages[:place], order, *request.messages[place:])
