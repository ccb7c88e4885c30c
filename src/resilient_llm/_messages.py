"""The messages of a call, from whatever its user wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resilient_llm._errors import ConfigError
from resilient_llm._types import Message

Messages = str | Message | Mapping[str, Any] | Sequence[str | Message | Mapping[str, Any]]


def messages_from(given: Messages, system: str | None = None) -> tuple[Message, ...]:
    """The messages of a call from what its user wrote: a string, a message, OpenAI-style dicts, or a list of those.

    Raises:
        ConfigError: there are none, or one is wrong; the error names which.
    """
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
        if isinstance(item, Message):
            made.append(item)
        elif isinstance(item, str):
            made.append(Message("user", item))
        elif isinstance(item, Mapping):
            try:
                made.append(Message(**{str(key): value for key, value in item.items()}))
            except ConfigError as error:
                raise ConfigError(f"messages[{number}]: {error.message.removeprefix('message: ')}") from None
        else:
            raise ConfigError(f"messages[{number}]: a message or a dict is needed, not {type(item).__name__}")
    return tuple(made)
