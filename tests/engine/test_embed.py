"""Embeddings: in order, in batches, and only within one vector space."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm import ConfigError, Ollama, OpenAICompatible, Retry, Route, Space, Usage
from resilient_llm.errors import ConnectFailed, DeadlineExceeded, LLMError, Malformed, NoEligibleRoute, ServerError
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, fail, hang, malformed, say, status

from .kit import REAL, assert_nothing_held, client, error_of, seconds_of

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)


async def test_one_text_is_one_vector_and_a_list_keeps_its_order() -> None:
    llm = client(FakeBackend(name="m", dimensions=4))
    one = await llm.embed("first")
    two = await llm.embed(["second", "first", "second"])
    assert len(one.vectors) == 1
    assert two.vectors[1] == one.vectors[0]
    assert two.vectors[0] == two.vectors[2] != two.vectors[1]
    assert two.space == Space("m", 4)
    assert (two.route, two.model) == ("m", "m")
    assert [vars_of.error for vars_of in two.attempts] == [None]


@pytest.mark.parametrize(("count", "requests"), [(256, 1), (257, 2), (1000, 4)])
async def test_many_texts_go_in_batches_and_come_back_as_one(count: int, requests: int) -> None:
    backend = FakeBackend(say(usage=Usage(input_tokens=7)))
    texts = [f"text {number}" for number in range(count)]
    reply = await client(backend).embed(texts)
    assert len(reply.vectors) == count
    assert len(backend.requests) == requests
    assert [text for request in backend.requests for text in request.texts] == texts  # type: ignore[union-attr]
    assert reply.usage.input_tokens == 7 * requests
    assert [one.number for one in reply.attempts] == list(range(1, requests + 1))


async def test_the_attempts_of_all_batches_are_on_one_time_line() -> None:
    backend = FakeBackend(say(first=2), fail(ServerError("no")), say(first=3))
    reply = await client(backend).embed(["x"] * 600)
    assert [(one.number, one.kind, one.error is None) for one in reply.attempts] == [
        (1, "first", True), (2, "first", False), (3, "retry", True), (4, "first", True),
    ]  # fmt: skip
    starts = [one.started for one in reply.attempts]
    assert starts == sorted(starts)
    assert starts[1] == pytest.approx(2)


async def test_a_failure_in_a_later_batch_shows_the_attempts_of_the_earlier_ones() -> None:
    llm = client(Route(FakeBackend(say(), fail(ServerError("no"))), retry=ONCE))
    error = await error_of(llm.embed(["x"] * 300), ServerError)
    assert [one.error is None for one in error.attempts] == [True, False]


async def test_the_deadline_holds_over_all_batches() -> None:
    llm = client(FakeBackend(say(first=4)))
    error = await error_of(llm.embed(["x"] * 1000, timeout=10), DeadlineExceeded)
    assert error.attempts[-1].total == pytest.approx(2)
    assert_nothing_held(llm, *(leg.backend for leg in llm._legs))  # type: ignore[arg-type]


async def test_another_model_is_another_space_and_never_takes_over() -> None:
    first, second = FakeBackend(fail(ConnectFailed("down")), name="nomic"), FakeBackend(name="bge")
    error = await error_of(client(Route(first, retry=ONCE), second).embed("text"))
    assert type(error) is ConnectFailed
    assert second.requests == []


@pytest.mark.parametrize("how", ["the same model", "the same space"])
async def test_routes_of_one_space_take_over(how: str) -> None:
    first, second = FakeBackend(fail(ConnectFailed("down")), name="a"), FakeBackend(name="b")
    space = None
    if how == "the same model":
        first.model = second.model = "nomic"
    else:
        space = "ours"
    reply = await client(Route(first, retry=ONCE, space=space), Route(second, space=space)).embed("text")
    assert reply.route == "b"
    assert reply.space.name == (space or "nomic")


async def test_once_a_route_has_a_space_only_such_routes_embed() -> None:
    chat, embeds = FakeBackend(name="chat"), FakeBackend(name="embeds")
    llm = client(chat, Route(embeds, space="ours"))
    assert (await llm.embed("text")).route == "embeds"
    assert (await llm.chat("hi")).route == "chat"
    assert [type(one).__name__ for one in chat.requests] == ["ChatRequest"]


async def test_a_plan_that_leaves_no_route_to_embed_is_told() -> None:
    backend = FakeBackend()
    error = await error_of(client(backend, plan=lambda request, routes: ()).embed("text"), NoEligibleRoute)
    assert "the plan left no route" in str(error)
    assert backend.requests == []


@pytest.mark.parametrize(
    ("texts", "field"), [([], "texts"), ([""], r"texts\[0\]"), (["a", 3], r"texts\[1\]"), ("", r"texts\[0\]")]
)
async def test_what_is_no_text_is_told_by_its_place(texts: Any, field: str) -> None:
    backend = FakeBackend()
    with pytest.raises(ConfigError, match=field):
        await client(backend).embed(texts)
    assert backend.requests == []


@pytest.mark.parametrize("texts", [None, 3])
async def test_what_is_no_list_of_texts_is_told(texts: Any) -> None:
    with pytest.raises(ConfigError, match="texts: "):
        await client(FakeBackend()).embed(texts)


@REAL
async def test_over_the_wire_to_both_kinds_of_servers() -> None:
    with FakeOllama(models=["nomic"]) as near, FakeOpenAI() as far:
        for backend in (Ollama("nomic", base_url=near.url), OpenAICompatible("m", base_url=far.url, api_key="k")):
            llm = client(backend)
            reply = await llm.embed(["one", "two"])
            assert len(reply.vectors) == 2
            assert reply.space.dimensions == 8
            assert isinstance(reply.usage, Usage)
            await llm.aclose()


WRONG: list[tuple[Any, type[LLMError]]] = [
    (status(200, {"embeddings": [[0.1]], "data": [{"embedding": [0.1], "index": 0}]}), Malformed),  # one for two texts
    (status(200, {"embeddings": "x", "data": "x"}), Malformed),
    (status(200, b"not json"), Malformed),
    (status(200, b"[]"), Malformed),
    (malformed(b"\xff\xfe"), Malformed),
    (status(500, "no"), ServerError),
]


@REAL
async def test_a_wrong_answer_has_a_typed_error_and_leaves_the_client_usable() -> None:
    for step, kind in WRONG:
        with FakeOllama(step, models=["nomic"]) as near, FakeOpenAI(step) as far:
            for server, backend in (
                (near, Ollama("nomic", base_url=near.url)),
                (far, OpenAICompatible("m", base_url=far.url, api_key="k")),
            ):
                llm = client(Route(backend, retry=ONCE))
                await error_of(llm.embed(["one", "two"]), kind)
                server.then(say())
                assert len((await llm.embed(["one", "two"])).vectors) == 2
                await llm.aclose()


async def test_a_hang_is_ended_by_the_deadline() -> None:
    assert await seconds_of(client(FakeBackend(hang())).embed("text", timeout=5), DeadlineExceeded) == pytest.approx(5)
