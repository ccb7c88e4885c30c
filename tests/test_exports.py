"""What the package shows: sorted, honest, small, and the same at run time as in the sources."""

from __future__ import annotations

import ast
import inspect
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import resilient_llm
import resilient_llm.errors
import resilient_llm.telemetry
import resilient_llm.testing

PUBLIC = [resilient_llm, resilient_llm.errors, resilient_llm.testing, resilient_llm.telemetry]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_all_is_sorted_and_every_name_exists(module: ModuleType) -> None:
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_nothing_public_is_left_out_of_all(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())
    names = [
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("resilient_llm")
        for alias in node.names
    ]
    assert {name for name in names if not name.startswith("_")} == set(module.__all__)


def test_the_package_shows_at_most_sixty_names() -> None:
    assert len(resilient_llm.__all__) <= 60


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_everything_public_is_documented(module: ModuleType) -> None:
    bare = []
    for name in module.__all__:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if not inspect.getdoc(thing) or (thing.__doc__ or "").startswith(f"{name}("):  # what a dataclass makes itself
            bare.append(name)
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and inspect.isfunction(value) and not inspect.getdoc(value):
                bare.append(f"{name}.{member}")
    assert not bare


def test_every_error_is_exported_from_errors() -> None:
    from resilient_llm import _errors

    classes = {
        name for name, value in vars(_errors).items() if inspect.isclass(value) and value.__module__ == _errors.__name__
    }
    assert classes == set(resilient_llm.errors.__all__)


# What may be given to each, and what it is by itself. More keywords may come; these stay, and so do their defaults.
STAYS = {
    "AsyncClient": "*routes, plan=None, timeout=None, local_only=False, on_event=(), clock=time.monotonic, rng=None, "
    "tracer_provider=None, meter_provider=None",
    "Route": "backend, *, name=None, zone=None, timeouts=None, retry=None, budget=None, breaker=None, bulkhead=None, "
    "rate=None, guard=None, adapt=False, streams=None, falls_back_on=(), on_break='raise', on_truncation='warn', "
    "space=None, price=None",
    "Ollama": "model, *, base_url=None, num_ctx=None, options=None, keep_alive=None, think=None, api_key=None, "
    "headers=None, http_client=None, name=None",
    "OpenAICompatible": "model, *, base_url=None, api_key=None, context_window=None, headers=None, extra=None, "
    "http_client=None, name=None",
    "Timeouts": "connect=None, load=None, first_token=None, between_tokens=None",
    "Retry": "attempts=None, wait=None, patience=3.0",
    "RetryBudget": "ratio=0.1, burst=10",
    "CircuitBreaker": "failures=5, rate=0.5, window=20, min_calls=5, cooldown=5, max_cooldown=30, successes=2",
    "Bulkhead": "slots=None, max_slots=None, shared=None",
    "ContextGuard": "window=None, reserve=None, overflow=resilient_llm.refuse, counter=None",
    "RateLimit": "requests_per_minute=None, tokens_per_minute=None",
    "AsyncClient.embed": "self, texts, *, timeout=None, local_only=None",
}
OPTIONS = (
    "system timeout max_tokens temperature seed stop tools tool_choice reasoning conversation local_only tags extra"
)
FIELDS = {
    "Attempt": "route number kind error started queue connect load first_token total",
    "Timings": "total queue load server_queue first_token backoff",
    "ServedBy": "route model provider digest quantization window seed fingerprint",
    "Usage": "input_tokens output_tokens cached_tokens reasoning_tokens estimated",
    "EmbedReply": "vectors model space usage route attempts",
    "ChatReply": "text reasoning tool_calls finish_reason message usage model route served_by attempts timings "
    "degraded request_id",
}


@pytest.mark.parametrize("name", STAYS)
def test_what_may_be_given_stays(name: str) -> None:
    names: dict[str, Any] = {"time": time, "resilient_llm": resilient_llm}
    exec(f"def promised({STAYS[name]}): pass", names)
    ours = inspect.signature(eval(name, vars(resilient_llm))).parameters
    promised = inspect.signature(names["promised"]).parameters
    for parameter in promised.values():
        found = ours[parameter.name]
        assert (found.kind, found.default) == (parameter.kind, parameter.default), parameter.name
    by_place = [one.name for one in promised.values() if one.kind is not one.KEYWORD_ONLY]
    assert [*ours][: len(by_place)] == by_place


def test_the_options_of_a_call_stay() -> None:
    assert set(OPTIONS.split()) <= set(resilient_llm.ChatOptions.__annotations__)


@pytest.mark.parametrize("name", FIELDS)
def test_what_a_reply_tells_stays(name: str) -> None:
    assert set(FIELDS[name].split()) <= set(dir(getattr(resilient_llm, name)))
