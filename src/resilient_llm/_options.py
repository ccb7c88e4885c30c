"""What may be said with a call, in one place for `chat`, `stream` and `parse`, async and sync."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypedDict, TypeVar

from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._tools import ToolLike, tools_from
from resilient_llm._types import ChatRequest, EmbedRequest, Messages, Reasoning, Request, Tool, messages_from
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


@dataclass(slots=True)
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
    beside: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    given: Mapping[str, Any] = options
    for name, value in given.items():
        if name not in _READ:
            raise TypeError(f"unexpected keyword argument {name!r}; there are {', '.join(_READ)}")
        if value is not None:
            read = _READ[name]
            (beside if name in _BESIDE else fields)[name] = value if read is None else read(name, value)
    request = ChatRequest(messages_from(messages, beside.pop("system", None)), schema=schema, **fields)
    return Asked(request, **beside)


@_alone
def embed_from(texts: str | Sequence[str]) -> EmbedRequest:
    """The embedding of these texts.

    Raises:
        ConfigError: there are none, or one is none.
    """
    return EmbedRequest(_words("texts", texts))


def _words(name: str, given: object) -> tuple[Any, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):
        raise ConfigError(f"{name}: a string or a list of them is needed, not {type(given).__name__}")
    return tuple(given)


def _mapping(name: str, given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name}: a dict is needed, not {type(given).__name__}")
    return dict(given)


def _tools(_: str, given: Any) -> tuple[Tool, ...]:
    return tools_from(given)


def _string(name: str, given: object) -> str:
    if not isinstance(given, str):
        raise ConfigError(f"{name}: a string is needed, not {type(given).__name__}")
    return given


# How each option is read. What has no reader here is checked where it is kept.
_READ: dict[str, Callable[[str, Any], Any] | None] = dict.fromkeys(ChatOptions.__annotations__)
_READ |= {
    "stop": _words, "tools": _tools, "conversation": _string, "tags": _words, "extra": _mapping,
}  # fmt: skip
_BESIDE = {"system", "timeout", "conversation", "local_only"}  # no fields of the request
