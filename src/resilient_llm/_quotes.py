"""A server's reason is shown to the caller, and put into traces; what it quotes of the prompt is taken out of it.

Servers do that: a validator gives the value that it refused, a filter the sentence that it did not like. Reports of
crashes and traces leave the process, where prompts have no business.

Rules of the file: pure. A common word is no quotation; only a text of some length counts, or a run of its characters.
No deadline waits for it: what we say ourselves quotes nothing, and the few words of a server are looked for in the
prompt, because a prompt of a megabyte in pieces takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resilient_llm._errors import (
    ConnectTimeout,
    DeadlineExceeded,
    FirstTokenTimeout,
    LLMError,
    LoadTimeout,
    Rejected,
    StreamStalled,
)
from resilient_llm._types import ChatRequest, Request

WHOLE = 8  # characters of a text that is repeated as a whole
PIECE, STEP = 16, 8  # of a longer one, any run of 23 characters is found
FEW = 512  # characters of words; our backends keep less of what a server says
HIDDEN = "[prompt]"
OURS = (DeadlineExceeded, ConnectTimeout, LoadTimeout, FirstTokenTimeout, StreamStalled, Rejected)  # in our own words


def unquote(error: LLMError, request: Request) -> None:
    """Takes what was asked out of the words of an error, and out of those that led to it."""
    one: BaseException | None = error
    done: set[int] = set()
    while isinstance(one, LLMError) and id(one) not in done:  # a chain may be a circle: `raise error from error`
        done.add(id(one))
        if not isinstance(one, OURS):
            one.args = tuple(without(word, request) if isinstance(word, str) else word for word in one.args)
        one = one.__cause__


def without(words: str, request: Request) -> str:
    """`words`, with `[prompt]` where they repeat what was asked."""
    texts = sorted({text for text in _said(request) if len(text) >= WHOLE}, key=len, reverse=True)
    for text in texts:
        words = words.replace(text, HIDDEN)
    quoted = _marked(words, texts)
    return "".join(_kept(words, quoted)) if any(quoted) else words


def _said(request: Request) -> Iterator[str]:
    """Everything of the request that a person or a model wrote."""
    if not isinstance(request, ChatRequest):
        yield from request.texts
        return
    for message in request.messages:
        yield message.content
        yield message.reasoning or ""
        for call in message.tool_calls:
            yield from _strings(call.arguments)


def _strings(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Those of a tool call, however deep they are."""
    inside: list[Any] = [arguments]
    while inside:
        value = inside.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            inside.extend(value.values())
        elif isinstance(value, (list, tuple)):
            inside.extend(value)


def _marked(words: str, texts: Sequence[str]) -> bytearray:
    """Marks the characters that a text has in the same order."""
    pieces = [words[at : at + PIECE] for at in range(len(words) - PIECE + 1)]
    found = _of_few(pieces, texts) if len(words) <= FEW else _of_many(pieces, texts)
    quoted = bytearray(len(words))
    for at, piece in enumerate(pieces):
        if piece in found:
            quoted[at : at + PIECE] = b"\1" * PIECE
    return quoted


def _of_few(pieces: Sequence[str], texts: Sequence[str]) -> set[str]:
    """The pieces that a text has: looked for in steps, and closely around each that is found."""
    found: set[str] = set()
    for at in range(0, len(pieces), STEP):
        if any(pieces[at] in text for text in texts):
            around = pieces[max(at - STEP, 0) : at + STEP + 1]
            found.update(piece for piece in around if any(piece in text for text in texts))
    return found


def _of_many(pieces: Sequence[str], texts: Sequence[str]) -> set[str]:
    """The same, and linear: prompts are long, and so are these words.

    Each text is looked at in steps, and closely where a piece of it is among those of the words.
    """
    known, found, seen = set(pieces), set[str](), set[str]()
    for text in texts:
        last = len(text) - PIECE
        steps = range(0, last + 1, STEP)
        for at in [at for at in steps if text[at : at + PIECE] in known]:
            first, end = max(at - STEP, 0), min(at + STEP, last)
            around = text[first : end + PIECE]
            if around not in seen:
                seen.add(around)
                found.update(text[near : near + PIECE] for near in range(first, end + 1))
    return found


def _kept(words: str, quoted: bytearray) -> Iterator[str]:
    for at, char in enumerate(words):
        if not quoted[at]:
            yield char
        elif at == 0 or not quoted[at - 1]:
            yield HIDDEN
