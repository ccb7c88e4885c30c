"""What servers with OpenAI's API tell of their models: windows, output caps, prices, and what a model does not take.

Rules of the file: a figure is believed where it means what is looked for (llama.cpp's `n_ctx_train` is not a window);
what is missing or of a wrong type is unknown, and nothing raises but a body that is no list of models at all.
Sources: the code of vLLM 0.33 and SGLang 0.5.23 (`max_model_len`), llama.cpp b11549 (`meta.n_ctx`, per slot), and the
pages of OpenRouter, Groq (`context_window`), Mistral (`max_context_length`), TGI and LM Studio on their lists.
Together's list is bare (nextcloud/integration_openai#197). LM Studio's (lmstudio-ai/docs, 1_developer/2_rest/list.md)
has other names, and its `max_context_length` is what a model was trained for: the window is that of a loaded instance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from resilient_llm._errors import Malformed
from resilient_llm._models import ModelInfo, Price, told
from resilient_llm._needs import Need
from resilient_llm.wire._checks import is_name

_WINDOWS = ("max_model_len", "n_ctx", "context_length", "context_window", "max_context_length")
_CAPS = ("max_completion_tokens", "max_output_tokens")
_INNER = ("top_provider", "meta")  # OpenRouter's for who really serves it; llama.cpp's
_LARGEST = 10**12

# Where a server of this kind tells the window if its list of models does not, beside its `/v1`, and under which keys.
ELSEWHERE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "llamacpp": ("/props", ("default_generation_settings", "n_ctx")),
    "tgi": ("/info", ("max_total_tokens",)),
    "lmstudio": ("/api/v1/models", ()),  # a list, since its version 0.4
}


def parse_models(body: bytes) -> tuple[ModelInfo, ...]:
    """The models that a server lists, by name.

    Raises:
        Malformed: it is no list of models.
    """
    try:
        value = from_json(body)
        if isinstance(value, dict):
            value = value["data"] if "data" in value else value["models"]
        entries = [(entry["id"] if "id" in entry else entry["key"], entry) for entry in value]
    except (ValueError, KeyError, TypeError):
        raise Malformed("/models: not a list of models") from None
    known = [_model(name, entry) for name, entry in entries if isinstance(name, str) and is_name(name)]
    return tuple(sorted(known, key=lambda one: one.name))


def kind_of(body: bytes) -> str | None:
    """What kind of server wrote the list, by its own word."""
    try:
        owner = from_json(body)["data"][0]["owned_by"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return owner if isinstance(owner, str) else None


def window_in(body: bytes, keys: tuple[str, ...]) -> int | None:
    """The number under these keys."""
    try:
        value = from_json(body)
    except ValueError:
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return _count(value)


def named(models: tuple[ModelInfo, ...], name: str) -> ModelInfo | None:
    """The model of that name; a server with one model answers to any, and some lists name the owner first."""
    for one in models:
        if one.name == name or one.name.rpartition("/")[2] == name:
            return one
    return models[0] if len(models) == 1 else None


def _model(name: str, entry: Mapping[str, Any]) -> ModelInfo:
    places = [*(value for key in _INNER if isinstance(value := entry.get(key), dict)), entry]
    instances = entry.get("loaded_instances")
    return told(
        name,
        "server",
        window=_first(places, _WINDOWS) if instances is None else _loaded(instances),
        max_output=_first(places, _CAPS),
        price=_price(entry.get("pricing")),
        lacks=_lacks(entry),
    )


def _loaded(instances: object) -> int | None:
    """The window of a model that LM Studio has in memory: the smallest, nobody knows which instance will answer."""
    configs = [one.get("config") for one in instances if isinstance(one, dict)] if isinstance(instances, list) else []
    found = (_count(one.get("context_length")) for one in configs if isinstance(one, dict))
    return min((size for size in found if size is not None), default=None)


def _first(places: list[Mapping[str, Any]], names: tuple[str, ...]) -> int | None:
    found = (_count(place.get(name)) for place in places for name in names)
    return next((value for value in found if value is not None), None)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _LARGEST else None


def _price(pricing: object) -> Price | None:
    """OpenRouter's: strings, in US dollars per token."""
    if not isinstance(pricing, dict):
        return None
    each = [_dollars(pricing.get(name)) for name in ("prompt", "completion", "input_cache_read")]
    if each[0] is None or each[1] is None:
        return None
    return Price(each[0], each[1], cached_input=each[2], source="server")


def _dollars(value: object) -> float | None:
    try:
        price = float(value) * 1_000_000 if isinstance(value, str) else -1.0
    except ValueError:
        return None
    return round(price, 9) if 0 <= price < math.inf else None  # it says -1 where the price depends on who serves it


def _lacks(entry: Mapping[str, Any]) -> list[Need]:
    """What is not among what it takes, where that is told: by llama.cpp and OpenRouter, by Mistral and LM Studio."""
    takes, architecture, can = entry.get("supported_parameters"), entry.get("architecture"), entry.get("capabilities")
    reads = architecture.get("input_modalities") if isinstance(architecture, dict) else None
    able = can if isinstance(can, dict) else {}
    lacks: list[Need] = []
    if (isinstance(takes, list) and takes and "tools" not in takes) or able.get("function_calling") is False:
        lacks.append("tools")
    if (isinstance(reads, list) and reads and "image" not in reads) or able.get("vision") is False:
        lacks.append("vision")
    return lacks
