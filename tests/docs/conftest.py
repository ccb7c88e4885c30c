"""Servers for what is written for newcomers: the environment points its examples at fakes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import ToolCall
from resilient_llm.testing import FakeOllama, FakeOpenAI, say

ROOT = Path(__file__).parents[2]
KEY = "sk-of-the-examples"


class Knowing:
    """A step that answers by what it is asked, so that one script serves every example."""

    def actions(self, answer: Any) -> Iterable[Any]:
        return self._said(answer.prompt).actions(answer)

    def _said(self, prompt: str) -> Any:
        if "Eiffel" in prompt:
            return say('{"name": "Paris", ', '"country": "France", ', '"population": 2100000}')
        if "weather" in prompt.lower() and "sun" not in prompt:
            return say(tool_calls=[ToolCall("get_weather", {"city": "Paris"})])
        return say("You", " said: ", prompt)


@dataclass(frozen=True, slots=True)
class Servers:
    local: FakeOllama
    hosted: FakeOpenAI


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """A local and a hosted server that are up, where `ollama:…` and `openai:…` look for them."""
    models = ("llama3.2", "nomic-embed-text")
    with FakeOllama(Knowing(), models=models) as local, FakeOpenAI(Knowing(), api_key=KEY) as hosted:
        monkeypatch.setenv("OLLAMA_HOST", local.url)
        monkeypatch.setenv("OPENAI_BASE_URL", hosted.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield Servers(local, hosted)
