"""What users give, checked when they give it: what is not of its type is a `ConfigError` that names the argument.

Python would say so too, but later, elsewhere, and in the words of whatever fell over it.
"""

from __future__ import annotations

from typing import Any

from resilient_llm._errors import ConfigError

_WORDS = {"str": "a string", "Mapping": "a dict", "bool": "True or False", "Collection": "a tuple"}


def of(kind: type, /, **given: object) -> None:
    """Each of them is of this type, or `None`.

    Raises:
        ConfigError: one is not, named with what is needed and the type that it has.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, kind):
            needed = _WORDS.get(kind.__name__, f"a {kind.__name__}")
            raise ConfigError(f"{name}: {needed} is needed, not {type(value).__name__}")


def doing(verb: str, /, **given: Any) -> None:
    """Each of them has this method, or is `None`: any object that has it may stand in its place.

    Raises:
        ConfigError: one has not.
    """
    for name, value in given.items():
        if value is not None and not callable(getattr(value, verb, None)):
            needed = "a function is needed" if verb == "__call__" else f"an object with the method {verb} is needed"
            raise ConfigError(f"{name}: {needed}, not {type(value).__name__}")


def tokens(least: int = 1, /, **given: object) -> None:
    """Each of them is a number of tokens, or `None`.

    Raises:
        ConfigError: one is not whole, or below `least`.
    """
    for name, value in given.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and least <= value < 2**63):  # type: ignore[operator]  # it is one
            raise ConfigError(f"{name}: {value!r:.40} is not a whole number of tokens of {least} or more")
