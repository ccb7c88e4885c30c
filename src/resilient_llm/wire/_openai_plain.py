"""The usual chunk of a stream: a piece of text and nothing else. There is one per token.

Rules of the file: what may hold more than text is not plain, and is looked at in full; nothing raises.
"""

from __future__ import annotations

from typing import Any

_BESIDE = frozenset({"content", "role", "token_id"})  # what may stand beside nothing but text


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
