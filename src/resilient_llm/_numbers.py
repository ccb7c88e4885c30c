"""Whether a number that somebody gave can be what it is meant to be. Whoever is refused is shown what he gave."""

from __future__ import annotations

import math
import sys
from typing import Any, TypeGuard

from resilient_llm._errors import ConfigError


def whole(name: str, value: Any, least: int = 1, most: float = math.inf) -> None:
    """Checks a count.

    Raises:
        ConfigError: it is not a whole number from `least` to `most`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        allowed = f"of {least} or more" if most == math.inf else f"from {least} to {most:,}"
        raise ConfigError(f"{name}: {shown(value)} is not a whole number {allowed}")


def finite(name: str, value: Any, *, zero: bool = False) -> None:
    """Checks a size.

    Raises:
        ConfigError: it is not a finite number above 0, or `zero`.
    """
    if not (is_number(value) and (value > 0 or (zero and value == 0)) and value <= sys.float_info.max):
        raise ConfigError(f"{name}: {shown(value)} is not a finite number {'of 0 or more' if zero else 'above 0'}")


def is_number(value: object) -> TypeGuard[int | float]:
    """It is a number and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: object) -> str:
    """How it was given, or the beginning of that."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}…"
