"""The steps of a script that are an answer, whole or broken: each knows the actions on the wire that it stands for.

What those that make sense without a wire mean to a `FakeBackend` stands in `_play`. Rules of the file: a step says
what to do and does nothing itself; no waiting beyond what it names; where a client did not ask for a stream, a step
does what its server would do then, which is mostly to say nothing at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient_llm._errors import ConfigError
from resilient_llm._replies import Usage
from resilient_llm._types import ToolCall
from resilient_llm.testing._model import encode
from resilient_llm.testing._script import (
    JSON,
    Action,
    Answer,
    Chunk,
    Drop,
    End,
    Head,
    Raw,
    Ready,
    Sized,
    Wait,
    body,
    reason,
)

_PIECE = 65536


@dataclass(frozen=True, slots=True, repr=False)
class Say(Sized):
    """An answer. Made by `say`."""

    texts: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    gap: float = 0.0
    first: float = 0.0
    usage: Usage | None = None
    joined: bool = False

    def __post_init__(self) -> None:
        for text in (*self.texts, *self.reasoning):
            if not isinstance(text, str):
                raise ConfigError(f"script: a text is needed, one argument for each token, not {type(text).__name__}")
        if not (self.gap >= 0 and self.first >= 0):
            raise ConfigError(f"say: gap={self.gap!r} and first={self.first!r} must be seconds, 0 or more")

    @property
    def pieces(self) -> int:
        """The tokens of the answer by the rule of the fakes: one for each text, thought and tool call."""
        return len(self.texts) + len(self.reasoning) + len(self.tool_calls)

    @property
    def seconds(self) -> float:
        """Seconds until the answer is whole."""
        return self.first + self.gap * max(self.pieces - 1, 0)

    def actions(self, answer: Answer) -> Iterator[Action]:
        """The whole answer."""
        if not answer.streams:
            yield Ready()
            yield Wait(self.seconds)
            yield from body(answer, 200, answer.whole(self))
            return
        yield from _tokens(self, answer)
        yield from map(Chunk, () if self.joined else answer.final(self))
        yield End()


@dataclass(frozen=True, slots=True)
class Echo:
    """What a fake without a script says: the prompt again, word by word, within the caller's token limit."""

    def said(self, prompt: str, limit: int | None) -> Say:
        """The answer to this prompt."""
        words = tuple(f" {word}" if at else word for at, word in enumerate(["You", "said:", *prompt.split()]))
        allowed = len(words) if limit is None else max(limit, 0)
        return Say(words[:allowed], finish="stop" if len(words) <= allowed else "length")

    def actions(self, answer: Answer) -> Iterator[Action]:
        """The whole answer."""
        return self.said(answer.prompt, answer.limit).actions(answer)


@dataclass(frozen=True, slots=True, repr=False)
class Broken(Sized):
    """An answer that goes wrong after some tokens. Made by `stall`, `cut`, `ends` and `slow_close`."""

    said: Say
    how: str
    seconds: float = math.inf

    def actions(self, answer: Answer) -> Iterator[Action]:
        """The tokens, then the fault."""
        if answer.streams:
            yield from _tokens(self.said, answer)
        else:
            yield Ready()
        yield from _ENDINGS[self.how](self, answer)


@dataclass(frozen=True, slots=True, repr=False)
class Insert(Sized):
    """Tokens, then bytes that are not an answer, then a clean end. Made by `malformed` and `error_line`."""

    said: Say
    data: bytes = b""
    error: str | Mapping[str, Any] | None = None

    def actions(self, answer: Answer) -> Iterator[Action]:
        """The tokens, then the bytes; an error where nothing was said yet and no stream was asked for is a 500."""
        if answer.streams:
            yield from _tokens(self.said, answer)
            yield Chunk(self.data if self.error is None else answer.error_frame(self.error))
            yield End()
            return
        yield Ready()
        if self.error is None:
            yield from body(answer, 200, self.data)
        else:
            error = self.error
            yield from body(answer, 500, answer.error_body(500, error) if isinstance(error, str) else encode(error))


@dataclass(frozen=True, slots=True, repr=False)
class Recut(Sized):
    """An answer whose chunks end elsewhere than its events do. Made by `split_utf8` and `huge_line`."""

    said: Say
    cuts: Callable[[bytes], Iterable[int]]

    def actions(self, answer: Answer) -> Iterator[Action]:
        """The whole answer, each event cut at these offsets."""
        said = self.said
        yield Ready()
        yield head_of(answer)
        for frame in [*answer.frames(said), *answer.final(said)] if answer.streams else [answer.whole(said)]:
            for begin, end in itertools.pairwise([0, *self.cuts(frame), len(frame)]):
                yield Chunk(frame[begin:end])
        yield End()


@dataclass(frozen=True, slots=True, repr=False)
class Status(Sized):
    """An answer with another status. Made by `status` and `redirect`."""

    code: int
    body: str | bytes | Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    loads: bool = False

    def actions(self, answer: Answer) -> Iterator[Action]:
        """Headers and body in one piece."""
        if self.loads:
            yield Ready()
        given = reason(self.code) if self.body is None else self.body
        if isinstance(given, str):
            given = answer.error_body(self.code, given)
        yield from body(answer, self.code, given if isinstance(given, bytes) else encode(given), self.headers)


def inside_characters(data: bytes) -> list[int]:
    """Offsets after the first byte of each character of several bytes."""
    return [at + 1 for at, byte in enumerate(data) if byte >= 0xC0]


def every_64_kib(data: bytes) -> Iterable[int]:
    """Offsets of the pieces that a huge body is sent in."""
    return range(_PIECE, len(data), _PIECE)


def head_of(answer: Answer) -> Head:
    """What a 200 begins with; a body that is no stream goes in chunks where its length is not told first."""
    return answer.head if answer.streams else Head(200, (JSON, *answer.headers.items()))


def _tokens(said: Say, answer: Answer) -> Iterator[Action]:
    """Headers and tokens of a stream; the headers leave with the first token, at once if there is none."""
    yield Ready()
    yield Wait(said.first)
    yield answer.head
    frames = answer.frames(said)
    if said.joined:
        frames = [b"".join([*frames, *answer.final(said)])]
    for at, frame in enumerate(frames):
        yield Wait(said.gap if at else 0.0)
        yield Chunk(frame)
    if not frames:
        yield Chunk()


def _stalled(step: Broken, answer: Answer) -> Iterator[Action]:
    del step, answer
    yield Wait()


def _torn(step: Broken, answer: Answer) -> Iterator[Action]:
    """Half of what the length before it promises: of a chunk in a stream, of the body otherwise."""
    if answer.streams:
        frame = answer.frames(Say(("never told",)))[-1]
        yield Raw(b"%x\r\n%s" % (len(frame), frame[: len(frame) // 2]))
    else:
        whole = answer.whole(step.said)
        head, *_ = body(answer, 200, whole)
        yield head
        yield Chunk(whole[: len(whole) // 2])
    yield Drop()


def _unfinished(step: Broken, answer: Answer) -> Iterator[Action]:
    if answer.streams:
        yield End()
    else:
        yield from body(answer, 200, answer.whole(step.said, done=False))


def _lingering(step: Broken, answer: Answer) -> Iterator[Action]:
    if not answer.streams:
        yield head_of(answer)
    yield from map(Chunk, answer.final(step.said) if answer.streams else [answer.whole(step.said)])
    yield Wait(step.seconds)
    yield End()


_ENDINGS = {"stall": _stalled, "cut": _torn, "ends": _unfinished, "slow_close": _lingering}
