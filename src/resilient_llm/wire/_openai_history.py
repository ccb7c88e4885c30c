"""The messages of a request, so that the server which gets them accepts them, wherever they came from.

A history is carried from one server to the next, and each has its own idea of what a history is. Rules of the file:
nothing that was said is lost, and nothing is put into anyone's mouth but what a server insists on and the words below;
the same history gives the same bytes, so that prompt caches hold; a history that a server wrote itself is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from itertools import count
from typing import Any

from resilient_llm._errors import UnsupportedParameter
from resilient_llm._types import Image, Message, ToolCall
from resilient_llm.wire import dump
from resilient_llm.wire._openai_profiles import Profile

NO_RESULT = "no result: the call was not carried out"
OPENING = "(the conversation begins)"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_-]", re.ASCII)


def history(messages: Sequence[Message], profile: Profile, offered: Collection[str] = ()) -> list[dict[str, Any]]:
    """The messages in this dialect.

    Args:
        messages: the conversation, oldest first.
        profile: the dialect.
        offered: the names of the tools that go with it; they are sent as they are.

    Raises:
        UnsupportedParameter: an image is given by its URL, and the server fetches none.
    """
    made = list(_written(messages, profile, offered))
    if profile.one_system:
        made = _one_system(made)
    return _alternating(made) if profile.alternates else made


def _written(messages: Sequence[Message], profile: Profile, offered: Collection[str]) -> Iterator[dict[str, Any]]:
    ids = _Ids(messages, profile.tool_ids)
    results, paired = _pairs(messages)
    last = len(messages) - 1
    for number, message in enumerate(messages):
        if number in paired or (_says_nothing(message) and (number < last or message.role != "user")):
            continue
        if message.role == "tool":  # of a call that is not here: a server would refuse it
            made: dict[str, Any] = {
                "role": "user",
                "content": f"Result of {message.name or 'a tool'}: {message.content}",
            }
        else:
            made = _one(message, profile)
        shown = [] if message.role == "user" else [*message.images]
        behind: list[dict[str, Any]] = []
        if message.tool_calls:
            own = [
                (ids.next(call), call.name if call.name in offered else _name(call.name)) for call in message.tool_calls
            ]
            made["tool_calls"] = [_call(*one, call) for one, call in zip(own, message.tool_calls, strict=True)]
            answers = sorted((results.get((number, at), len(messages)), at) for at in range(len(own)))
            for answer, at in answers:  # in the order in which they came, the missing ones last
                content = messages[answer].content if answer < len(messages) else NO_RESULT
                behind.append(_result(*own[at], content, profile))
                shown += messages[answer].images if answer < len(messages) else ()
        if message.content.strip() or message.tool_calls or message.role == "user" or not message.images:
            yield made
            yield from behind
        if shown:  # only a user may show images
            yield {"role": "user", "content": [_picture(image, profile) for image in shown]}


def _call(id: str, name: str, call: ToolCall) -> dict[str, Any]:
    arguments = dump(call.arguments).decode()
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(id: str, name: str, content: str, profile: Profile) -> dict[str, Any]:
    result = {"role": "tool", "tool_call_id": id, "content": content}
    return {**result, "name": name} if profile.names_results else result


def _one(message: Message, profile: Profile) -> dict[str, Any]:
    role = profile.system_role if message.role in ("system", "developer") else message.role
    made: dict[str, Any] = {"role": role, "content": _content(message, profile)}
    if message.name and profile.names:
        made["name"] = message.name
    echo = profile.reasoning_echo
    if echo and (message.reasoning or (profile.reasoning_required and message.tool_calls)):
        made[echo] = message.reasoning or ""
    return made


def _says_nothing(message: Message) -> bool:
    return message.role != "tool" and not (message.content.strip() or message.images or message.tool_calls)


def _pairs(messages: Sequence[Message]) -> tuple[dict[tuple[int, int], int], set[int]]:
    """The number of the message that answers each call, by the call's message and place, and all those numbers.

    A result answers the call that it names, else the first open one of its tool, the latest message first.
    """
    open_calls: list[tuple[int, int, ToolCall]] = []  # the latest message first
    results: dict[tuple[int, int], int] = {}
    paired: set[int] = set()
    for number, message in enumerate(messages):
        if message.tool_calls:
            open_calls[:0] = [(number, at, call) for at, call in enumerate(message.tool_calls)]
        if message.role == "tool":
            named = message.tool_call_id
            for one in open_calls:
                call = one[2]
                if call.id == named if named and call.id else message.name in (None, call.name):
                    open_calls.remove(one)
                    results[one[:2]] = number
                    paired.add(number)
                    break
    return results, paired


class _Ids:
    """Gives every call of a history an id that the server takes and no other call has."""

    def __init__(self, messages: Sequence[Message], pattern: str) -> None:
        self._fits = re.compile(pattern, re.ASCII).fullmatch
        theirs = {call.id for message in messages for call in message.tool_calls}
        self._fresh = (name for number in count() if (name := f"call_{number}") not in theirs)
        self._taken: set[str] = set()

    def next(self, call: ToolCall) -> str:
        """The id of the next call in the history: its own, if that will do."""
        made = wanted = call.id or next(self._fresh)
        for again in count():
            if self._fits(made) and made not in self._taken:
                break
            made = sha256(f"{wanted}/{again}".encode("utf-8", "replace")).hexdigest()[:9]
        self._taken.add(made)
        return made


def _name(name: str) -> str:
    """A tool's name as every server takes it: models call tools that nobody offered, by any name."""
    return name if _NAME.fullmatch(name) else _NOT_IN_NAME.sub("_", name)[:64] or "_"


def _content(message: Message, profile: Profile) -> str | list[dict[str, Any]] | None:
    if message.images and message.role == "user":
        text = [{"type": "text", "text": message.content}] if message.content.strip() else []
        return [*text, *(_picture(image, profile) for image in message.images)]
    if message.tool_calls and profile.null_content and not message.content.strip():
        return None
    return message.content


def _picture(image: Image, profile: Profile) -> dict[str, Any]:
    if image.url is not None and not profile.fetches_images:
        raise UnsupportedParameter(
            f"{profile.name} does not fetch images by URL: fetch it yourself and give Image(data=…), in base64",
            parameter="image_url",
            falls_back=True,  # another server may fetch it
        )
    url = image.url if image.url is not None else f"data:{image.media_type};base64,{image.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _one_system(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All system messages as one, at the beginning."""
    spoken = [one for one in made if one["role"] in ("system", "developer")]
    if not spoken or (len(spoken) == 1 and made[0] is spoken[0]):
        return made
    joined = {"role": spoken[0]["role"], "content": "\n\n".join(one["content"] for one in spoken)}
    return [joined, *(one for one in made if one["role"] not in ("system", "developer"))]


def _alternating(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role as one, and a user first."""
    turns: list[dict[str, Any]] = []
    for one in made:
        if turns and one["role"] == turns[-1]["role"] and one["role"] in ("user", "assistant"):
            turns[-1] = {**turns[-1], **one, "content": _joined(turns[-1]["content"], one["content"])}
        else:
            turns.append(one)
    first = next((at for at, one in enumerate(turns) if one["role"] not in ("system", "developer")), None)
    if first is not None and turns[first]["role"] != "user":
        turns.insert(first, {"role": "user", "content": OPENING})
    return turns


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, list) or isinstance(other, list):
        return [*_as_parts(one), *_as_parts(other)]
    return "\n\n".join(text for text in (one, other) if text) or one


def _as_parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
