"""What an answer is watched for while it comes in, and when it is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resilient_llm._errors import ConfigError, OutputInvalid
from resilient_llm._numbers import finite, shown, whole
from resilient_llm._types import ChatRequest
from resilient_llm.sentinels._repeats import period

EVERY = 256  # pieces between two looks: one costs 20 µs, so a piece less than 0.1 µs
TIMES = 6  # how often the same must stand there one after the other
SLACK = 256  # tokens that an answer may have beyond its limit whatever that is


@dataclass(frozen=True, slots=True)
class OutputSentinel:
    """When an answer is cut although the server goes on. A cut answer is an `OutputInvalid` that says why in `.kind`.

    It is asked for once more, with another seed. `falls_back_on=(OutputInvalid,)` sends the call to the next route
    after that. A stream is not repeated behind its reader's back: it raises, or restarts where the route says
    `on_break="restart"`. `None` takes a sentinel off.

    Args:
        loop: bytes of the answer's end (or of the reasoning's, or a tool call's) that repeat themselves exactly, six
            times or more. Default 4,000, about 1,000 tokens: zero matrices, drawings, placeholder pages of real answers
            stay below.
        whitespace: bytes of nothing but white space at the end of what has to be JSON: an answer of `parse`, a tool
            call. Default 512.
        run_on: how many times its limit an answer may have: `max_tokens`, else the window. Default 2, because a model
            that thinks is run twice by some servers, each time with the whole limit.
        empty: what an answer is whose limit was used up in thinking before a word was said: `warn` gives it, with
            `thinking_ate_budget` in `reply.degraded`; `fail` takes it for one that was cut.

    Raises:
        ConfigError: a number is impossible, or `empty` neither word; the message shows it.
    """

    loop: int | None = 4000
    whitespace: int | None = 512
    run_on: float | None = 2.0
    empty: Literal["warn", "fail"] = "warn"

    def __post_init__(self) -> None:
        for name, value, least in (("loop", self.loop, 64), ("whitespace", self.whitespace, 16)):
            if value is not None:
                whole(name, value, least)
        if self.run_on is not None:
            finite("run_on", self.run_on)
            if self.run_on < 1:
                raise ConfigError(f"run_on: {self.run_on!r} is below 1")
        if self.empty not in ("warn", "fail"):
            raise ConfigError(f"empty: {shown(self.empty)} is not one of warn, fail")

    def lookout(self, request: ChatRequest, window: int | None) -> Lookout:
        """What watches the answer to this request."""
        limit = request.max_tokens or window
        most = math.ceil(self.run_on * limit) + SLACK if self.run_on is not None and limit is not None else None
        return Lookout(self.loop, self.whitespace, most, typed=request.schema is not None)


class Lookout:
    """Watches one answer. Its owner asks it every `EVERY` pieces, and at the end of an answer that a limit cut.

    Args:
        loop: see `OutputSentinel`.
        whitespace: the same.
        most: tokens that all of it may have.
        typed: the answer has to be JSON.
    """

    __slots__ = ("_ends", "_loop", "_most")

    def __init__(self, loop: int | None, whitespace: int | None, most: int | None, *, typed: bool) -> None:
        self._loop, self._most = loop, most
        keep = max(loop * 9 // 4 if loop is not None else 0, whitespace or 0)  # periods up to 3/8 of the span
        self._ends = (
            _End("the answer", keep, whitespace if typed else None),
            _End("the model's reasoning", keep, None),
            _End("a tool call", keep, whitespace),
        )

    def look(self, texts: Sequence[str], thoughts: Sequence[str], building: Sequence[str] = ()) -> OutputInvalid | None:
        """Takes in what has come since it was last asked. It raises nothing: the pieces are in its frame.

        Args:
            texts: all pieces of the answer so far.
            thoughts: all pieces of the reasoning so far.
            building: all pieces of its tool calls so far.

        Returns:
            The error that the answer has to be cut with, nothing of the text in it; `None` if it may go on.
        """
        for end, pieces in zip(self._ends, (texts, thoughts, building), strict=True):
            if not end.take(pieces):
                continue
            length = period(end.tail, span=self._loop, times=TIMES) if self._loop is not None else None
            if length is not None:
                return OutputInvalid(
                    f"{end.what} was cut: for {self._loop} bytes and more it repeated the same {length} bytes",
                    kind="loop",
                )
            if end.blank():
                return OutputInvalid(
                    f"{end.what} was cut: {end.whitespace} bytes of white space where JSON should be", kind="whitespace"
                )
        # A piece has a token at least; but where a proxy cuts anew, a token may come in several. None is half a byte.
        tokens = min(len(texts) + len(thoughts) + len(building), sum(end.size for end in self._ends) // 2)
        if self._most is not None and tokens > self._most:
            return OutputInvalid(
                f"the answer was cut after {tokens} tokens and more: its limit is far behind, and the server goes on",
                kind="run_on",
            )
        return None


class _End:
    """The end of a text that grows, in UTF-8: there a token has about four bytes in every script."""

    __slots__ = ("_keep", "_pieces", "size", "tail", "what", "whitespace")

    def __init__(self, what: str, keep: int, whitespace: int | None) -> None:
        self.what, self.whitespace = what, whitespace
        self._keep, self._pieces, self.size = keep, 0, 0
        self.tail = b""

    def take(self, pieces: Sequence[str]) -> bool:
        """Adds the pieces that are new; whether there were any."""
        if len(pieces) == self._pieces:
            return False
        new = "".join(pieces[self._pieces :]).encode("utf-8", "surrogatepass")
        self._pieces, self.size = len(pieces), self.size + len(new)
        self.tail = (self.tail + new)[-self._keep :] if self._keep else b""
        return True

    def blank(self) -> bool:
        """It has to be JSON, and ends in white space without end."""
        least = self.whitespace
        return least is not None and len(self.tail) >= least and self.tail[-least:].isspace()
