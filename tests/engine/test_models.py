"""`models()`: what is known of the models of a route, who said so, and what follows from it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from resilient_llm import AsyncClient, ContextGuard, Image, Message, Ollama, OpenAICompatible, Price, Route
from resilient_llm.errors import ConfigError, ContextOverflow, NoEligibleRoute
from resilient_llm.policies.prices import catalogued
from resilient_llm.testing import FakeBackend, FakeOllama

from .kit import REAL, client, error_of

NOW = datetime(2026, 11, 1, tzinfo=UTC)
pytestmark = [pytest.mark.anyio, REAL]


class Server:
    """Lists its models, says more about them beside its `/v1`, and answers nothing else."""

    def __init__(self, facts: dict[str, Any], elsewhere: dict[str, Any] | None = None) -> None:
        self.facts, self.elsewhere, self.asked = facts, elsewhere or {}, []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"object": "list", "data": [{"id": "m", **self.facts}]})
        known = self.elsewhere.get(request.url.path)
        return httpx2.Response(404 if known is None else 200, json=known or {})

    def client(self, **options: Any) -> AsyncClient:
        web = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        return client(OpenAICompatible("m", base_url="http://there.example/v1", http_client=web, **options))


class Listed(FakeBackend):
    """A backend whose server tells something of its models."""

    def __init__(self, *infos: Any, **options: Any) -> None:
        super().__init__(**options)
        self.infos = infos

    async def models(self, watch: object) -> Any:
        return self.infos


async def test_a_window_that_the_server_tells_holds_for_the_calls_that_follow() -> None:
    server = Server({"max_model_len": 64})
    async with server.client(context_window=4096) as llm:
        (model,) = (await llm.models())["compatible:m"]
        assert (model.window, model.sources["window"]) == (64, "server")
        error = await error_of(llm.chat("word " * 200), ContextOverflow)
        assert "64" in error.message
        assert server.asked == ["/v1/models"]
        assert "model: m: window 64 (server)" in llm.explain()


@pytest.mark.parametrize(
    ("facts", "profile", "path", "answer"),
    [
        ({"owned_by": "llamacpp", "meta": None}, None, "/props", {"default_generation_settings": {"n_ctx": 512}}),
        ({}, "llamacpp", "/props", {"default_generation_settings": {"n_ctx": 512}}),
        ({}, "tgi", "/info", {"max_total_tokens": 512, "max_input_tokens": 500}),
        (
            {},
            "lmstudio",
            "/api/v1/models",
            {"models": [{"key": "m", "loaded_instances": [{"config": {"context_length": 512}}]}]},
        ),
    ],
)
async def test_a_window_that_stands_elsewhere_is_found(
    facts: dict[str, Any], profile: str | None, path: str, answer: dict[str, Any]
) -> None:
    server = Server(facts, {path: answer})
    async with server.client(profile=profile) as llm:
        (model,) = (await llm.models())["compatible:m"]
        assert (model.window, model.sources["window"]) == (512, "server")
        assert server.asked == ["/v1/models", path]


async def test_a_server_that_tells_no_window_is_listed_all_the_same() -> None:
    server = Server({"owned_by": "llamacpp"})
    async with server.client() as llm:
        (model,) = (await llm.models())["compatible:m"]
        assert (model.name, model.window) == ("m", None)


async def test_what_the_server_says_its_model_lacks_is_known_before_it_is_asked() -> None:
    server = Server({"architecture": {"input_modalities": ["text"]}})
    async with server.client() as llm:
        await llm.models()
        picture = Message(role="user", content="?", images=(Image(data="AAAA"),))
        await error_of(llm.chat(picture), NoEligibleRoute)
        assert server.asked == ["/v1/models"]


async def test_prices_come_from_the_user_or_the_catalogue() -> None:
    hosted = FakeBackend(name="hosted", model="gpt-5-mini", provider="openai")
    async with client(hosted, Route(FakeBackend(name="mine"), price=Price(1, 2))) as llm:
        assert "price: 1 $ in, 2 $ out a million tokens (user)" in llm.explain()
        models = await llm.models()
        (known,), (mine,) = models["hosted"], models["mine"]
        assert known.price is not None
        assert known.price.source.startswith("genai-prices ")
        assert known.price.as_of
        assert known.sources["window"] == known.price.source
        assert mine.price == Price(1, 2)
        reply = await llm.chat("hi")
        assert known.price.of(reply.usage)


async def test_without_the_extra_prices_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert catalogued("openai", "gpt-5-mini", NOW) is None


async def test_a_catalogue_does_not_know_every_model() -> None:
    assert catalogued("compatible", "gpt-5-mini", NOW) is None
    assert catalogued("openai", "no-such-model", NOW) is None
    assert (known := catalogued("gemini", "gemini-2.5-pro", NOW)) is not None
    assert known.price is not None
    assert known.price.tiers  # its prices rise with the prompt


async def test_an_ollama_tells_the_window_of_the_model_that_it_has_loaded() -> None:
    with FakeOllama(models=["llama3.2", "other"]) as server:
        async with client(Ollama("llama3.2", base_url=server.url)) as llm:
            await llm.warm_up()
            models = {one.name: one for one in (await llm.models())["ollama:llama3.2"]}
            assert models["llama3.2:latest"].window
            assert models["llama3.2:latest"].sources == {"window": "server"}
            assert models["other:latest"].window is None


async def test_a_guard_of_the_user_is_named_as_the_source() -> None:
    async with client(Route(FakeBackend(name="a"), guard=ContextGuard(window=99))) as llm:
        (model,) = (await llm.models())["a"]
        assert (model.window, model.sources) == (99, {"window": "user"})


async def test_a_price_that_is_none_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="price: 3 is not a Price"):
        Route(FakeBackend(), price=3)  # type: ignore[arg-type]


async def test_a_backend_that_lists_nothing_has_no_models() -> None:
    async with AsyncClient(Listed(name="a")) as llm:
        assert await llm.models() == {"a": ()}
