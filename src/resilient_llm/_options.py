"""What may be said with a call, in one place for `chat`, `stream` and `parse`, async and sync."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypedDict, TypeVar

from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._tools import ToolLike, tools_from
from resilient_llm._types import ChatRequest, EmbedRequest, Messages, Reasoning, Request, messages_from
from resilient_llm._zones import LocalOnly

P = ParamSpec("P")
R = TypeVar("R")


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
        tools: functions, `Tool`s or OpenAI-style dicts that the model may ask for. Of a function it is told the name,
            the first paragraph of the docstring, and a schema of the parameters by their annotations; what one means
            is said by `Annotated[str, Field(description="…")]`.
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call's arguments mean: the request, and what of them is no part of it. Its `repr` holds no text."""

    request: Request
    timeout: float | None = None
    local_only: LocalOnly = None
    conversation: str | None = None


def _alone(make: Callable[P, R]) -> Callable[P, R]:
    """What goes wrong in there is raised without the frames below: they hold what was asked."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return make(*args, **kwargs)
        except (LLMError, TypeError) as error:
            wrong = error.with_traceback(None)
            wrong.__context__ = None
        finally:
            del args, kwargs
        raise wrong from None

    return made


@_alone
def chat_from(messages: Messages, options: ChatOptions, schema: Mapping[str, Any] | None = None) -> Asked:
    """The chat that a call's arguments mean.

    Raises:
        ConfigError: an argument has no meaning.
        TypeError: there is no such argument.
    """
    unknown = options.keys() - ChatOptions.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"unexpected keyword argument {min(unknown)!r}; there are {', '.join(ChatOptions.__annotations__)}"
        )
    extra, conversation = options.get("extra") or {}, options.get("conversation")
    if not isinstance(extra, Mapping):
        raise ConfigError(f"extra: a dict is needed, not {type(extra).__name__}")
    if not isinstance(conversation, str | None):
        raise ConfigError(f"conversation: a string is needed, not {type(conversation).__name__}")
    request = ChatRequest(
        messages=messages_from(messages, options.get("system")),
        max_tokens=options.get("max_tokens"),
        temperature=options.get("temperature"),
        seed=options.get("seed"),
        stop=_words("stop", options.get("stop")),
        tools=tools_from(options.get("tools")),
        tool_choice=options.get("tool_choice"),
        reasoning=options.get("reasoning"),
        schema=schema,
        extra=dict(extra),
        tags=_words("tags", options.get("tags")),
    )
    return Asked(request, options.get("timeout"), options.get("local_only"), conversation)


@_alone
def embed_from(texts: str | Sequence[str]) -> EmbedRequest:
    """The embedding of these texts.

    Raises:
        ConfigError: there are none, or one is none.
    """
    return EmbedRequest(_words("texts", texts))


def _words(name: str, given: str | Sequence[str] | None) -> tuple[str, ...]:
    try:
        return (given,) if isinstance(given, str) else tuple(given or ())
    except TypeError:
        raise ConfigError(f"{name}: a string or a list of them is needed, not {type(given).__name__}") from None
