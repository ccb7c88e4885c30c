"""The usual chunk of a stream: a piece of text and nothing else. There is one per token, so it takes the short way.

Rules of the file: what may hold more than text is not plain, and is looked at in full; nothing raises; whichever way a
chunk takes, it comes to the same events.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import from_json

from resilient_llm._replies import TextDelta
from resilient_llm.wire import WireEvent
from resilient_llm.wire._frames import MAX_LINE

_BESIDE = frozenset({"content", "role", "token_id"})  # what may stand beside nothing but text
_PLACE = rb'"content": ?"'
_PADDED = b'"obfuscation":'  # OpenAI's: of another length in each chunk
_TRIES = 2  # times that a form is taken down and then found in no other chunk; each costs more than to parse one


class Form:
    """What the events of one answer have in common: a server writes them all alike, but for their text.

    The bytes before and after the text of a plain chunk are kept. An event between the same bytes is the same JSON with
    another text in its place, if nothing in that ends a string or is escaped in one; it need not be parsed.
    """

    __slots__ = ("_after", "_before", "_between", "_tries")

    def __init__(self) -> None:
        self._before: bytes | None = None
        self._after, self._between = b"", ""
        self._tries = _TRIES

    def events(self, data: bytes) -> list[WireEvent] | None:
        """The texts of the events that these bytes are; `None` if they are not whole events of this form."""
        before, after = self._before, self._after
        if before is None or not data.startswith(before) or not data.endswith(after) or len(data) > MAX_LINE:
            return None
        inner = data[len(before) : len(data) - len(after)]
        try:
            text = inner.decode()
        except UnicodeDecodeError:
            return None
        texts = (text,) if '"' not in text else text.split(self._between)
        found: list[WireEvent] = []
        for text in texts:  # a control character is not JSON, and what else cannot be printed is rare
            if not text or '"' in text or "\\" in text or not text.isprintable():
                return None
            found.append(TextDelta(text))
        self._tries = _TRIES
        return found

    def learn(self, frame: bytes, text: str) -> bool:
        """Takes down the form of a plain chunk, whose text this is; false if that has led to nothing before."""
        if not self._tries or _PADDED in frame:
            return False
        self._tries -= 1
        place, said = re.search(_PLACE, frame), text.encode("utf-8", "replace")
        if b"\n" in frame or b"\\" in said:  # of several lines; or it is escaped, and something else is written so
            return True
        if place is not None and frame.startswith(said + b'"', place.end()):
            before, after = frame[: place.end()], frame[place.end() + len(said) :]
            if plain(from_json(before + said + b"?" + after)) == text + "?":  # it is that text, and not one like it
                self._before, self._after = b"data: " + before, after + b"\n\n"
                self._between = (self._after + self._before).decode()
        return True


def plain(chunk: dict[str, Any]) -> str | None:
    """The text of a chunk that holds nothing else; `None` if it may hold more, or is not what it should be."""
    try:
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        text = delta["content"]
        if (
            text.__class__ is str
            and text
            and (len(delta) == 1 or _bare(delta))
            and not choice.get("finish_reason")
            and not choice.get("index")
            and "usage" not in choice
            and not chunk.get("usage")
            and "error" not in chunk
            and chunk.get("object") != "error"
            and "error" not in choice
            and "x_groq" not in chunk
        ):
            return text
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return None


def _bare(delta: dict[str, Any]) -> bool:
    """Beside its text the piece holds at most its role and what is empty: OpenRouter, Ollama, SGLang, Together, TGI."""
    for key, value in delta.items():  # noqa: SIM110  # a generator would cost three times as much
        if value and key not in _BESIDE:
            return False
    return True
