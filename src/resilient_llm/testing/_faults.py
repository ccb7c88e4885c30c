"""The words of a script: what a fake does with one request, from an ordinary answer to a dead socket.

Each function makes a frozen value, the same for every fake: `status(503)` is an error in the envelope of the server
that says it, `cut("a")` is a torn connection on a server and the error that this becomes in a `FakeBackend`. A
`FakeBackend` has no wire, so it takes `say`, `hang`, `fail`, `stall`, `cut`, `ends` and `slow_close`; a server takes
all but `fail`. Texts are tokens: each is an event and an HTTP chunk of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._replies import Usage
from resilient_llm._types import ToolCall
from resilient_llm.testing._failures import Bytes, Comments, Dribble, EndlessHeaders, Fail, Hang, Refuse, Reset
from resilient_llm.testing._script import Step
from resilient_llm.testing._steps import Broken, Echo, Insert, Recut, Say, Status, every_64_kib, inside_characters


def say(
    *texts: str,
    reasoning: Sequence[str] = (),
    tool_calls: Sequence[ToolCall] = (),
    finish: str = "stop",
    gap: float = 0.0,
    first: float = 0.0,
    usage: Usage | None = None,
    joined: bool = False,
) -> Say:
    """An ordinary answer.

    Args:
        texts: its tokens; none makes an empty answer.
        reasoning: what the model thinks first, token by token.
        tool_calls: the calls that it wants made.
        finish: why it ends; a fake OpenAI says `tool_calls` instead of `stop` when there are any.
        gap: seconds between two tokens.
        first: seconds before the first one. The headers wait for it too.
        usage: the counts to report. Otherwise the prompt has a quarter of its characters, the answer its tokens.
        joined: the whole answer in one HTTP chunk, or in one batch of events.
    """
    return Say(texts, tuple(reasoning), tuple(tool_calls), finish, gap, first, usage, joined)


def refuse() -> Refuse:
    """Stops listening when this step is next: connections are refused until `listen_again()`, which ends the step."""
    return Refuse()


def reset() -> Reset:
    """Reads the request and resets the connection before any header."""
    return Reset()


def hang(*, after_headers: bool = False) -> Hang:
    """Takes the request and says nothing; with `after_headers` it sends those, and nothing after them.

    It ends when the caller leaves.
    """
    return Hang(after_headers)


def fail(error: LLMError, *, after: Sequence[str] = ()) -> Fail:
    """Raises a copy of this error, each time a new one. For a `FakeBackend`.

    Args:
        error: any `LLMError`, with its facts: `RateLimited("slow down", retry_after=30)`.
        after: the tokens before it; with none it is raised before the answer begins, as it is where no stream was
            asked for.

    Raises:
        ConfigError: it is no error of this library, and a backend raises no others.
    """
    given: object = error
    if not isinstance(given, LLMError):
        shown = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise ConfigError(f"fail: an LLMError is needed, such as ConnectFailed(), not {shown}")
    return Fail(error, Say(tuple(after)))


def dribble(seconds: float, of: Step | None = None) -> Dribble:
    """Sends an answer byte by byte, headers too.

    Args:
        seconds: after each byte.
        of: the step to slow down, `status(500)` for instance; an ordinary answer if `None`.
    """
    return Dribble(seconds, of or Echo())


def stall(*texts: str) -> Broken:
    """Says these tokens and nothing more, with the connection open."""
    return Broken(Say(texts), "stall")


def cut(*texts: str) -> Broken:
    """Says these tokens, then the connection ends in mid-chunk, as when the process of a server dies."""
    return Broken(Say(texts), "cut")


def ends(*texts: str) -> Broken:
    """Says these tokens, then ends the body cleanly, without the event that says it is done.

    Not as a stream, it is a 200 with `done: false` from Ollama (ollama/ollama#13239) and without a finish reason
    from OpenAI.
    """
    return Broken(Say(texts), "ends")


def slow_close(*texts: str, seconds: float = math.inf) -> Broken:
    """Gives a whole answer, its last event too, but the end of the body comes only after `seconds`."""
    return Broken(Say(texts), "slow_close", seconds)


def error_line(error: str | Mapping[str, Any], *, after: Sequence[str] = ()) -> Insert:
    """An error in the stream, after a 200 and the tokens `after`, then a clean end.

    Args:
        error: a text, put into the envelope of the server, or the whole JSON object.
        after: the tokens before it.
    """
    return Insert(Say(tuple(after)), error=error)


def malformed(data: bytes, *, after: Sequence[str] = ()) -> Insert:
    """These bytes as a chunk of the body after the tokens `after`, then a clean end."""
    return Insert(Say(tuple(after)), data)


def split_utf8(text: str) -> Recut:
    """A whole answer, its chunks cut inside each character of several bytes.

    Raises:
        ValueError: the text has no such character.
    """
    if text.isascii():
        raise ValueError("split_utf8 needs a text with a character outside ASCII")
    return Recut(Say((text,)), inside_characters)


def status(
    code: int,
    body: str | bytes | Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Status:
    """An answer with this status.

    Args:
        code: the HTTP status.
        body: a text is put into the server's own envelope for errors, a mapping is sent as JSON, bytes as they are;
            `None` is the standard phrase of the status as a text.
        headers: besides content type and length; `Retry-After` for instance.
    """
    return Status(code, body, dict(headers or {}))


def redirect(to: str, *, code: int = 307) -> Status:
    """Sends the client to another URL, where it must not go."""
    return Status(code, b"", {"Location": to})


def raw(data: bytes) -> Bytes:
    """Exactly these bytes on the socket, then the end of the connection."""
    return Bytes(data)


def comments(count: int | None = None, gap: float = 0.05, *, then: Step | None = None) -> Comments:
    """Headers at once, then signs of life that hold no payload: comments of SSE, empty lines of NDJSON.

    Args:
        count: how many; `None` for no end.
        gap: seconds before each.
        then: the step after them; `None` says nothing more.
    """
    return Comments(count, gap, then)


def huge_line(size: int) -> Recut:
    """An answer of one token with `size` characters, so that its one line is a little longer than that."""
    return Recut(Say(("x" * size,)), every_64_kib)


def endless_headers() -> EndlessHeaders:
    """A 200 whose headers never end."""
    return EndlessHeaders()
