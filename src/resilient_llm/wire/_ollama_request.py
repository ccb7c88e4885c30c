"""Request bodies for Ollama's own API.

It exists because Ollama's defaults are the wrong ones for who depends on it: it cuts a prompt that is too long, drops
the middle of the context while it writes, and writes up to ten windows. Rules of the file: `truncate` is always false
and `num_predict` always there; `keep_alive` goes with loads only, because with a request it can wedge the scheduler
(ollama/ollama#17408); whatever makes Ollama load a model anew (`options`, `shift`) is the same in loads and requests.
Per-call values win over the options of the backend, and `extra` over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resilient_llm._errors import ConfigError, UnsupportedParameter
from resilient_llm._types import ChatRequest, EmbedRequest, Message, Tool, ToolCall
from resilient_llm.wire import HTTPCall, dump, said_tool

Think = bool | Literal["low", "medium", "high", "max"]
Thinks = Literal["by level", "yes or no", "never"]  # how a model can be told to think

# The output cap while the window is not known: Ollama's own default window on a CPU and with less than 23 GiB of VRAM
# (ollama/ollama#14116), so that an answer which fits a default server is never cut. Three minutes at 20 tokens/s.
UNKNOWN_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same for all requests to one model; see `backends.ollama.Ollama`."""

    model: str
    options: Mapping[str, Any]
    think: Think | None = None
    shift: bool | None = False


def settings_from(
    model: str, num_ctx: int | None, options: Mapping[str, Any] | None, think: Think | None, shift: bool | None
) -> Settings:
    """The settings of a backend; `num_ctx` wins over the one in `options`.

    Raises:
        ConfigError: the options are no mapping.
    """
    made = _options("options", options)
    return Settings(model, made if num_ctx is None else {**made, "num_ctx": num_ctx}, think, shift)


def thinking(request: ChatRequest, settings: Settings) -> Think | None:
    """What is asked of the model about thinking: the call's word, else the backend's."""
    if request.reasoning is None:
        return settings.think
    return False if request.reasoning == "none" else request.reasoning


def encode_chat(
    request: ChatRequest, settings: Settings, window: int | None, *, stream: bool,
    thinks: Thinks = "by level",
) -> HTTPCall:  # fmt: skip
    """The body for `/api/chat`. `thinks` is what the model can be told about thinking.

    Raises:
        ConfigError: something in it has no JSON form, or `extra["options"]` is no mapping.
        UnsupportedParameter: an image is given by its URL.
    """
    extra = dict(request.extra)
    options = {**settings.options, **_sampling(request, settings.options, window)}
    options |= _options("extra: options", extra.pop("options", None))
    think = thinking(request, settings)
    given = {
        "tools": [said_tool(tool) for tool in _offered(request)] or None,
        "format": request.schema,
        "think": think if thinks == "by level" or not think else True if thinks == "yes or no" else None,
        "shift": settings.shift,
    }
    body = {
        "model": settings.model,
        "messages": list(_messages(request.messages)),
        "stream": stream,
        "truncate": False,
        "options": options,
        **{name: value for name, value in given.items() if value is not None},
    }
    return HTTPCall("/api/chat", dump(body | extra))


def encode_embed(request: EmbedRequest, settings: Settings) -> HTTPCall:
    """The body for `/api/embed`."""
    return HTTPCall("/api/embed", dump(_embed(settings, list(request.texts)) | {"truncate": False}))


def encode_load(settings: Settings, *, keep_alive: float | str | None, embed: bool) -> bytes:
    """The body that brings the model into memory and asks it nothing: for `/api/embed` or `/api/chat`.

    Only a chat says `shift`: an embedding has no such field, its runner is loaded with the server's own default.
    """
    if embed:
        body = _embed(settings, [])
    else:
        body = {"model": settings.model, "messages": [], "stream": False, "options": dict(settings.options)}
        if settings.shift is not None:
            body["shift"] = settings.shift
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return dump(body)


def forced(request: ChatRequest) -> bool:
    """A tool must be called, which Ollama has no field for."""
    return bool(request.tools) and request.tool_choice not in (None, "auto", "none")


def _embed(settings: Settings, texts: list[str]) -> dict[str, Any]:
    return {"model": settings.model, "input": texts, "options": dict(settings.options)}


def _options(name: str, given: Any) -> dict[str, Any]:
    """A copy; a single stop sequence becomes the list that Ollama wants."""
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{name}: a mapping such as {{'top_k': 20}} is needed, not {type(given).__name__}")
    made = dict(given or {})
    if isinstance(made.get("stop"), str):
        made["stop"] = [made["stop"]]
    return made


def _sampling(request: ChatRequest, options: Mapping[str, Any], window: int | None) -> dict[str, Any]:
    """The options that a call sets.

    The window itself is the cap of an answer without one: with `shift` off the server ends it where the window ends,
    and where it does not, one window is the most that is written and not ten.
    """
    cap = request.max_tokens or options.get("num_predict")
    given = {
        "num_predict": (window or UNKNOWN_WINDOW) if cap is None else cap,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop": list(request.stop) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _offered(request: ChatRequest) -> Sequence[Tool]:
    """The tools that the choice leaves: Ollama cannot be told what to do with them, only not shown them."""
    if request.tool_choice == "none":
        return ()
    return [tool for tool in request.tools if tool.name == request.tool_choice] or request.tools


def _messages(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """The history in Ollama's shape. A tool's answer gets its name from the last call with its id, if it has none."""
    names: dict[str, str] = {}
    for message in messages:
        made: dict[str, Any] = {
            "role": "system" if message.role == "developer" else message.role,
            "content": message.content,
        }
        if message.reasoning:
            made["thinking"] = message.reasoning
        if message.images:
            made["images"] = _images(message)
        if message.tool_calls:
            made["tool_calls"] = [_call(call, index) for index, call in enumerate(message.tool_calls)]
            names |= {call.id: call.name for call in message.tool_calls if call.id}
        if message.role == "tool":
            name = message.name or names.get(message.tool_call_id or "")
            made |= {"tool_name": name} if name else {}
            made |= {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}
        yield made


def _images(message: Message) -> list[str]:
    data = [image.data for image in message.images if image.data is not None]
    if len(data) < len(message.images):
        raise UnsupportedParameter(
            "Ollama does not fetch images by URL: fetch it yourself and give Image(data=…), in base64",
            parameter="images",
            falls_back=True,  # another server may fetch it
        )
    return data


def _call(call: ToolCall, index: int) -> dict[str, Any]:
    known_as = {"id": call.id} if call.id else {}
    return {**known_as, "function": {"index": index, "name": call.name, "arguments": call.arguments}}
