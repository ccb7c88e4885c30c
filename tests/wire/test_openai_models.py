"""What servers tell of their models is read where it means what is looked for, and nothing else is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient_llm import ModelInfo, Price, Usage
from resilient_llm._models import best, told
from resilient_llm.errors import ConfigError, Malformed
from resilient_llm.wire._openai_models import kind_of, named, parse_models, window_in


def one(entry: dict[str, Any]) -> ModelInfo:
    (found,) = parse_models(json.dumps({"object": "list", "data": [{"id": "m", **entry}]}).encode())
    return found


@pytest.mark.parametrize(
    ("entry", "window", "cap"),
    [
        ({"owned_by": "vllm", "max_model_len": 8192}, 8192, None),  # vLLM, SGLang
        ({"meta": {"n_ctx": 2048, "n_ctx_train": 131072}}, 2048, None),  # llama.cpp
        ({"meta": {"n_ctx_train": 131072}}, None, None),
        ({"meta": None}, None, None),  # llama.cpp while it loads
        ({"context_window": 131072, "max_completion_tokens": 65536}, 131072, 65536),  # Groq
        ({"max_context_length": 262144}, 262144, None),  # Mistral
        ({"max_context_length": 32768, "loaded_instances": [{"config": {"context_length": 8192}},
          {"config": {"context_length": 4096}}]}, 4096, None),  # LM Studio
        ({"max_context_length": 32768, "loaded_instances": []}, None, None),
        ({"max_context_length": 32768, "loaded_instances": [7, {}, {"config": None}]}, None, None),
        ({"context_length": 200000, "top_provider": {"context_length": 128000, "max_completion_tokens": 4096}},
         128000, 4096),  # OpenRouter
        ({"context_length": True}, None, None),
        ({"context_length": "8192"}, None, None),
        ({"context_length": -1}, None, None),
        ({"context_length": 0}, None, None),
        ({"context_length": 10**15}, None, None),
    ],
)  # fmt: skip
def test_windows_and_caps(entry: dict[str, Any], window: int | None, cap: int | None) -> None:
    found = one(entry)
    assert (found.window, found.max_output) == (window, cap)
    assert set(found.sources) == {name for name, value in (("window", window), ("max_output", cap)) if value}


def test_prices_are_per_million() -> None:
    pricing = {"prompt": "0.00000025", "completion": "0.000002", "input_cache_read": "0.000000025"}
    assert one({"pricing": pricing}).price == Price(0.25, 2.0, cached_input=0.025, source="server")


@pytest.mark.parametrize(
    "pricing", [None, {}, {"prompt": "-1", "completion": "-1"}, {"prompt": "x"}, {"prompt": 1.0}, []]
)
def test_a_price_that_is_none_is_unknown_and_not_free(pricing: object) -> None:
    assert one({"pricing": pricing}).price is None


@pytest.mark.parametrize(
    ("entry", "lacks"),
    [
        ({"architecture": {"input_modalities": ["text"]}, "supported_parameters": ["tools"]}, {"vision"}),
        ({"architecture": {"input_modalities": ["text", "image"]}, "supported_parameters": ["seed"]}, {"tools"}),
        ({"architecture": {"input_modalities": []}, "supported_parameters": []}, set()),
        ({"architecture": "llama"}, set()),
        ({"capabilities": {"completion_chat": True, "function_calling": False, "vision": False}}, {"tools", "vision"}),
        (
            {"capabilities": {"vision": False, "trained_for_tool_use": False}},
            {"vision"},
        ),  # LM Studio: it can all the same
        ({"capabilities": {"vision": True}}, set()),
        ({"capabilities": ["vision"]}, set()),
        ({}, set()),
    ],
)
def test_what_a_model_does_not_take(entry: dict[str, Any], lacks: set[str]) -> None:
    assert one(entry).lacks == lacks


@pytest.mark.parametrize(
    "body",
    [
        b'{"object": "list", "data": [{"id": "m", "context_length": 8192}]}',
        b'[{"id": "m", "context_length": 8192}]',  # Together
        b'{"models": [{"key": "m", "loaded_instances": [{"config": {"context_length": 8192}}]}]}',  # LM Studio
    ],
)
def test_a_list_of_models_in_each_of_its_shapes(body: bytes) -> None:
    assert parse_models(body) == (told("m", "server", window=8192),)


@pytest.mark.parametrize("body", [b"", b"7", b"{}", b'{"data": 3}', b'{"data": [3]}', b'{"data": [{}]}'])
def test_what_is_no_list_of_models_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_models(body)
    assert kind_of(body) is None


def test_a_model_is_found_by_its_name_with_or_without_the_owner() -> None:
    models = (ModelInfo("acme/m"), ModelInfo("n"))
    assert named(models, "m") == ModelInfo("acme/m")
    assert named(models, "n") == ModelInfo("n")
    assert named(models, "o") is None
    assert named((ModelInfo("only"),), "alias") == ModelInfo("only")


def test_a_window_under_other_keys() -> None:
    assert (
        window_in(b'{"default_generation_settings": {"n_ctx": 512}}', ("default_generation_settings", "n_ctx")) == 512
    )
    assert window_in(b'{"default_generation_settings": null}', ("default_generation_settings", "n_ctx")) is None
    assert window_in(b"<html>", ("a",)) is None


SERVER = told("m", "server", window=8192)
USER = told("m", "user", window=4096, price=Price(1, 2))
CATALOGUE = told("m", "genai-prices 0", window=400_000, max_output=9, price=Price(3, 4, source="genai-prices 0"))


def test_the_order_of_truth() -> None:
    made = best(SERVER, USER, CATALOGUE)
    assert made.sources == {"window": "user", "max_output": "genai-prices 0"}
    assert (made.window, made.max_output, made.price) == (4096, 9, Price(1, 2))
    assert best(SERVER, CATALOGUE).window == 8192
    assert best(ModelInfo("m"), CATALOGUE).price == CATALOGUE.price


def test_a_window_cannot_be_wished_larger() -> None:
    made = best(SERVER, told("m", "user", window=100_000))
    assert (made.window, made.sources["window"]) == (8192, "server")


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        (Usage(1_000_000, 0), 2.0),
        (Usage(0, 1_000_000), 8.0),
        (Usage(1_000_000, 0, cached_tokens=500_000), 1.1),  # half of it at a tenth
        (Usage(200, 100, reasoning_tokens=50), 0.0012),
        (Usage(None, 5), None),
        (Usage(), None),
    ],
)
def test_what_a_call_cost(usage: Usage, dollars: float | None) -> None:
    cost = Price(2, 8, cached_input=0.2).of(usage)
    assert cost == (None if dollars is None else pytest.approx(dollars))


def test_above_a_tier_the_whole_call_has_its_price() -> None:
    price = Price(5, 30, tiers=((272_000, 10, 45),))
    assert price.of(Usage(272_000, 0)) == pytest.approx(1.36)
    assert price.of(Usage(272_001, 0)) == pytest.approx(2.72001)


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf"), "1"])
def test_a_price_below_nothing_is_a_config_error(price: Any) -> None:
    with pytest.raises(ConfigError, match="input: "):
        Price(price, 1)
