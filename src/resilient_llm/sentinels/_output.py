"""What an answer is watched for while it comes in, and when it is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resilient_llm._errors import ConfigError, OutputInvalid
from resilient_llm._numbers import finite, whole
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
        loop: bytes of the answer's end (or of the reasoning's) that repeat themselves exactly, six times or more.
            Default 4,000, about 1,000 tokens: zero matrices, drawings, placeholder pages of real answers stay below.
        whitespace: bytes of nothing but white space at the end of an answer that has to be JSON (`parse`). Default 512.
        run_on: how many times its limit an answer may have: `max_tokens`, else the window. Default 2, because a model
            that thinks is run twice by some servers, each time with the whole limit.

    Raises:
        ConfigError: a number is impossible; the message shows it.
    """

    loop: int | None = 4000
    whitespace: int | None = 512
    run_on: float | None = 2.0

    def __post_init__(self) -> None:
        for name, value, least in (("loop", self.loop, 64), ("whitespace", self.whitespace, 16)):
            if value is not None:
                whole(name, value, least)
        if self.run_on is not None:
            finite("run_on", self.run_on)
            if self.run_on < 1:
                raise ConfigError(f"run_on: {self.run_on!r} is below 1")

    def lookout(self, request: ChatRequest, window: int | None) -> Lookout:
        """What watches the answer to this request."""
        limit = request.max_tokens or window
        most = math.ceil(self.run_on * limit) + SLACK if self.run_on is not None and limit is not None else None
        return Lookout(self.loop, self.whitespace if request.schema is not None else None, most)


class Lookout:
    """Watches one answer. Its owner asks it every `EVERY` pieces, and at the end of an answer that a limit cut.

    Args:
        loop: see `OutputSentinel`.
        whitespace: the same; `None` unless the answer has to be JSON.
        most: tokens that the answer and its reasoning may have.
    """

    __slots__ = ("_answer", "_loop", "_most", "_reasoning", "_whitespace")

    def __init__(self, loop: int | None, whitespace: int | None, most: int | None) -> None:
        self._loop, self._whitespace, self._most = loop, whitespace, most
        keep = max(loop * 9 // 4 if loop is not None else 0, whitespace or 0)  # periods up to 3/8 of the span
        self._answer, self._reasoning = _End(keep), _End(keep)

    def look(self, texts: Sequence[str], thoughts: Sequence[str]) -> OutputInvalid | None:
        """Takes in what has come since it was last asked. It raises nothing: the pieces are in its frame.

        Args:
            texts: all pieces of the answer so far.
            thoughts: all pieces of the reasoning so far.

        Returns:
            The error that the answer has to be cut with, nothing of the text in it; `None` if it may go on.
        """
        for end, pieces, what in (
            (self._answer, texts, "the answer"),
            (self._reasoning, thoughts, "the model's reasoning"),
        ):
            if end.take(pieces) and self._loop is not None:
                length = period(end.tail, span=self._loop, times=TIMES)
                if length is not None:
                    return OutputInvalid(
                        f"{what} was cut: for {self._loop} bytes and more it repeated the same {length} bytes",
                        kind="loop",
                    )
        blank = self._whitespace
        if blank is not None and len(self._answer.tail) >= blank and self._answer.tail[-blank:].isspace():
            return OutputInvalid(
                f"the answer was cut: {blank} bytes of white space where JSON should be", kind="whitespace"
            )
        # A piece has a token at least; but where a proxy cuts anew, a token may come in several. None is half a byte.
        tokens = min(len(texts) + len(thoughts), (self._answer.size + self._reasoning.size) // 2)
        if self._most is not None and tokens > self._most:
            return OutputInvalid(
                f"the answer was cut after {tokens} tokens and more: its limit is far behind, and the server goes on",
                kind="run_on",
            )
        return None


class _End:
    """The end of a text that grows, in UTF-8: there a token has about four bytes in every script."""

    __slots__ = ("_keep", "_pieces", "size", "tail")

    def __init__(self, keep: int) -> None:
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
