"""What is worth a warning and no error: the call works, but not as whoever wrote it may think.

Turn one into an error, or off, with `warnings.filterwarnings(action, category=…)`. They are warnings of the program's
text (a wrong name, options that fight each other), so Python shows each of them once.
"""

from __future__ import annotations

import sys
import warnings

_LOOPS = {"asyncio", "uvloop", "anyio", "trio", "threading"}  # beyond them nobody knows whose call it was


class OptionWarning(UserWarning):
    """An option of Ollama does nothing as it is written: it has no such option, or cannot give what is asked for."""


class ReloadWarning(UserWarning):
    """What is asked for makes Ollama load its model anew: seconds for this call, and for the next one again."""


def warn(text: str, category: type[Warning]) -> None:
    """Warns at the line of the program that led here. The sync client's lines are on another thread's stack."""
    frame, level, found, caller = sys._getframe(), 1, 2, ""
    while frame.f_back is not None:
        ours, frame, level = _root(frame.f_globals) == "resilient_llm", frame.f_back, level + 1
        if ours:
            found, caller = level, _root(frame.f_globals)
    warnings.warn(text, category, stacklevel=2 if caller in _LOOPS else found)


def _root(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
