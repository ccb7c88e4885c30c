"""A whole Ollama in virtual time, and the way to it."""

from __future__ import annotations

import math
from typing import Any

import httpx2

from resilient_llm import Ollama
from resilient_llm.testing import Machine, OllamaModel, Pulled
from resilient_llm.testing._host.job import Exchange
from resilient_llm.testing._host.truth import Truth
from resilient_llm.testing._script import Call


class Box(OllamaModel):
    """An Ollama that knows the questions among the requests: what is neither a load nor metadata."""

    def __init__(self, *models: Any, **options: Any) -> None:
        super().__init__(*models, **options)
        self.chats: list[Truth] = []
        self.bodies: list[Any] = []  # of loads and questions
        self.paths: list[str] = []  # of every request

    def receive(self, call: Call) -> Exchange:
        exchange = super().receive(call)
        self.paths.append(call.path)
        if exchange.truth in self.log:
            self.bodies.append(call.body)
        if call.path == "/api/chat" and call.body["messages"]:
            self.chats.append(exchange.truth)
        return exchange

    def evict(self) -> None:
        """Another program puts the model out of memory, as `ollama stop` does."""
        self.also(self.now, "/api/generate", {"model": "llama3.2", "keep_alive": 0})

    @property
    def together(self) -> int:
        """How many questions were under way at one time, at most."""
        ends = [(one.began, one.ended or math.inf) for one in self.chats]
        return max(sum(began <= at < end for began, end in ends) for at, _ in ends)


def ollama(host: OllamaModel, model: str = "llama3.2", **options: Any) -> Ollama:
    """The model there, by all that a real one's answers go through."""
    return Ollama(model, http_client=httpx2.AsyncClient(transport=host.transport()), **options)


def slow_disk(seconds: float) -> Box:
    """A model of 2 GB that takes so long to load, the first time and every time."""
    rate = 2e9 / (seconds - 0.5)
    return Box(Pulled(size=2 * 10**9), machine=Machine(disk=rate, cached=rate))
