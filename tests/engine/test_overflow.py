"""A prompt that the server finds too long: trimmed by the route's rule to the server's own numbers, or sent on."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from resilient_llm import AsyncClient, ContextGuard, Message, OpenAICompatible, RetryBudget, Route, drop_oldest
from resilient_llm.errors import ContextOverflow
from resilient_llm.events import PromptTrimmed
from resilient_llm.policies.tokens import estimate
from resilient_llm.testing import FakeBackend, fail, say

from .kit import REAL, Ask, assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio
TURN = "The old ferry left an hour late, and nobody minded. " * 8
EACH = estimate(TURN) + 4
HISTORY = [Message("system", "You are terse."), *(Message("user", TURN) for _ in range(40))]
DROPS = ContextGuard(reserve=0, overflow=drop_oldest)


def too_long(tokens: int | None, limit: int | None) -> Any:
    return fail(ContextOverflow("too long", tokens=tokens, limit=limit, status=400))


@pytest.mark.parametrize("hungry", [1.0, 1.5])
async def test_the_rule_trims_to_the_servers_own_numbers_and_it_is_sent_once_more(ask: Ask, hungry: float) -> None:
    """Nobody knew the window; nor that this model's vocabulary makes half as many tokens again of the same text."""
    backend = FakeBackend(too_long(int(40 * EACH * hungry), 1000), say("ok"))
    events: list[object] = []
    llm = client(Route(backend, guard=DROPS), on_event=events.append)
    reply = await ask(llm, HISTORY)
    assert [(one.kind, type(one.error)) for one in reply.attempts] == [
        ("first", ContextOverflow),
        ("retry", type(None)),
    ]
    sent = backend.requests[1].messages
    assert (sent[0].role, sent[-1] is HISTORY[-1]) == ("system", True)
    assert 1000 - 2 * EACH * hungry < (len(sent) - 1) * EACH * hungry <= 1000
    (told,) = [one for one in events if isinstance(one, PromptTrimmed)]
    assert (told.messages, told.left) == (41, len(sent))
    assert_nothing_held(llm, backend)


async def test_a_guard_that_had_trimmed_too_little_trims_again(ask: Ask) -> None:
    backend = FakeBackend(too_long(2900, 2000), say("ok"), window=2000)
    reply = await ask(client(Route(backend, guard=DROPS)), HISTORY)
    assert len(reply.attempts) == 2
    first, second = (len(one.messages) for one in backend.requests)
    assert 1.3 < first / second < 1.8  # 2900 of 2000, and a margin


@pytest.mark.parametrize(
    ("guard", "refusal"),
    [
        (ContextGuard(), too_long(9000, 1000)),  # its rule is to refuse
        (DROPS, too_long(9000, None)),  # the server does not say what there is room for
        (DROPS, fail(ContextOverflow("the server cut it", tokens=9000, limit=1000))),  # it was an answer
        (DROPS, too_long(9000, 100)),  # the last message alone is too long
        (ContextGuard(counter=lambda request: 1, overflow=drop_oldest), too_long(9000, 1000)),  # says that it fits
    ],
)
@REAL
async def test_what_no_rule_can_mend_is_not_sent_again_and_says_what_the_server_said(
    ask: Ask, guard: ContextGuard, refusal: Any
) -> None:
    backend = FakeBackend(refusal)
    llm = client(Route(backend, guard=guard))
    error = await error_of(ask(llm, HISTORY), ContextOverflow)
    assert len(backend.requests) == 1
    assert guard.overflow is drop_oldest or len(error.attempts) == 1
    assert_nothing_held(llm, backend)


async def test_a_second_refusal_ends_it_here_and_a_larger_window_is_tried(ask: Ask) -> None:
    small = FakeBackend(too_long(40 * EACH, 1000), too_long(1200, 1000), name="small")
    large = FakeBackend(say("yes"), name="large", window=100_000)
    reply = await ask(client(Route(small, guard=DROPS), large), HISTORY)
    assert [one.route for one in reply.attempts] == ["small", "small", "large"]
    assert len(large.requests[0].messages) == len(HISTORY)  # what was left out for one window is there for another


async def test_the_repeat_draws_on_the_budget(ask: Ask) -> None:
    backend = FakeBackend(too_long(9000, 1000), say("ok"))
    route = Route(backend, guard=DROPS, budget=RetryBudget(ratio=0, burst=0))
    await error_of(ask(client(route), HISTORY), ContextOverflow)
    assert len(backend.requests) == 1


async def test_the_next_call_begins_anew(ask: Ask) -> None:
    """What a server said of one prompt decides about no other: its numbers may be read wrongly."""
    backend = FakeBackend(too_long(40 * EACH, 1000), say("ok"), say("all of it"))
    llm = client(Route(backend, guard=DROPS))
    await ask(llm, HISTORY)
    assert (await ask(llm, HISTORY)).text == "all of it"
    assert len(backend.requests[2].messages) == len(HISTORY)


@REAL
async def test_a_vllm_that_says_both_numbers_gets_what_fits() -> None:
    bodies: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        if len(bodies) == 1:
            words = (
                "This model's maximum context length is 1000 tokens. However, you requested 4100 tokens (4000 in the"
                " messages, 100 in the completion). Please reduce the length of the messages or completion."
            )
            return httpx2.Response(400, json={"object": "error", "message": words, "type": "BadRequestError"})
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice], "model": "m"})

    web = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    backend = OpenAICompatible("m", base_url="http://there.example/v1", http_client=web)
    async with AsyncClient(Route(backend, guard=DROPS, streams=False)) as llm:
        assert (await llm.chat(HISTORY)).text == "ok"
    first, second = (len(body["messages"]) for body in bodies)
    assert 0.15 * first < second < 0.26 * first


RUSSIAN = "Паром ушёл на час позже, и никто не возражал. " * 54


async def test_a_vocabulary_that_needs_fewer_tokens_makes_a_window_larger(ask: Ask) -> None:
    """In GPT-4's a Russian text has half as many tokens again as in GPT-5's: a window of the same size is larger."""
    old = FakeBackend(name="old", model="gpt-4", window=1200)
    new = FakeBackend(say("да"), name="new", model="gpt-5", window=1200)
    same = FakeBackend(name="same", model="gpt-4-turbo", window=1200)
    assert estimate(RUSSIAN, "cl100k") > 1200 > 1.05 * estimate(RUSSIAN, "o200k") + 256
    reply = await ask(client(old, same, new), RUSSIAN)
    assert reply.text == "да"
    assert [one.route for one in reply.attempts] == ["old", "new"]
