"""Whose key goes where, and what else a route's own arguments put into its requests: seen by a fake server."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm import AsyncClient, ConfigError, Ollama, OpenAICompatible
from resilient_llm.backends.providers import PROVIDERS, Provider
from resilient_llm.testing import FakeOllama, FakeOpenAI, say

from .kit import REAL

pytestmark = [pytest.mark.anyio, REAL]
KEYS = ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_API_KEY", *{one.key for one in PROVIDERS.values() if one.key}]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


def sent(server: FakeOpenAI | FakeOllama) -> str | None:
    return server.requests[-1].headers.get("authorization")


@pytest.mark.parametrize("prefix", sorted(name for name, one in PROVIDERS.items() if one.key and name != "openai"))
async def test_a_prefix_takes_the_key_of_its_provider(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = PROVIDERS[prefix].key
    assert key is not None
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    with pytest.raises(ConfigError, match=f"set {key}"):
        AsyncClient(f"{prefix}:some-model")
    with FakeOpenAI(say("hello")) as server:
        monkeypatch.setitem(PROVIDERS, prefix, Provider(prefix, server.url, key))
        monkeypatch.setenv(key, "sk-its-own")
        async with AsyncClient(f"{prefix}:some-model") as llm:
            reply = await llm.chat("hi")
        assert sent(server) == "Bearer sk-its-own"
    assert reply.route == f"{prefix}:some-model"


async def test_openai_as_its_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
        AsyncClient("openai:gpt-5-mini")
    with FakeOpenAI(say("hello")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
        async with AsyncClient("openai:gpt-5-mini") as llm:
            assert (await llm.chat("hi")).route == "openai:gpt-5-mini"
        assert sent(server) == "Bearer sk-mine"


async def test_a_key_from_the_environment_never_goes_to_an_address_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OLLAMA_API_KEY", "sk-secret")
    with FakeOpenAI(say("hello")) as hosted, FakeOllama(say("hello")) as local:
        backends = OpenAICompatible("m", base_url=hosted.url), Ollama("llama3.2", base_url=local.url)
        for server, backend in zip((hosted, local), backends, strict=True):
            async with AsyncClient(backend) as llm:
                await llm.chat("hi")
            assert sent(server) is None


@pytest.mark.parametrize("embeds", [False, True], ids=["chat", "embed"])
async def test_extra_fields_of_a_route_are_in_every_chat_and_a_calls_own_win(embeds: bool) -> None:
    with FakeOpenAI(say("hello")) as server:
        backend = OpenAICompatible("m", base_url=server.url, extra={"top_k": 20, "min_p": 0.1}, headers={"X-Team": "a"})
        async with AsyncClient(backend) as llm:
            if embeds:
                await llm.embed("hi")
            else:
                await llm.chat("hi", extra={"top_k": 5})
        (request,) = server.requests
    said: Any = request.json
    assert (said.get("top_k"), said.get("min_p")) == ((None, None) if embeds else (5, 0.1))
    assert request.headers["x-team"] == "a"


def lookup(city: str) -> str:
    """Looks a city up."""
    return city


async def test_a_tool_may_be_a_dict_as_openai_has_it() -> None:
    function = {"name": "lookup", "description": "Looks a city up.", "parameters": {"type": "object"}}
    with FakeOpenAI(say("hello")) as server:
        async with AsyncClient(OpenAICompatible("m", base_url=server.url)) as llm:
            await llm.chat("hi", tools=[{"type": "function", "function": function}, {"name": "bare"}])
        said: Any = server.chats[0].json
    assert [one["function"]["name"] for one in said["tools"]] == ["lookup", "bare"]
    assert said["tools"][0]["function"] == function


async def test_a_tool_whose_parameters_have_no_schema_is_told() -> None:
    def broken(what: Broken) -> str:  # type: ignore[name-defined]  # noqa: F821
        return ""

    with pytest.raises(ConfigError, match="tools: broken: no JSON schema for its parameters: NameError"):
        await AsyncClient(OpenAICompatible("m", base_url="http://127.0.0.1:9/v1")).chat("hi", tools=[broken])
