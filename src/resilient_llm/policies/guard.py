"""Whether a prompt fits the window, and what happens if it does not. It is never cut silently.

A server left to itself cuts without a word: Ollama drops messages from the front and then half of what is left, the
system prompt with it (ollama/ollama#17427, #3839). So the prompt is measured before it is sent, and what does not fit
is refused, with both numbers, or trimmed by the rule that the caller chose.

Rules of the file: a rule proposes, the guard counts again. What a rule leaves that is still too long is refused.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import SupportsIndex

from resilient_llm._errors import ConfigError, ContextOverflow
from resilient_llm._numbers import shown, whole
from resilient_llm._types import ChatRequest, Message, messages_from
from resilient_llm.policies.tokens import Extent, TokenCounter, estimate_request

ANSWER = 256  # tokens kept for the answer if the call does not say `max_tokens`
MARGIN = 1.05  # our own count may be 5 % too low; a counter that the user gives is believed
log = logging.getLogger("resilient_llm")
Count = Callable[[Sequence[Message]], int]
Overflow = Callable[[Sequence[Message], int, Count], Sequence[Message]]


def refuse(messages: Sequence[Message], room: int, count: Count) -> Sequence[Message]:
    """Changes nothing, so that the guard refuses with `ContextOverflow`. The default."""
    return messages


def drop_oldest(messages: Sequence[Message], room: int, count: Count) -> Sequence[Message]:
    """Leaves out as many of the oldest turns as it takes.

    A turn is a user's message and what followed it; after the last user's message, an assistant's message and the
    results of its tool calls. System messages stay, as do the last user's message and the turn at the end, which is
    what the model is to answer. A tool call and its results stay or go together.
    """
    turns = _turns(messages)
    last_user = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
    droppable = [turn for turn in turns[:-1] if last_user not in turn]

    def without(dropped: int) -> list[Message]:
        gone = {number for turn in droppable[:dropped] for number in turn}
        return [message for number, message in enumerate(messages) if number not in gone]

    # Fewer messages, fewer tokens: the least that has to go is found by halving, with few counts however long it is.
    enough = bisect_left(range(len(droppable)), True, key=lambda dropped: count(without(dropped)) <= room)
    return without(enough)


def _turns(messages: Sequence[Message]) -> list[list[int]]:
    """The numbers of the messages, system messages left out, in groups that stay or go together."""
    last_user = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
    turns: list[list[int]] = []
    asked: dict[str, int] = {}  # the number of the message that made each call
    for number, message in enumerate(messages):
        if message.role in ("system", "developer"):
            continue
        if message.role == "user" or (message.role == "assistant" and number > last_user) or not turns:
            turns.append([])
        turns[-1].append(number)
        asked.update((call.id, number) for call in message.tool_calls)
        caller = asked.get(message.tool_call_id or "", number) if message.role == "tool" else number
        while len(turns) > 1 and turns[-1][0] > caller:  # a result that came late ties together what lies between
            late = turns.pop()
            turns[-1] += late
    return turns


@dataclass(frozen=True, slots=True, repr=False)
class ContextGuard:
    """What happens to a prompt that does not fit the window.

    Args:
        window: of the model, in tokens. Default: what the server or the backend says. A smaller one of yours holds, a
            larger one does not make the server's larger. While nobody knows it, nothing is checked.
        reserve: tokens of it that are kept for the answer. Default: the call's `max_tokens`, else 256, but at most a
            quarter of the window.
        overflow: `refuse`, `drop_oldest`, or a function `(messages, room, count) -> messages` of your own: `room` is
            what the prompt may have, `count(messages)` what it would have. What it returns is counted again.
        counter: counts a request exactly; see `TokenCounter`. Default: an estimate, taken 5 % higher, because it may
            err. It is called in a thread, not at all if the prompt fits even when every byte is a token, and the
            estimate decides where it raises.

    Raises:
        ConfigError: a number is impossible; the message shows it.
    """

    window: int | None = None
    reserve: int | None = None
    overflow: Overflow = refuse
    counter: TokenCounter | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("window", self.window, 1), ("reserve", self.reserve, 0)):
            if value is not None:
                whole(name, value, least)
        if self.window is not None and self.reserve is not None and self.reserve >= self.window:
            raise ConfigError(f"reserve: {self.reserve} tokens leave nothing of a window of {self.window}")
        for name, function in (("overflow", self.overflow), ("counter", self.counter)):
            if not callable(function) and not (name == "counter" and function is None):
                raise ConfigError(f"{name}: {shown(function)} is not a function")

    def room(self, request: ChatRequest, window: int | None) -> tuple[int, int] | None:
        """Tokens that the prompt may have and those kept for the answer; `None` while nobody knows the window.

        Args:
            request: what is to be sent.
            window: what else is known, in tokens; the guard's own holds if it is smaller.
        """
        if window is None or (self.window is not None and self.window < window):
            window = self.window
        if window is None:
            return None
        reserve = min(request.max_tokens or ANSWER, window // 4) if self.reserve is None else self.reserve
        return window - reserve, reserve

    @property
    def ours(self) -> bool:
        """Nothing of it is the user's code."""
        return self.counter is None and self.overflow in (refuse, drop_oldest)

    def fits_surely(self, request: ChatRequest, window: int | None, extent: Extent | None = None) -> bool:
        """Nothing has to be counted. Cheap. `extent` is the request's, if it was measured before."""
        space = self.room(request, window)
        return space is None or (extent or Extent(request)).fits(space[0])

    def fit(
        self, request: ChatRequest, window: int | None, estimate: TokenCounter = estimate_request, *,
        factor: float = MARGIN, by: str | None = None,
    ) -> ChatRequest:  # fmt: skip
        """The request, as it is or as the rule made it, so that prompt and answer fit the window.

        Args:
            request: what is to be sent.
            window: what else is known, in tokens; the guard's own holds if it is smaller.
            estimate: what counts where the guard has no counter of its own.
            factor: what the estimate is multiplied by, so that it is hardly ever too low.
            by: who says how large the window is.

        Raises:
            ContextOverflow: it does not fit, and the rule, if there is one, did not make it fit. Both numbers and the
                reserve are in the message.
            ConfigError: the rule left no message at all.
        """
        space = self.room(request, window)
        if space is None:
            return request
        room, reserve = space
        counter = self._counter(lambda request: math.ceil(estimate(request) * factor))
        if Extent(request).fits(room) or counter(request) <= room:
            return request

        def count(messages: Sequence[Message]) -> int:
            return counter(replace(request, messages=tuple(messages))) if messages else 0

        trimmed = replace(request, messages=messages_from(self.overflow(request.messages, room, count)))
        tokens = counter(trimmed)
        if tokens <= room:
            return trimmed
        about = "" if self.counter is not None else "about "
        raise ContextOverflow(
            f"the prompt has {about}{tokens} tokens, but the window of {room + reserve}{f' (by {by})' if by else ''}"
            f" has room for {max(room, 0)}: {reserve} are kept for the answer. Shorten it, use a larger window or a"
            " smaller reserve, or let ContextGuard(overflow=drop_oldest) leave out the oldest turns",
            tokens=tokens,
            limit=max(room, 0),
        )

    @property
    def names(self) -> tuple[str, str]:
        """Those of the rule and of what counts."""
        return _name(self.overflow), "estimate" if self.counter is None else _name(self.counter)

    def _counter(self, ours: TokenCounter) -> TokenCounter:
        """The guard's own, or `ours`: where it has none, and from where its own raises.

        Tokenizers do raise, on what a prompt holds: tiktoken on the text of a special token, unless it is told not to.
        """
        theirs = self.counter

        def count(request: ChatRequest) -> int:
            nonlocal theirs
            if theirs is None:
                return ours(request)
            try:
                tokens = theirs(request)
            except Exception as error:  # noqa: BLE001  # somebody else's code: the call need not die of it
                log.warning("counter: %s raised %s; the estimate decides", _name(theirs), type(error).__name__)
                theirs = None
                return ours(request)
            if isinstance(tokens, bool) or not isinstance(tokens, SupportsIndex) or index(tokens) < 0:
                given = shown(tokens) if isinstance(tokens, (int, float)) else type(tokens).__name__
                tokens = 0  # it may be the prompt, and an error's traceback shows the locals of this frame
                raise ConfigError(f"counter: {_name(theirs)} gave {given}, not a whole number of 0 or more")
            return index(tokens)

        return count

    def __repr__(self) -> str:
        rule, counter = self.names
        return f"ContextGuard(window={self.window}, reserve={self.reserve}, overflow={rule}, counter={counter})"


def _name(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
