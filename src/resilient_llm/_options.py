"""What may be said with a call, in one place for `chat`, `stream` and `parse`, async and sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from resilient_llm._tools import ToolLike, tools_from
from resilient_llm._types import ChatRequest, Messages, Reasoning, messages_from
from resilient_llm._zones import LocalOnly


class ChatOptions(TypedDict, total=False):
    """The keyword arguments of a chat.

    Attributes:
        system: a system message that comes first.
        timeout: seconds until this call ends, whatever happens. The least of this, `with deadline(…)` and the
            surrounding anyio scope holds. Default: the client's.
        max_tokens: of the answer. Default on Ollama: what the window has left.
        temperature: 0 to 2. Default the server's.
        seed: for a repeatable answer, as far as the server can.
        stop: one string or several that end the answer.
        tools: functions, `Tool`s or OpenAI-style dicts that the model may ask for.
        tool_choice: `auto`, `none`, `required` or the name of a tool.
        reasoning: how much the model thinks first: `none`, `low`, `medium`, `high`.
        conversation: calls with the same one stay on one route while that is healthy.
        local_only: `True`: nothing is sent to the internet; `"machine"`: nothing leaves this machine. The strictest of
            this, `with local_only():`, the client's and the messages' holds.
        tags: words for your own plan and traces; never sent.
        extra: fields for the server's request body that this library does not know.
    """

    system: str | None
    timeout: float | None
    max_tokens: int | None
    temperature: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    tools: Sequence[ToolLike] | None
    tool_choice: str | None
    reasoning: Reasoning | None
    conversation: str | None
    local_only: LocalOnly
    tags: Sequence[str]
    extra: Mapping[str, Any] | None


def request_from(messages: Messages, options: ChatOptions, schema: Mapping[str, Any] | None = None) -> ChatRequest:
    """The request that a call's arguments mean; `timeout`, `conversation` and `local_only` are not part of it.

    Raises:
        ConfigError: an argument has no meaning.
        TypeError: there is no such argument.
    """
    unknown = options.keys() - ChatOptions.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"unexpected keyword argument {min(unknown)!r}; there are {', '.join(ChatOptions.__annotations__)}"
        )
    made = messages_from(messages, options.get("system"))
    del messages  # an error's traceback shows the locals of this frame to whoever prints them
    stop = options.get("stop")
    return ChatRequest(
        messages=made,
        max_tokens=options.get("max_tokens"),
        temperature=options.get("temperature"),
        seed=options.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        tools=tools_from(options.get("tools")),
        tool_choice=options.get("tool_choice"),
        reasoning=options.get("reasoning"),
        schema=schema,
        extra=dict(options.get("extra") or {}),
        tags=tuple(options.get("tags") or ()),
    )
