"""The limits of the phases: what holds where the user says nothing, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilient_llm import ConfigError, Timeouts
from resilient_llm.policies.timeouts import Limits, resolve


@pytest.mark.parametrize(
    ("local", "reasoning", "limits"),
    [
        (True, False, Limits(2.0, 170.0, 60.0, 30.0)),
        (True, True, Limits(2.0, 170.0, 60.0, 30.0)),
        (False, False, Limits(5.0, 170.0, 60.0, 30.0)),
        (False, True, Limits(5.0, 170.0, 300.0, 30.0)),
    ],
)
def test_the_defaults(local: bool, reasoning: bool, limits: Limits) -> None:
    assert resolve(None, local=local, reasoning=reasoning) == limits
    assert resolve(Timeouts(), local=local, reasoning=reasoning) == limits


def test_what_is_given_takes_the_place_of_its_default_alone() -> None:
    assert resolve(Timeouts(1, 2, 3, 4), local=False, reasoning=True) == Limits(1, 2, 3, 4)
    assert resolve(Timeouts(first_token=8), local=True) == Limits(2.0, 170.0, 8, 30.0)
    assert resolve(None, local=False).first_token == 60


def test_an_attempt_that_cannot_be_watched_has_only_the_limits_before_its_answer() -> None:
    assert Limits(1, 2, 3, 4).unary() == Limits(1, 2, math.inf, math.inf)


@pytest.mark.parametrize("field", ["connect", "load", "first_token", "between_tokens"])
@pytest.mark.parametrize("value", [0, -1, math.nan, "5", True])
def test_what_is_no_duration_is_refused_and_shown(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Timeouts(**{field: value})
    assert caught.value.message == f"{field}: {value!r} is not a number of seconds above 0"
