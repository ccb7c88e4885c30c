"""Whether what a user gave is a number that means something. The error shows it, under the name that he gave it."""

from __future__ import annotations

import math

from resilient_llm._errors import ConfigError


def whole(least: int = 1, /, *, optional: bool = False, **numbers: int | None) -> None:
    """Checks counts.

    Raises:
        ConfigError: one is not a whole number of `least` or more, nor `None` where it is `optional`.
    """
    for name, value in numbers.items():
        if value is None and optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}: {value!r} is not a whole number of {least} or more")


def positive(*, optional: bool = False, **numbers: float | None) -> None:
    """Checks sizes.

    Raises:
        ConfigError: one is not a finite number above 0, nor `None` where it is `optional`.
    """
    for name, value in numbers.items():
        if value is None and optional:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ConfigError(f"{name}: {value!r} is not a finite number above 0")
