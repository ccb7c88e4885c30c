"""Our column of the README's comparison: one second, a first server that misbehaves, a second one that is healthy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import AsyncClient, ChatReply, DeadlineExceeded, OpenAICompatible, Retry, Route
from resilient_llm.testing import FakeOpenAI, comments, dribble, ends, hang, say, stall, status

SECOND = 1.0  # what the caller gives
SLACK = 0.25  # seconds that a busy machine may add
WHOLE = "The whole answer."


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


async def ask(first: Any) -> tuple[ChatReply, float]:
    with FakeOpenAI(first) as primary, FakeOpenAI(say("The whole", " answer.")) as healthy:
        routes = [OpenAICompatible("a-model", base_url=server.url) for server in (primary, healthy)]
        async with AsyncClient(*routes) as llm:
            began = time.monotonic()
            reply = await llm.chat("Hello", timeout=SECOND)
            return reply, time.monotonic() - began


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(hang(), id="says nothing"),
        pytest.param(dribble(0.05), id="sends its answer byte by byte"),
        pytest.param(comments(then=say("too late")), id="sends keep-alive comments"),
    ],
)
async def test_a_first_server_without_a_token_leaves_the_second_half_of_the_time(first: Any) -> None:
    reply, took = await ask(first)
    assert reply.text == WHOLE
    assert [attempt.error is None for attempt in reply.attempts] == [False, True]
    assert took < SECOND / 2 + SLACK


class FourTokensAndComments:
    """Four tokens, then 8 s of bytes that say nothing."""

    def actions(self, answer: Any) -> Iterator[Any]:
        *tokens, _ = stall("Four", " tokens", " came", " first").actions(answer)  # what follows them is endless silence
        _, _, *idle = comments(80, 0.1).actions(answer)  # what goes before them is another head
        yield from (*tokens, *idle)


async def test_four_tokens_and_then_comments_end_by_the_deadline_with_the_tokens() -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded) as late:
        await ask(FourTokensAndComments())
    assert time.monotonic() - began < SECOND + SLACK
    assert late.value.partial == "Four tokens came first"


async def test_an_answer_that_ends_without_being_done_is_not_taken_for_one() -> None:
    reply, took = await ask(ends("Four", " tokens", " came", " first"))
    assert reply.text == WHOLE
    assert took < SECOND


async def test_a_long_retry_after_is_not_waited_for() -> None:
    reply, took = await ask(status(429, headers={"Retry-After": "3600"}))
    assert reply.text == WHOLE
    assert len(reply.attempts) == 2
    assert took < SLACK


@pytest.mark.parametrize("retry", [None, Retry(attempts=1)], ids=["as it comes", "without retries"])
async def test_a_dead_server_is_asked_five_times_in_thirty_calls(retry: Retry | None) -> None:
    with FakeOpenAI(status(503)) as dead, FakeOpenAI(say("The whole", " answer.")) as healthy:
        first = Route(OpenAICompatible("a-model", base_url=dead.url), retry=retry)
        async with AsyncClient(first, OpenAICompatible("a-model", base_url=healthy.url)) as llm:
            for _ in range(30):
                assert (await llm.chat("Hello", timeout=SECOND)).text == WHOLE
    assert len(dead.chats) == 5
