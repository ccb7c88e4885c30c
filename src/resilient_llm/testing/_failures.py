"""The steps of a script in which the server does not get as far as an answer, or takes its time for one.

Rules of the file: a step says what to do and does nothing itself; no waiting beyond what it names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from resilient_llm._errors import LLMError
from resilient_llm.testing._script import Action, Answer, Chunk, Drop, Head, Pace, Raw, Sized, Step, Wait
from resilient_llm.testing._steps import Say, head_of


@dataclass(frozen=True, slots=True, repr=False)
class Fail(Sized):
    """An error that is raised. Made by `fail`. It has no bytes, so that only a `FakeBackend` can play it."""

    error: LLMError
    said: Say


@dataclass(frozen=True, slots=True, repr=False)
class Bytes(Sized):
    """Bytes on the socket. Made by `raw`."""

    data: bytes

    def actions(self, answer: Answer) -> Iterator[Action]:
        """The bytes, then the end of the connection."""
        del answer
        yield Raw(self.data)
        yield Drop()


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer. Made by `hang`."""

    after_headers: bool = False

    def actions(self, answer: Answer) -> Iterator[Action]:
        """At most the headers."""
        if self.after_headers:
            yield head_of(answer)
            yield Chunk()
        yield Wait()


@dataclass(frozen=True, slots=True)
class Comments:
    """Signs of life without payload. Made by `comments`."""

    count: int | None
    gap: float
    then: Step | None = None

    def actions(self, answer: Answer) -> Iterator[Action]:
        """Headers at once, then comments. What comes after them does not send its headers again."""
        yield head_of(answer)
        yield Chunk()
        for _ in itertools.count() if self.count is None else range(self.count):
            yield Wait(self.gap)
            yield Chunk(answer.idle)
        if self.then is None:
            yield Wait()
        else:
            yield from (one for one in self.then.actions(answer) if not isinstance(one, Head))


@dataclass(frozen=True, slots=True)
class Dribble:
    """Byte by byte. Made by `dribble`."""

    seconds: float
    of: Step

    def actions(self, answer: Answer) -> Iterator[Action]:
        """The other step, slowly."""
        yield Pace(self.seconds)
        yield from self.of.actions(answer)


@dataclass(frozen=True, slots=True)
class Delayed:
    """Another step, after seconds of nothing."""

    seconds: float
    of: Step

    def actions(self, answer: Answer) -> Iterator[Action]:
        """The wait, then the step."""
        yield Wait(self.seconds)
        yield from self.of.actions(answer)


@dataclass(frozen=True, slots=True)
class Reset:
    """RST before any header. Made by `reset`."""

    def actions(self, answer: Answer) -> Iterator[Action]:
        """Nothing but the end."""
        del answer
        yield Drop(reset=True)


@dataclass(frozen=True, slots=True)
class Refuse(Reset):
    """Nobody listens. Made by `refuse`; a request that comes on an open connection all the same is reset."""


@dataclass(frozen=True, slots=True)
class EndlessHeaders:
    """A header block without end. Made by `endless_headers`."""

    def actions(self, answer: Answer) -> Iterator[Action]:
        """One header after the other, as fast as the client reads."""
        del answer
        yield Raw(b"HTTP/1.1 200 OK\r\n")
        for at in itertools.count():
            yield Raw(b"X-Filler-%d: %s\r\n" % (at, b"x" * 1000))
