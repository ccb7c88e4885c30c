"""Drives an `OllamaModel` by hand: requests by a line each, time by events."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from resilient_llm.testing import OllamaModel
from resilient_llm.testing._host.job import Exchange
from resilient_llm.testing._script import Chunk, Drop, Head


def words(count: int) -> str:
    """A text of so many tokens by the rule of the fakes: a quarter of the characters."""
    return "".join(f"{at % 1000:03} " for at in range(count))


def chat(host: OllamaModel, *texts: str, model: str = "llama3.2", **more: Any) -> Exchange:
    """A chat: turn by turn, the user first; `system=` goes before them."""
    system = more.pop("system", None)
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    messages = [{"role": "system", "content": system}] * (system is not None) + turns
    return host.send("POST", "/api/chat", {"model": model, "messages": messages, **more})


def generate(host: OllamaModel, prompt: str, model: str = "llama3.2", **more: Any) -> Exchange:
    return host.send("POST", "/api/generate", {"model": model, "prompt": prompt, **more})


def embed(host: OllamaModel, *texts: str, model: str = "llama3.2", **more: Any) -> Exchange:
    return host.send("POST", "/api/embed", {"model": model, "input": list(texts), **more})


def until(host: OllamaModel, true: Callable[[], object]) -> None:
    """Goes on from event to event until it is true."""
    while not true():
        assert host.next is not None, "nothing will ever happen again"
        host.advance(host.next)


def done(host: OllamaModel, exchange: Exchange) -> Exchange:
    """Goes on until this one is over."""
    until(host, lambda: exchange.over)
    return exchange


def status(exchange: Exchange) -> int | None:
    return next((action.status for action in exchange.out if isinstance(action, Head)), None)


def objects(exchange: Exchange) -> list[dict[str, Any]]:
    """The objects of the body."""
    data = b"".join(action.data for action in exchange.out if isinstance(action, Chunk))
    return [json.loads(line) for line in data.splitlines()]


def last(exchange: Exchange) -> dict[str, Any]:
    return objects(exchange)[-1]


def text(exchange: Exchange) -> str:
    return "".join(one["message"]["content"] for one in objects(exchange) if "message" in one)


def error(exchange: Exchange) -> str:
    said: str = last(exchange)["error"]
    return said


def dropped(exchange: Exchange) -> bool:
    return any(isinstance(action, Drop) for action in exchange.out)


def in_memory(host: OllamaModel) -> dict[str, Any]:
    """What `/api/ps` says, by name without the tag."""
    listed = last(done(host, host.send("GET", "/api/ps")))["models"]
    return {one["name"].removesuffix(":latest"): one for one in listed}
