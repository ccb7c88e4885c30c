"""What is impossible is refused when the object is made, and whoever gave it is shown what it was."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    CircuitBreaker,
    ConfigError,
    ContextGuard,
    Ollama,
    OpenAICompatible,
    Price,
    RateLimit,
    Retry,
    RetryBudget,
    Route,
    Timeouts,
    deadline,
)
from resilient_llm._numbers import shown as given
from resilient_llm.errors import AuthFailed
from resilient_llm.sentinels import OutputSentinel
from resilient_llm.testing import FakeBackend

HUGE, ENDLESS = 10**400, 10**5000  # more than a float can be, and more than Python will write
NEVER = [math.nan, -math.inf, -1, -0.5, "1", b"1", [1], 1j, object]
COUNT = [*NEVER, 0, True, 0.5, 1.0, 1e308, math.inf]  # where a whole number from 1 is due
SIZE = [*NEVER, 0, True, math.inf, HUGE, ENDLESS]  # where a finite number above 0 is due
SHARE = [*NEVER, True, math.inf, HUGE, ENDLESS, 1.001]  # where a number from 0 to 1 is due
SECONDS = [*NEVER, 0, True, HUGE, ENDLESS]  # where a duration is due; one without end is one
PART = [*NEVER, 0, True, 5, {}]


def route(**given: Any) -> Route:
    return Route(FakeBackend(), **given)


def price(**given: Any) -> Price:
    return Price(**{"input": 1, "output": 1, **given})


def hosted(**given: Any) -> OpenAICompatible:
    return OpenAICompatible("m", **{"base_url": "http://127.0.0.1/v1", **given})


def local(**given: Any) -> Ollama:
    return Ollama("m", **given)


def client(**given: Any) -> AsyncClient:
    return AsyncClient(FakeBackend(), **given)


def block(**given: Any) -> None:
    with deadline(given["deadline"]):
        pass


CASES: list[tuple[Callable[..., object], dict[str, list[Any]]]] = [
    (CircuitBreaker, {name: [*COUNT, None] for name in ("failures", "window", "min_calls", "successes")}),
    (CircuitBreaker, {name: [*SIZE, None] for name in ("cooldown", "max_cooldown", "lease")}),
    (CircuitBreaker, {"rate": [*SHARE, 0, None], "mode": ["open", True, None, 1]}),
    (Bulkhead, {"slots": [*COUNT, 10**6 + 1, HUGE, ENDLESS], "max_slots": [*COUNT, 10**6 + 1, HUGE, ENDLESS]}),
    (Bulkhead, {"shared": ["", "../box", "a b", b"box", 1, True, "x" * 65]}),
    (Retry, {"attempts": COUNT, "patience": SECONDS, "wait": [1, "2", 0.5, True]}),
    (RetryBudget, {"ratio": [*SHARE, None], "burst": [*(one for one in SIZE if one != 0), None]}),
    (RateLimit, {"requests_per_minute": SIZE, "tokens_per_minute": SIZE}),
    (Timeouts, dict.fromkeys(("connect", "load", "first_token", "between_tokens"), SECONDS)),
    (ContextGuard, {"window": COUNT, "reserve": [one for one in COUNT if one != 0]}),
    (ContextGuard, {"overflow": [None, 0, 1, "refuse", []], "counter": [0, 1, "words", []]}),
    (
        OutputSentinel,
        {"loop": [*COUNT, 63], "whitespace": [*COUNT, 15], "run_on": [*SIZE, 0.99], "empty": ["no", None]},
    ),
    (price, {name: [one for one in SIZE if one != 0] for name in ("input", "output", "cached_input")}),
    (
        route,
        dict.fromkeys(("timeouts", "retry", "budget", "breaker", "bulkhead", "rate", "guard", "sentinel"), PART),
    ),
    (route, {"retry": [Retry], "breaker": [CircuitBreaker], "name": [1, b"a", True], "space": [1, b"a"]}),
    (route, {"streams": ["no", 0, 1], "adapt": ["no", 0, None], "tells_deadline": ["no", 0, None]}),
    (route, {"falls_back_on": [None, 5, "AuthFailed", [5], [ValueError]], "lacks": [None, 5, "tools", ["sight"]]}),
    (route, {"on_break": ["again", None], "on_truncation": ["ignore", None], "zone": ["home", 1], "price": [1, "1"]}),
    (hosted, {"context_window": COUNT, "base_url": [5, b"http://x", "x", "ftp://x"], "profile": ["mine", 5]}),
    (hosted, {"headers": [5, "a: b", [1]], "extra": [5, "a", [1]]}),
    (local, {"num_ctx": [*COUNT, 3], "keep_alive": [math.nan, math.inf, True, "5", [], HUGE, ENDLESS, "5 minutes"]}),
    (local, {"base_url": [5, b"http://x"], "options": [5, "a"], "headers": [5, "a: b"], "on_wedged": [5, "a"]}),
    (client, {"timeout": SECONDS, "plan": [1, "first"], "clock": [None, 0, 1.5], "rng": [1, "seed", 0.5]}),
    (client, {"local_only": ["internet", 1, "yes"], "on_event": [5, None, [5]]}),
    (block, {"deadline": [*SECONDS, None]}),
    (FakeBackend, dict.fromkeys(("window", "slots", "dimensions"), COUNT)),
    (FakeBackend, {name: [one for one in SIZE if one != 0] for name in ("connects", "loads")}),
]
EVERY = [(make, name, values) for make, fields in CASES for name, values in fields.items()]


def shown(value: object) -> str:
    return "digits" if value is ENDLESS else repr(value)[:40]


@pytest.mark.parametrize(("make", "name", "values"), EVERY, ids=[f"{make.__name__}-{name}" for make, name, _ in EVERY])
def test_what_is_impossible_is_refused_and_shown(make: Callable[..., object], name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigError) as caught:
            make(**{name: value})
        message = str(caught.value)
        assert message.startswith(f"{name}: ")
        inner = value[0] if name == "falls_back_on" and isinstance(value, list) else value
        # A mapping is asked for, not shown: it may hold a secret.
        assert shown(inner) in message or "is needed, not" in message


@pytest.mark.parametrize(
    ("make", "given", "shows"),
    [
        (CircuitBreaker, {"min_calls": 21}, ("min_calls", "21", "20")),
        (CircuitBreaker, {"min_calls": 6, "window": 5}, ("min_calls", "6", "5")),
        (CircuitBreaker, {"cooldown": 40}, ("cooldown", "40", "30")),
        (CircuitBreaker, {"cooldown": 5, "max_cooldown": 4}, ("cooldown", "5", "4")),
        (Bulkhead, {"slots": 3, "max_slots": 2}, ("max_slots", "2", "3")),
        (Bulkhead, {"slots": 3, "max_slots": 4, "shared": "box"}, ("max_slots", "shared")),
        (ContextGuard, {"window": 100, "reserve": 100}, ("reserve", "100")),
        (RateLimit, {}, ("requests_per_minute", "tokens_per_minute")),
    ],
)
def test_values_that_exclude_each_other_are_refused_and_both_shown(
    make: Callable[..., object], given: dict[str, Any], shows: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**given)
    assert all(word in str(caught.value) for word in shows)
    assert str(caught.value).startswith((f"{shows[0]}: ", "RateLimit: "))


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (CircuitBreaker, {"failures": 1, "rate": 1, "window": 1, "min_calls": 1, "successes": 1}),
        (CircuitBreaker, {"cooldown": 30, "max_cooldown": 30, "failures": HUGE, "window": HUGE}),
        (CircuitBreaker, {"max_cooldown": 1e308, "cooldown": 1e308, "lease": 1e308}),
        (Bulkhead, {"slots": 1, "max_slots": 1}),
        (Bulkhead, {"slots": 1, "max_slots": 10**6}),
        (Retry, {"attempts": 1, "patience": math.inf}),
        (Retry, {"attempts": HUGE, "patience": 1e-9}),
        (RetryBudget, {"ratio": 0, "burst": 0}),
        (RetryBudget, {"ratio": 1, "burst": 1e308}),
        (RateLimit, {"requests_per_minute": 1e308, "tokens_per_minute": 1}),
        (RateLimit, {"requests_per_minute": 0.001}),
        (Timeouts, {"connect": sys.float_info.max}),
        (Timeouts, {"connect": math.inf, "load": 1e308, "first_token": 1e-9, "between_tokens": 1}),
        (ContextGuard, {"window": 2, "reserve": 0}),
        (ContextGuard, {"window": HUGE, "reserve": 1}),
        (ContextGuard, {"window": 1}),
        (OutputSentinel, {"loop": 64, "whitespace": 16, "run_on": 1}),
        (price, {"input": 0, "output": 0, "cached_input": 0}),
        (route, {"falls_back_on": [AuthFailed], "lacks": ["tools"], "streams": False}),
        (local, {"keep_alive": -1, "num_ctx": 4}),
        (client, {"timeout": math.inf}),
        (block, {"deadline": math.inf}),
    ],
)
def test_what_stands_at_the_edge_is_possible(make: Callable[..., object], given: dict[str, Any]) -> None:
    assert repr(make(**given))


def test_the_errors_that_fall_back_may_be_given_in_any_collection() -> None:
    assert route(falls_back_on=[AuthFailed]).falls_back_on == (AuthFailed,)


def test_what_was_given_is_shown_up_to_eighty_characters() -> None:
    assert given("a" * 78) == repr("a" * 78)
    assert given("a" * 79) == "'" + "a" * 79 + "…"
    assert given(ENDLESS) == "a number of thousands of digits"
