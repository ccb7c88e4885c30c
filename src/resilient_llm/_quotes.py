"""A server's reason is shown to the caller, and put into traces; what it quotes of the prompt is taken out of it.

Servers do that: a validator gives the value that it refused, a filter the sentence that it did not like. Reports of
crashes and traces leave the process, where prompts have no business.

Rules of the file: pure. A common word is no quotation; only a text of some length counts, or a run of its characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from resilient_llm._errors import LLMError
from resilient_llm._types import ChatRequest, Request

WHOLE = 8  # characters of a text that is repeated as a whole
PIECE, STEP = 16, 8  # of a longer one, any run of 23 characters is found
HIDDEN = "[prompt]"


def unquote(error: LLMError, request: Request) -> None:
    """Takes what was asked out of the words of an error, and out of those that led to it."""
    one: BaseException | None = error
    while isinstance(one, LLMError):
        one.args = tuple(without(word, request) if isinstance(word, str) else word for word in one.args)
        one = one.__cause__


def without(words: str, request: Request) -> str:
    """`words`, with `[prompt]` where they repeat what was asked."""
    texts = sorted({text for text in _said(request) if len(text) >= WHOLE}, key=len, reverse=True)
    for text in texts:
        words = words.replace(text, HIDDEN)
    quoted = bytearray(len(words))
    for text in texts:
        if len(text) > PIECE:
            _mark_pieces(words, text, quoted)
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


def _mark_pieces(words: str, text: str, quoted: bytearray) -> None:
    """Marks the characters that `text` has in the same order: at each step a look, a close one where it finds some."""
    last = len(words) - PIECE
    for at in range(0, last + 1, STEP):
        if words[at : at + PIECE] in text:
            for near in range(max(at - STEP, 0), min(at + STEP, last) + 1):
                if words[near : near + PIECE] in text:
                    quoted[near : near + PIECE] = b"\1" * PIECE


def _kept(words: str, quoted: bytearray) -> Iterator[str]:
    for at, char in enumerate(words):
        if not quoted[at]:
            yield char
        elif at == 0 or not quoted[at - 1]:
            yield HIDDEN
