"""The parts of a chat completion that arrive in pieces or in several spellings: tool calls, usage, content.

It exists to keep the decoder's loop small. Rules of the file: what decides about the answer is checked and `Malformed`
when it is of a wrong type; what only describes it (usage, names) is left out instead, an answer does not die of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from resilient_llm._errors import Malformed, OutputInvalid, Truncated
from resilient_llm._types import ToolCall
from resilient_llm.wire._checks import checked, finite, is_name, one_meaning, read_once

MAX_ARGUMENTS = 16 * 1024 * 1024  # characters over all calls of an answer, as the body of a unary answer
_CALL = 1024  # characters that a call counts for beside its own: there is a limit to their number too
_TRIES = 64  # looks at one call whether it is whole; each costs as much as the call is long
_MOST = 10**15  # of a count: more is none


@dataclass(slots=True)
class _Call:
    """A call under assembly."""

    pieces: list[str]
    id: str = ""
    name: str = ""
    tries: int = _TRIES

    def arguments(self) -> dict[str, Any] | None:
        """The parsed arguments, or `None` if they are not a whole JSON object. No text at all is no arguments."""
        text = "".join(self.pieces)
        if not text.strip():
            return {}
        try:
            value = from_json(text, allow_inf_nan=False)  # NaN is not JSON and could not be sent back
        except ValueError:
            return None
        return {} if value is None else value if isinstance(value, dict) else None

    def usable(self) -> dict[str, Any] | None:
        """The arguments, or `None` also if they could mean two things, or could not be sent back."""
        value = self.arguments()
        if value and not (finite(value) and one_meaning("".join(self.pieces))):
            return None
        return value

    def whole(self) -> bool:
        """There are arguments, and no more to come."""
        self.tries -= 1
        return self.tries >= 0 and bool(self.pieces) and self.arguments() is not None


class ToolCalls:
    """Assembles tool calls from their pieces.

    Which call a piece belongs to: the one with its id; a new one if the id is new, also where the index is taken; else
    the one with its index; else the last. Servers leave ids out, repeat them, send them late, or count every parallel
    call as 0 (ollama#15457), and none of these breaks the rule. A piece that brings a name and arguments to a call that
    is already whole opens a new one: some proxies send parallel calls with neither id nor a new index.
    An id that comes late, with the same name once more, is that of the call which is not whole and has none.
    """

    __slots__ = ("_by_id", "_by_index", "_calls", "_parsed", "_room", "fresh")

    def __init__(self) -> None:
        self.fresh: list[str] = []  # the pieces that have come; whoever looks at them empties it
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}
        self._room = MAX_ARGUMENTS
        self._parsed = False

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: Any) -> None:
        """Takes one element of `tool_calls`.

        Raises:
            Malformed: it is not of the right shape, or the calls are longer than 16 MiB.
        """
        checked(piece, dict, "a tool call")
        function = checked(piece.get("function") or {}, dict, "the function of a tool call")
        known_as = checked(piece.get("id") or "", str, "the id of a tool call")
        name = checked(function.get("name") or "", str, "the name of a tool call")
        index = piece.get("index")
        if index is not None:
            checked(index, int, "the index of a tool call")
        arguments = function.get("arguments") or ""
        if isinstance(arguments, dict):
            self._parsed = True
            arguments = to_json(arguments, inf_nan_mode="constants").decode()  # not as null: it is refused later
        checked(arguments, str, "the arguments of a tool call")
        call = self._find(known_as, index, name, arguments)
        call.name = call.name or name
        self._room -= len(arguments) + len(name) + len(known_as)
        if self._room < 0:
            raise Malformed("the tool calls are longer than 16 MiB")
        if arguments:
            call.pieces.append(arguments)
        if arguments or name:
            self.fresh.append(arguments or name)

    def check(self, text: bytes) -> None:
        """Looks again at the text of what was added, if arguments came as an object and not as a text.

        Raises:
            OutputInvalid: an object in it has a key twice.
        """
        if self._parsed:
            self._parsed = False
            read_once(text)

    def _find(self, id: str, index: int | None, name: str, arguments: str) -> _Call:
        if id and id in self._by_id:
            return self._by_id[id]
        last = self._calls[-1] if self._calls else None
        call = last if index is None else self._by_index.get(index)
        if call is not None and ((id and call.id) or (name and call.name and _another(call, id, name, arguments))):
            call = None
        if call is None:
            call = _Call([])
            self._calls.append(call)
            self._room -= _CALL
        if index is not None:
            self._by_index[index] = call
        if id:
            call.id = id
            self._by_id[id] = call
        return call

    def finish(self, *, cut: bool, ended: bool) -> list[ToolCall]:
        """The calls, whole and parsed; those without an id get one.

        Args:
            cut: the token limit ended the answer. A call that is not whole is then left out: half a call must not be
                executed.
            ended: the server gave a reason for the end.

        Raises:
            OutputInvalid: a call is not whole and nothing cut it, so the model wrote it so.
            Truncated: a call is not whole and the server gave no reason for the end.
        """
        made: list[ToolCall] = []
        for number, call in enumerate(self._calls):
            arguments = call.usable()
            if cut and not call.pieces:
                arguments = None
            if arguments is not None and is_name(call.name):
                made.append(ToolCall(call.name, arguments, call.id if is_name(call.id) else f"call_{number}"))
            elif not ended:
                raise Truncated("the answer ended inside a tool call")
            elif not cut:
                raise OutputInvalid("the model wrote a tool call without a name, or with arguments that are not JSON")
        return made


def _another(call: _Call, id: str, name: str, arguments: str) -> bool:
    """A piece with a name is of another call than this one, which has a name too and no id, or not that id."""
    return bool(id and name != call.name) or (bool(id or arguments or name != call.name) and call.whole())


_REASONING = ("reasoning_content", "reasoning", "reasoning_text")  # some send two with the same text: the first counts


def thoughts(delta: Mapping[str, Any]) -> str:
    """The reasoning in a piece, under whichever of its names.

    Raises:
        Malformed: it is no text.
    """
    for name in _REASONING:
        if delta.get(name):
            return str(checked(delta[name], str, "reasoning"))
    details = delta.get("reasoning_details")  # OpenRouter; mostly beside `reasoning`, with the same text
    if not isinstance(details, list):
        return ""
    parts = [one.get("text") or one.get("summary") for one in details if isinstance(one, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def texts(content: Any) -> tuple[str, str]:
    """Answer and reasoning in a `content`: a string, or a list of parts as Mistral's thinking models send it.

    Raises:
        Malformed: it is neither.
    """
    if isinstance(content, str):
        return content, ""
    text: list[str] = []
    thought: list[str] = []
    for part in checked(content, list, "the content"):
        if isinstance(part, str):
            text.append(part)
            continue
        checked(part, dict, "a part of the content")
        if part.get("type") == "thinking":
            thought.extend(texts(part.get("thinking") or "")[0])
        elif part.get("type", "text") == "text":
            text.append(checked(part.get("text") or "", str, "the text of a part"))
    return "".join(text), "".join(thought)


_FIGURES: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("input_tokens", (("prompt_tokens",),)),
    ("output_tokens", (("completion_tokens",),)),
    ("cached_tokens", (("prompt_tokens_details", "cached_tokens"), ("prompt_cache_hit_tokens",))),  # last: DeepSeek
    ("reasoning_tokens", (("completion_tokens_details", "reasoning_tokens"), ("reasoning_tokens",))),
)


def figures(usage: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The figures in a `usage`; what is no count is left out."""
    found: list[tuple[str, int]] = []
    for name, paths in _FIGURES:
        for path in paths:
            value: Any = usage
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if type(value) is int and 0 <= value < _MOST:
                found.append((name, value))
                break
    return found
