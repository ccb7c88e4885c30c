"""Reasoning that a server leaves in the text of an answer, between `<think>` and `</think>`, told from the answer.

Groq's default for Qwen does so (console.groq.com/docs/reasoning: `reasoning_format` is `raw`), MiniMax does
(MiniMax-AI/MiniMax-M2#105), Ollama does where it knows no parser for a model or was told not to let it think, and any
server that was not told what its model is. Rules of the file: only an answer that
begins with the tag has reasoning in it; tags may come in pieces; nothing is lost: what turns out to be no tag is text,
and reasoning without an end is reasoning.
"""

from __future__ import annotations

_BEGIN, _END = "<think>", "</think>"
_ROOM = 64  # characters before the tag: white space without end has to be seen by who cuts it


class Thinking:
    """Splits the text of one answer.

    Attributes:
        over: all that comes now is the answer; nothing is held back.
    """

    __slots__ = ("_held", "_inside", "over")

    def __init__(self) -> None:
        self._held = ""
        self._inside = self.over = False

    def split(self, text: str) -> tuple[str, str]:
        """What of the text, and of what was held back before it, is the answer and what is reasoning."""
        if self.over:
            return text, ""
        held = self._held + text
        if not self._inside:
            begun = held.lstrip()
            far = len(held) - len(begun) >= _ROOM
            if far or not begun.startswith(_BEGIN):
                if _BEGIN.startswith(begun) and not far:
                    self._held = held
                    return "", ""
                return self._end(held), ""
            self._inside, held = True, begun.removeprefix(_BEGIN)
        thought, end, rest = held.partition(_END)
        if end:
            return self._end(rest), thought
        kept = next((size for size in range(len(_END) - 1, 0, -1) if held.endswith(_END[:size])), 0)
        self._held = held[len(held) - kept :]
        return "", held[: len(held) - kept]

    def close(self) -> tuple[str, str]:
        """What was still held back when the answer ended."""
        held, inside = self._held, self._inside
        self._end("")
        return ("", held) if inside else (held, "")

    def _end(self, text: str) -> str:
        self.over, self._held = True, ""
        return text
