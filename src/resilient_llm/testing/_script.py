"""What the fakes and their scripts tell each other: actions, steps, answers.

A step of a script is a frozen value whose `actions` say what to do on the wire, in order. It asks an `Answer` how
this request is answered in the language of the server, so that one vocabulary serves every server, and the
connection carries the actions out without knowing either.

Rules of the file: values only, no sockets; a `repr` gives sizes, never text.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from resilient_llm._errors import ConfigError

if TYPE_CHECKING:
    from resilient_llm.testing._steps import Say

S = TypeVar("S")
Headers = Sequence[tuple[str, str]]
JSON = ("Content-Type", "application/json; charset=utf-8")
Kind = Literal["chat", "embed", "load", "other"]


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers. They leave with the next bytes, as Go's and Python's servers do it."""

    status: int
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the body, in one HTTP chunk unless the headers gave a length. Empty: only flush the headers."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes for the socket as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds of silence; infinite: until the client leaves or the server closes."""

    seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class Pace:
    """From here on every byte goes alone, with these seconds after it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The model has to be in memory now."""


@dataclass(frozen=True, slots=True)
class End:
    """The body ends as HTTP wants it."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection ends here, with FIN or, if `reset`, with RST."""

    reset: bool = False


Action = Head | Chunk | Raw | Wait | Pace | Ready | End | Drop


class Answer(Protocol):
    """How one request is answered in the language of the server that got it.

    Attributes:
        streams: the client asked for a stream.
        prompt: the text that an unscripted answer repeats.
        limit: the tokens that the client allows for the answer.
        head: status and headers of a stream.
        headers: what else every answer carries, by name.
        idle: bytes that keep a stream alive and say nothing.
    """

    streams: bool
    prompt: str
    limit: int | None
    head: Head
    headers: Mapping[str, str]
    idle: bytes

    async def ready(self) -> None:
        """Returns when the model is in memory."""
        ...

    def frames(self, said: Say) -> list[bytes]:
        """The events of a stream up to the last token, each a chunk of its own."""
        ...

    def final(self, said: Say) -> list[bytes]:
        """The events which say that the answer is whole."""
        ...

    def whole(self, said: Say, *, done: bool = True) -> bytes:
        """The body of an answer that is no stream; without `done`, one that its server left unfinished."""
        ...

    def error_frame(self, detail: str | Mapping[str, Any]) -> bytes:
        """An error as an event of a stream that had begun with a 200."""
        ...

    def error_body(self, status: int, message: str) -> bytes:
        """An error as the JSON body of an answer with this status."""
        ...


class Step(Protocol):
    """One step of a script. Any object with this method is one."""

    def actions(self, answer: Answer) -> Iterable[Action]:
        """What to do on the wire, in order."""
        ...


class Sized:
    """A `repr` that gives the sizes of texts instead of the texts."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = [f"{one.name}={_size(getattr(self, one.name))}" for one in fields(self)]  # type: ignore[arg-type]  # only dataclasses are
        return f"{type(self).__name__}({', '.join(shown)})"


def _size(value: object) -> str:
    if isinstance(value, str | bytes | Mapping):
        return f"<{len(value)}>"
    if isinstance(value, tuple):
        return f"[{', '.join(_size(one) for one in value)}]"
    return repr(value)


@dataclass(slots=True, repr=False, eq=False)
class Recorded:
    """One request that a fake server got.

    Attributes:
        method: `POST`, `GET`, `HEAD`, …
        path: without the query.
        headers: by name in lower case. They hold the client's key: they are not in the `repr`.
        json: the body, or `None` if it was empty or no JSON.
        kind: `chat` and `embed` are answered by the script; `load` only brings a model into memory or out of it.
        started: when the request was whole, on `time.monotonic`.
        finished: when its answer ended, or `None`.
        ended: how: `complete` (all that was to be said was said), `cut` (the script broke the connection),
            `disconnected` (the client left first), `closed` (the server was closed or killed), or `None` as long
            as it goes on.
    """

    method: str
    path: str
    headers: dict[str, str]
    json: Any
    kind: Kind
    started: float
    finished: float | None = None
    ended: Literal["complete", "cut", "disconnected", "closed"] | None = None

    def __repr__(self) -> str:
        return f"Recorded({self.method} {self.path}, {self.ended or 'in progress'})"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a server makes of a request: how to answer it, and with which step unless the script is to say.

    Attributes:
        kind: what the request is for.
        answer: how to answer it.
        step: with which step, unless the script is to say.
        over: called when the answer has ended or nobody is there to read it, in the server's thread.
    """

    kind: Kind
    answer: Answer
    step: Step | None = None
    over: Callable[[], None] | None = None


class Script(Generic[S]):
    """The steps still to come, in turn; the last one repeats.

    Args:
        steps: of the script.
        otherwise: the step of a script that has none.
        plays: whether something is a step of this fake.
        wanted: what those are, in words.

    Raises:
        ConfigError: something is not.
    """

    __slots__ = ("_current", "_next", "_plays", "_wanted")

    def __init__(self, steps: Iterable[S], otherwise: S, plays: Callable[[object], bool], wanted: str) -> None:
        self._plays, self._wanted = plays, wanted
        self._next: deque[S] = deque()
        self._current = otherwise
        self.then(steps)

    def then(self, steps: Iterable[S]) -> None:
        """Adds steps after those still to come; a step that only repeats gives way to them.

        Raises:
            ConfigError: one is no step of this fake. None was added.
        """
        added = tuple(steps)
        for number, step in enumerate(added, 1):
            if not self._plays(step):
                shown = repr(step) if isinstance(step, Sized) else type(step).__name__
                raise ConfigError(f"script: step {number}, {shown}, is none of this fake: {self._wanted}")
        self._next.extend(added)

    @property
    def next(self) -> S:
        """The step that the next `take` gives."""
        return self._next[0] if self._next else self._current

    def take(self) -> S:
        """The step for the request that is here."""
        if self._next:
            self._current = self._next.popleft()
        return self._current

    def skip(self) -> None:
        """Leaves the next step out, if there is one still to come."""
        if self._next:
            self._next.popleft()


@dataclass(slots=True)
class Loads:
    """How often a model was loaded: a load that was started and not completed goes on or was given up."""

    started: int = 0
    completed: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Call:
    """One HTTP request, read whole; `json` is `None` where its body is none, or where it is `empty`."""

    method: str
    path: str
    headers: dict[str, str]
    json: Any = None
    began: float = 0.0
    empty: bool = False

    def __repr__(self) -> str:
        return f"Call({self.method} {self.path})"

    @property
    def body(self) -> Mapping[str, Any]:
        """The body as an object; empty if it is none."""
        return self.json if isinstance(self.json, Mapping) else {}


def body(answer: Answer, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> Iterator[Action]:
    """A body in one piece with its length, as JSON unless the headers name another type."""
    given = {**answer.headers, **(headers or {})}
    kind = () if any(name.lower() == "content-type" for name in given) else (JSON,)
    yield Head(status, (*kind, *given.items(), ("Content-Length", str(len(data)))))
    yield Chunk(data)
    yield End()


def reason(status: int) -> str:
    """The standard phrase of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown Status"
