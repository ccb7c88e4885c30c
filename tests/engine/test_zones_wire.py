"""`local_only` on real sockets: the bytes are counted where they would arrive."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread
import pytest

from resilient_llm import AsyncClient, Ollama, OpenAICompatible, Retry, Route, deadline, local_only
from resilient_llm.backends import http
from resilient_llm.errors import NoEligibleRoute, ServerError
from resilient_llm.testing import FakeOllama, FakeOpenAI, redirect, say, status

from .kit import REAL, Ask, error_of

pytestmark = [pytest.mark.anyio, REAL]


async def test_a_hosted_route_gets_no_byte_of_a_local_call(ask: Ask) -> None:
    with FakeOllama(status(500)) as near, FakeOpenAI(say("no")) as far:
        async with AsyncClient(
            Route(Ollama("llama3.2", base_url=near.url), retry=Retry(attempts=1)),
            OpenAICompatible("m", base_url=far.url, api_key="k"),
        ) as llm:
            await error_of(ask(llm, local_only=True), ServerError)
            with local_only():
                await error_of(ask(llm), ServerError)
                models = await llm.models()
                assert [one.name for one in models["ollama:llama3.2"]] == ["llama3.2:latest"]
                assert models["compatible:m"] == ()
        assert far.connections == 0


async def test_a_model_that_the_server_hands_on_is_outside_whatever_its_name(ask: Ask) -> None:
    with FakeOllama(say("no"), models=["innocent"], cloud=True) as server:
        async with AsyncClient(Ollama("innocent", base_url=server.url)) as llm:
            error = await error_of(ask(llm, "a secret", local_only=True), NoEligibleRoute)
            assert "internet" in error.message
            assert server.chats == []
            assert not any("secret" in repr(one.json) for one in server.requests)
            assert (await ask(llm)).text == "no"  # without a limit it may


@pytest.mark.parametrize("limit", ["machine", True])
async def test_a_peer_outside_the_limit_gets_no_byte(ask: Ask, limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "zone_of", lambda address: "internet" if address == "127.0.0.1" else "machine")
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        listener.settimeout(2)
        stack.enter_context(local_only(limit))  # type: ignore[arg-type]
        stack.enter_context(deadline(5))
        async with AsyncClient(Ollama("m", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")) as llm:
            error = await error_of(ask(llm, "a secret"), NoEligibleRoute)
            assert "nothing was sent" in error.message
            peer, _ = await anyio.to_thread.run_sync(listener.accept)
            with peer:
                assert await anyio.to_thread.run_sync(peer.recv, 100) == b""


async def test_a_connection_made_without_a_limit_is_not_used_within_one(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOllama(say("yes")) as server:
        async with AsyncClient(Ollama("llama3.2", base_url=server.url)) as llm:
            await ask(llm)
            monkeypatch.setattr(http, "zone_of", lambda address: "internet")
            seen = len(server.requests)
            await error_of(ask(llm, local_only=True), NoEligibleRoute)
            assert len(server.requests) == seen


async def test_a_redirect_is_not_followed(ask: Ask) -> None:
    with FakeOpenAI(say("stolen")) as target:
        for make, backend in (
            (FakeOllama, lambda url: Ollama("llama3.2", base_url=url)),
            (FakeOpenAI, lambda url: OpenAICompatible("m", base_url=url, api_key="k")),
        ):
            with make(redirect(f"{target.url}/chat/completions")) as server:
                async with AsyncClient(Route(backend(server.url), retry=Retry(attempts=1))) as llm:
                    error = await error_of(ask(llm))
                    assert error.status == 307
        assert target.connections == 0


async def test_no_proxy_of_the_environment_is_used(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOpenAI(say("stolen")) as proxy, FakeOllama(say("yes")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with AsyncClient(Ollama("llama3.2", base_url=server.url)) as llm:
            assert (await ask(llm, local_only="machine")).text == "yes"
        assert proxy.connections == 0
