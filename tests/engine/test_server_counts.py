"""A server that can count a prompt is asked near the limit: a second at most, and only where the prompt may go."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import httpx2
import pytest

from resilient_llm import CircuitBreaker, ContextGuard, OpenAICompatible, Route
from resilient_llm.errors import ContextOverflow, NoEligibleRoute, ServerError
from resilient_llm.policies.tokens import estimate_request
from resilient_llm.testing import FakeBackend, say

from .kit import Ask, assert_nothing_held, client, error_of, seconds_of

pytestmark = pytest.mark.anyio
PROMPT = "The old ferry left an hour late, and nobody minded. " * 60


async def guess() -> int:
    backend = FakeBackend(say("ok"))
    await client(backend).chat(PROMPT)
    return estimate_request(backend.requests[0])


class Counting(FakeBackend):
    """A backend whose server counts, and says so as it is told to."""

    def __init__(self, answer: object, **options: Any) -> None:
        super().__init__(say("ok"), **options)
        self.answer, self.zones = answer, []

    async def count(self, request: object, watch: Any) -> Any:
        self.zones.append(watch.zone)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def route(backend: FakeBackend, room: int, **options: Any) -> Route:
    return Route(backend, guard=ContextGuard(window=room, reserve=0), **options)


async def test_it_is_asked_within_the_zone_of_the_call_and_not_outside_of_it(ask: Ask) -> None:
    room = await guess()
    outside, inside = Counting(room, name="outside"), Counting(room, name="inside")
    llm = client(route(outside, room), route(inside, room, zone="machine"))
    assert (await ask(llm, PROMPT, local_only="machine")).route == "inside"
    assert (outside.zones, inside.zones) == ([], ["machine"])
    await error_of(ask(client(route(outside, room)), PROMPT, local_only=True), NoEligibleRoute)
    assert outside.zones == []


@pytest.mark.parametrize("answer", [ServerError("no"), 0, -5, None])
async def test_what_is_no_count_leaves_it_to_the_estimate(ask: Ask, answer: object) -> None:
    tokens = await guess()
    error = await error_of(ask(client(route(Counting(answer), tokens)), PROMPT), ContextOverflow)
    assert error.tokens == pytest.approx(1.05 * tokens, abs=1)
    assert (await ask(client(route(Counting(answer), int(1.06 * tokens))), PROMPT)).text == "ok"


class Server:
    """A vLLM that answers `/tokenize` like this, after so many seconds, and a chat with `ok`."""

    def __init__(self, answer: Any = None, code: int = 200, *, seconds: float = 0.0) -> None:
        self.given, self.code, self.seconds = answer, code, seconds
        self.paths: list[str] = []

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.paths.append(request.url.path)
        if request.url.path == "/tokenize":
            await anyio.sleep(self.seconds)
            return httpx2.Response(self.code, json=self.given)
        choice = {"index": 0, "delta": {"content": "ok"}, "finish_reason": "stop"}
        body = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
        return httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})

    def route(self, room: int) -> Route:
        web = httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))
        backend = OpenAICompatible("m", base_url="http://there.example/v1", http_client=web, profile="vllm")
        return Route(backend, guard=ContextGuard(window=room, reserve=0))


async def test_a_server_that_hangs_is_waited_for_a_second_and_then_the_estimate_decides(ask: Ask) -> None:
    tokens = await guess()
    hangs = Server({"count": 7}, seconds=1000.0)
    llm = client(hangs.route(tokens))
    assert await seconds_of(ask(llm, PROMPT), ContextOverflow) == pytest.approx(1, abs=0.06)
    assert await seconds_of(ask(client(hangs.route(int(1.06 * tokens))), PROMPT)) == pytest.approx(1, abs=0.06)
    assert_nothing_held(llm)


@pytest.mark.parametrize(("code", "asked"), [(404, 1), (405, 1), (501, 1), (503, 3), (429, 3), (500, 3)])
async def test_one_that_does_not_know_the_question_is_not_asked_again_and_one_that_is_busy_is(
    ask: Ask, code: int, asked: int
) -> None:
    server = Server({"detail": "no"}, code)
    llm = client(server.route(await guess()))
    for _ in range(3):
        await error_of(ask(llm, PROMPT), ContextOverflow)
    assert server.paths == ["/tokenize"] * asked


@pytest.mark.parametrize("answer", [{"count": True}, {"count": 12.5}, {"count": 0}, {"count": "9"}, [], "no", None])
async def test_an_answer_that_is_none_leaves_it_to_the_estimate(ask: Ask, answer: Any) -> None:
    tokens = await guess()
    error = await error_of(ask(client(Server(answer).route(tokens)), PROMPT), ContextOverflow)
    assert error.tokens == pytest.approx(1.05 * tokens, abs=1)


async def test_while_its_breaker_is_open_it_is_not_asked(ask: Ask) -> None:
    server = Server({"count": 7})
    shut = replace(server.route(await guess()), breaker=CircuitBreaker(mode="forced_open"))
    await error_of(ask(client(shut), PROMPT))
    assert server.paths == []
