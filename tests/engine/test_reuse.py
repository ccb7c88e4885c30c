"""On real sockets: what a whole answer leaves behind for the next call, an open connection and a model in memory."""

from __future__ import annotations

import pytest

from resilient_llm import AsyncClient, Ollama, OpenAICompatible, Route
from resilient_llm.testing import FakeOllama, FakeOpenAI, FakeServer, say

from .kit import REAL, Ask

pytestmark = [pytest.mark.anyio, REAL]
IN_PIECES = pytest.mark.parametrize("streams", [True, False], ids=["in pieces", "in one piece"])


def hosted(server: FakeServer) -> OpenAICompatible:
    return OpenAICompatible("m", base_url=server.url, api_key="k")


def local(server: FakeServer) -> Ollama:
    return Ollama("llama3.2", base_url=server.url)


@IN_PIECES
@pytest.mark.parametrize(("fake", "route"), [(FakeOpenAI, hosted), (FakeOllama, local)], ids=["openai", "ollama"])
async def test_the_next_call_finds_the_connection_open(ask: Ask, fake: type, route: object, streams: bool) -> None:
    assert callable(route)
    with fake(say("a", "b", "c")) as server:
        async with AsyncClient(Route(route(server), streams=streams)) as llm:
            for _ in range(3):
                assert (await ask(llm)).text == "abc"
        assert len(server.chats) == 3
        assert server.connections == 1


@IN_PIECES
async def test_a_model_that_has_just_answered_is_not_looked_for_in_memory(ask: Ask, streams: bool) -> None:
    with FakeOllama(say("a", "b", "c")) as server:
        async with AsyncClient(Route(local(server), streams=streams)) as llm:
            await ask(llm)
            before = [one.path for one in server.requests if one.kind != "chat"]
            for _ in range(2):
                await ask(llm)
        assert "/api/ps" in before
        assert [one.path for one in server.requests if one.kind != "chat"] == before
