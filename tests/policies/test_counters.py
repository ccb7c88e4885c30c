"""A counter of the user's: what it says is believed, what it cannot say is estimated, and nonsense is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from resilient_llm import ChatRequest, ConfigError, ContextGuard, ContextOverflow, Message, drop_oldest
from resilient_llm.policies.tokens import estimate_request

SECRET = ChatRequest(tuple(Message("user", f"secret{number} " * 300) for number in range(8)))


def raising(*_: object) -> int:
    raise ValueError("secret <|endoftext|>")


def test_where_it_raises_the_estimate_decides_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    tokens = estimate_request(SECRET)
    with caplog.at_level(logging.WARNING, "resilient_llm"):
        assert ContextGuard(window=int(1.06 * tokens), reserve=0, counter=raising).fit(SECRET, None) is SECRET
        with pytest.raises(ContextOverflow) as caught:
            ContextGuard(window=int(1.04 * tokens), reserve=0, counter=raising).fit(SECRET, None)
    assert caught.value.tokens == pytest.approx(1.05 * tokens, abs=1)
    assert caplog.messages == ["counter: raising raised ValueError; the estimate decides"] * 2
    assert "secret" not in caplog.text


def test_a_rule_goes_on_with_the_estimate_where_it_raises_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[int] = []

    def tiring(request: ChatRequest) -> int:
        asked.append(len(request.messages))
        return estimate_request(request) if len(asked) < 3 else raising()

    room = estimate_request(SECRET) // 2
    fitted = ContextGuard(window=room, reserve=0, overflow=drop_oldest, counter=tiring).fit(SECRET, None)
    assert 0 < len(fitted.messages) < len(SECRET.messages)
    assert 1.05 * estimate_request(fitted) <= room
    assert (len(asked), len(caplog.messages)) == (3, 1)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (None, "NoneType"), ("secret", "str"), (-5, "-5"), (-(10**5000), "a number of thousands of digits"),
        (True, "True"), (1234.5, "1234.5"), (float("nan"), "nan"),
        ([1, 2], "list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_number_of_tokens_is_told_and_shows_nothing_of_the_prompt(answer: Any, shown: str) -> None:
    guard = ContextGuard(window=2000, counter=lambda request: answer)
    with pytest.raises(ConfigError, match=rf"^counter: <lambda> gave {shown}, not a whole number of 0 or more$"):
        guard.fit(SECRET, None)


@pytest.mark.parametrize("whole", [int, np.int64, np.uint16])
def test_any_whole_number_is_one(whole: Callable[[int], Any]) -> None:
    assert ContextGuard(window=2000, counter=lambda request: whole(1700)).fit(SECRET, None) is SECRET
    with pytest.raises(ContextOverflow) as caught:
        ContextGuard(window=2000, counter=lambda request: whole(1800)).fit(SECRET, None)
    assert (caught.value.tokens, type(caught.value.tokens)) == (1800, int)


def test_a_rule_that_gives_no_messages_is_told() -> None:
    for nothing in (None, [None], 7):
        guard = ContextGuard(window=100, overflow=lambda messages, room, count, given=nothing: given)
        with pytest.raises(ConfigError, match="messages"):
            guard.fit(SECRET, None)


def test_a_guard_says_whether_it_runs_code_of_the_users() -> None:
    assert ContextGuard().ours
    assert ContextGuard(overflow=drop_oldest).ours
    assert not ContextGuard(counter=len).ours
    assert not ContextGuard(overflow=lambda messages, room, count: messages).ours
