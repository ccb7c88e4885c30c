"""What is worth a warning and no error: the call works, but not as whoever wrote it may think.

Turn one into an error, or off, with `warnings.filterwarnings(action, category=…)`. They are warnings of the program's
text (a wrong name, options that fight each other), so Python shows each of them once.
"""

from __future__ import annotations


class OptionWarning(UserWarning):
    """An option of Ollama does nothing as it is written: it has no such option, or cannot give what is asked for."""


class ReloadWarning(UserWarning):
    """What is asked for makes Ollama load its model anew: seconds for this call, and for the next one again."""
