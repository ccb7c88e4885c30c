"""Every answer says who gave it, after what attempts, how long each phase took, and in what way it was degraded."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import anyio
import pytest
from tenacity import wait_fixed

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    CircuitBreaker,
    ContextGuard,
    Message,
    Ollama,
    OpenAICompatible,
    RateLimit,
    Retry,
    RetryBudget,
    Route,
    ServedBy,
    Timeouts,
    Timings,
    Usage,
)
from resilient_llm.errors import AuthFailed, EmptyReply, RateLimited, ServerError, StreamInterrupted
from resilient_llm.sentinels import OutputSentinel
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, fail, raw, say, status

from .kit import REAL, Ask, client, error_of, unlimited

pytestmark = pytest.mark.anyio


def assert_adds_up(timings: Timings) -> None:
    """The parts are the total, and none of them is negative."""
    parts = [
        timings.failed, timings.backoff, timings.queue, timings.connect, timings.load, timings.first_token or 0.0,
        timings.stream,
    ]  # fmt: skip
    assert min(parts) >= -1e-9
    assert sum(parts) == pytest.approx(timings.total)


async def test_the_phases_of_one_attempt(ask: Ask) -> None:
    reply = await ask(client(FakeBackend(say("a", "b", "c", first=3, gap=2), connects=1, loads=5)))
    timings = reply.timings
    assert (timings.connect, timings.load, timings.first_token, timings.stream) == pytest.approx((1, 5, 3, 4))
    assert (timings.total, timings.queue, timings.backoff, timings.failed) == pytest.approx((13, 0, 0, 0))
    assert_adds_up(timings)
    (attempt,) = reply.attempts
    assert (attempt.number, attempt.kind, attempt.error, attempt.route) == (1, "first", None, "fake")
    assert (attempt.connect, attempt.load, attempt.first_token) == pytest.approx((1, 5, 3))
    assert (attempt.started, attempt.queue, attempt.total) == pytest.approx((0, 0, 13))


async def test_what_was_lost_on_the_way_is_told_apart(ask: Ask) -> None:
    first = FakeBackend(fail(ServerError("no")), name="a", connects=2)
    second = FakeBackend(fail(RateLimited("slow", retry_after=10)), say("yes", first=4), name="b", connects=1)
    reply = await ask(client(Route(first, retry=Retry(attempts=1)), second))
    timings = reply.timings
    assert timings.failed == pytest.approx(2 + 1)
    assert 10 <= timings.backoff <= 11
    assert (timings.connect, timings.first_token) == pytest.approx((1, 4))
    assert_adds_up(timings)
    assert [one.started for one in reply.attempts] == pytest.approx([0, 2, 3 + timings.backoff])
    assert [one.total for one in reply.attempts] == pytest.approx([2, 1, 5])


async def test_the_wait_for_a_slot_is_told_apart(ask: Ask) -> None:
    llm = client(Route(FakeBackend(say("a", first=5)), bulkhead=Bulkhead(1)))
    async with anyio.create_task_group() as group:
        group.start_soon(llm.chat, "in front")
        await anyio.sleep(1)
        reply = await ask(llm)
    assert reply.timings.queue == pytest.approx(4)
    assert reply.attempts[0].queue == pytest.approx(4)
    assert reply.timings.total == pytest.approx(9)
    assert_adds_up(reply.timings)


async def test_the_thinking_of_a_reader_is_part_of_the_stream() -> None:
    async with client(FakeBackend(say("a", "b"))).stream("hi") as stream:
        async for _ in stream:
            await anyio.sleep(3)
    assert stream.reply.timings.stream == pytest.approx(6)  # the last event ends it
    assert_adds_up(stream.reply.timings)


async def test_a_phase_that_there_was_not_is_none() -> None:
    (attempt,) = (await client(FakeBackend(say("a"))).chat("hi")).attempts
    assert (attempt.connect, attempt.load) == (None, None)
    error = await error_of(client(Route(FakeBackend(fail(ServerError("no"))), retry=Retry(attempts=1))).chat("hi"))
    assert error.attempts[0].first_token is None


async def test_who_answered_and_what_it_said_of_itself(ask: Ask) -> None:
    backend = FakeBackend(say("a"), name="r", model="m-8b", provider="somebody", window=8192)
    reply = await ask(client(backend), seed=7)
    assert reply.served_by == ServedBy(route="r", model="m-8b", provider="somebody", window=8192, seed=7)
    assert (reply.route, reply.model) == ("r", "m-8b")


async def test_the_usage_and_the_way_it_is_degraded(ask: Ask) -> None:
    backend = FakeBackend(say("a", "b", finish="length", usage=Usage(5, 2, cached_tokens=3)))
    reply = await ask(client(backend))
    assert reply.usage == Usage(5, 2, cached_tokens=3)
    assert (reply.finish_reason, reply.degraded) == ("length", ("cut_at_length",))


@pytest.mark.invariant(44)
@REAL
async def test_over_the_wire_a_call_tells_what_it_cost_in_all(ask: Ask) -> None:
    answered = Usage(7, 1, cached_tokens=0, reasoning_tokens=0)
    with FakeOllama(say(usage=Usage(9))) as near, FakeOpenAI(status(503), say("yes", usage=Usage(7, 1))) as far:
        local = Route(Ollama("llama3.2", base_url=near.url), budget=unlimited())
        hosted = Route(OpenAICompatible("m", base_url=far.url, api_key="k"), budget=unlimited())
        async with AsyncClient(local, hosted) as llm:
            reply = await ask(llm)
        assert [one.usage for one in reply.attempts] == [Usage(9), Usage(9), Usage(), answered]
        assert (reply.usage, reply.spent) == (answered, Usage(9) + Usage(9) + answered)
        async with AsyncClient(local) as llm:
            error = await error_of(ask(llm), EmptyReply)
        assert (error.usage, error.spent) == (Usage(9), Usage(18))


@REAL
async def test_what_a_server_counts_with_every_piece_is_known_though_its_answer_breaks_off(ask: Ask) -> None:
    chunks = [
        {"model": "m", "choices": [{"index": 0, "delta": {"content": "a"}}], "usage": _usage(7, 1)},
        {"model": "m", "choices": [{"index": 0, "delta": {"content": "b"}}], "usage": _usage(7, 2)},
    ]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with FakeOpenAI(raw((head + body).encode())) as server:
        backend = OpenAICompatible("m", base_url=server.url, api_key="k")
        async with AsyncClient(Route(backend, retry=Retry(attempts=1))) as llm:
            error = await error_of(ask(llm), StreamInterrupted)
    assert error.partial == "ab"
    assert error.usage == error.spent == Usage(7, 2)


def _usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer}


async def test_a_call_that_was_never_tried_has_spent_nothing() -> None:
    error = await error_of(client(Route(FakeBackend(), zone="internet")).chat("hi", local_only=True))
    assert error.spent is None


async def test_an_embedding_tells_what_all_its_parts_cost() -> None:
    backend = FakeBackend(say(usage=Usage(5)), fail(ServerError("no")), say(usage=Usage(3)))
    reply = await client(Route(backend, budget=unlimited())).embed(["a"] * 300)
    assert (reply.usage, reply.spent) == (Usage(8), Usage(8))
    assert [one.usage for one in reply.attempts] == [Usage(5), Usage(), Usage(3)]


async def test_the_reply_goes_into_the_history_of_the_next_call(ask: Ask) -> None:
    backend = FakeBackend(say("hello", reasoning=["hm"]))
    llm = client(backend)
    history = [Message("user", "hi")]
    history += [(await ask(llm, history)).message]
    assert history[1] == Message("assistant", "hello", reasoning="hm", route=llm._legs[0].name)
    await ask(llm, [*history, "and now?"])
    assert [one.role for one in backend.requests[1].messages] == ["user", "assistant", "user"]  # type: ignore[union-attr]


@REAL
async def test_over_the_wire_everything_that_the_server_tells_is_told(ask: Ask) -> None:
    with FakeOllama(say("a", "b", first=0.05)) as near, FakeOpenAI(status(500), say("a", "b")) as far:
        async with AsyncClient(Ollama("llama3.2", base_url=near.url, num_ctx=2048)) as llm:
            reply = await ask(llm, seed=3)
            served = reply.served_by
            assert (served.provider, served.window, served.seed) == ("ollama", 2048, 3)
            assert served.digest
            assert served.quantization
            assert reply.timings.connect > 0
            assert (reply.timings.first_token or 0) >= 0.05
            assert_adds_up(reply.timings)
        async with AsyncClient(OpenAICompatible("m", base_url=far.url, api_key="k")) as llm:
            reply = await ask(llm)
            assert reply.request_id
            assert reply.served_by.fingerprint
            assert [type(one.error) for one in reply.attempts] == [ServerError, type(None)]
            failed: Any = reply.attempts[0].error
            assert failed.request_id
            assert failed.request_id != reply.request_id
            assert (failed.status, failed.route) == (500, "compatible:m")
            assert reply.attempts[1].connect is None  # the connection was there already
            assert_adds_up(reply.timings)


async def test_what_is_in_force_and_what_state_it_is_in(ask: Ask) -> None:
    llm = client(
        Route(FakeBackend(fail(RateLimited("slow", retry_after=100)), name="a"), retry=Retry(attempts=1)),
        FakeBackend(say("yes"), name="b", local=True, window=4096),
    )
    await ask(llm)
    explained = llm.explain()
    assert "1. a (hosted, zone internet, window unknown)" in explained
    assert "2. b (local, zone machine, window 4096 by backend)" in explained
    state = llm.snapshot()
    assert state["a"]["aside"] == pytest.approx(100)
    assert state["b"]["aside"] == 0
    assert state["b"]["bulkhead"].slots == 1


async def test_the_limits_in_force_are_those_that_the_deadline_leaves() -> None:
    routes = (FakeBackend(name="near", local=True), FakeBackend(name="far"))
    usual, short = client(*routes).explain().splitlines(), client(*routes, timeout=6).explain().splitlines()
    assert usual[0] == "deadline: 180 s to the first token, 900 s in all; 60 s to embed"
    assert usual[2] == "   timeouts: connect 2 s, first token 60 s, between tokens 30 s"
    assert "first token 60 s, where it thinks first 180 of 300 s," in "".join(usual)
    assert short[0] == "deadline: 6 s"
    assert short[2] == "   timeouts: connect 2 s, first token 3 of 60 s, between tokens 6 of 30 s"  # 3 s are kept
    assert "connect 5 s, first token 6 of 60 s, where it thinks first 6 of 300 s, between" in "".join(short)
    hosted = client(FakeBackend()).explain()
    assert hosted.startswith("deadline: 120 s to the first token, 900 s in all; 30 s to embed\n")
    assert "retry: 3 attempts, full jitter below 0.5 s, doubling to 20 s, patience 3 s;" in hosted
    waiting = client(Route(FakeBackend(), retry=Retry(attempts=1, wait=wait_fixed(2)))).explain()
    assert "retry: 1 attempt, waits by wait_fixed, patience 3 s;" in waiting


async def test_a_snapshot_has_the_state_of_every_breaker_queue_budget_and_limit(ask: Ask) -> None:
    backend = FakeBackend(fail(ServerError("no")), say("yes"), say("yes", first=50), name="a")
    rate = RateLimit(tokens_per_minute=100_000)
    llm = client(
        Route(backend, bulkhead=Bulkhead(1), rate=rate, breaker=CircuitBreaker(failures=9)), FakeBackend(name="b")
    )
    await ask(llm, max_tokens=1000)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(partial(ask, llm, max_tokens=1000))
        await anyio.sleep(1)
        state = llm.snapshot()
        group.cancel_scope.cancel()
    assert list(state) == ["a", "b"]
    assert sorted(state["a"]) == sorted(state["b"]) == ["aside", "breaker", "budget", "bulkhead", "rate"]
    assert state["a"]["breaker"] == ("closed", "auto", 0, 0, 2, 1, None, None)  # of two outcomes one failed
    assert state["a"]["bulkhead"] == (1, 1, 2)
    assert state["a"]["budget"] == 9.1  # 10, less a repeat, and 0.1 for the call that came after it
    assert (state["a"]["rate"].tokens_per_minute, state["a"]["aside"]) == (100_000, 0)
    assert 1000 < state["a"]["rate"].tokens < 3000
    assert (state["b"]["budget"], state["b"]["rate"], state["b"]["bulkhead"].inflight) == (10, None, 0)


async def test_every_number_that_was_given_is_in_what_is_explained() -> None:
    numbers = {
        "timeouts": Timeouts(connect=1.25, load=11.5, first_token=13.5, between_tokens=17.5),
        "retry": Retry(attempts=6, patience=4.75),
        "budget": RetryBudget(ratio=0.35, burst=12.5),
        "breaker": CircuitBreaker(7, 0.45, 23, 9, 6.5, 41.5, 3, lease=133),
        "bulkhead": Bulkhead(19, max_slots=53),
        "rate": RateLimit(requests_per_minute=1234, tokens_per_minute=567_890),
        "guard": ContextGuard(window=6001, reserve=777),
        "sentinel": OutputSentinel(loop=4001, whitespace=513, run_on=2.5),
    }
    choices = {"on_break": "restart", "on_truncation": "fail", "tells_deadline": True, "adapt": True, "space": "nomic"}
    route = Route(FakeBackend(loads=1, window=7777), **numbers, **choices, falls_back_on=(AuthFailed,))  # type: ignore[arg-type]
    explained = client(route, timeout=99.5).explain()
    shown = set(re.findall(r"[\d,.]*\d", explained))
    given = [1.25, 11.5, 13.5, 17.5, 6, 4.75, 0.35, 12.5, 7, 45, 23, 9, 6.5, 41.5, 3, 133, 19, 53, 6001, 777, 4001, 513]
    assert {f"{number:,}" for number in (1234, 567_890)} | {f"{number:g}" for number in [*given, 2.5, 99.5]} <= shown
    words = "on_break restart; on_truncation fail; tells_deadline; adapt; falls_back_on AuthFailed; space nomic"
    assert f"   chosen: {words}\n" in explained
    assert "chosen" not in client(FakeBackend()).explain()


async def test_a_number_of_slots_that_moves_says_how_far() -> None:
    near, far = client(FakeBackend(name="near", local=True), FakeBackend(name="far"))._legs
    assert repr(near.bulkhead) == "Bulkhead(0 of 1 slots in use, 0 queued)"
    assert repr(far.bulkhead) == "Bulkhead(0 of 64 slots in use, at most 1000, 0 queued)"


async def test_the_models_of_every_route_are_listed() -> None:
    llm = client(FakeBackend(name="a", model="m1"), FakeBackend(name="b", model="m2"))
    models = await llm.models()
    assert {route: [one.name for one in each] for route, each in models.items()} == {"a": ["m1"], "b": ["m2"]}


@REAL
async def test_one_server_that_is_down_hides_no_other_in_the_list_of_models() -> None:
    with FakeOllama() as near, FakeOpenAI() as far:
        gone = FakeOpenAI()
        with gone:
            url = gone.url
        async with AsyncClient(
            Ollama("llama3.2", base_url=near.url),
            OpenAICompatible("m", base_url=url, api_key="k", name="gone"),
            OpenAICompatible("m", base_url=far.url, api_key="k", name="far"),
        ) as llm:
            models = await llm.models()
            assert [one.name for one in models["ollama:llama3.2"]] == ["llama3.2:latest"]
            assert models["far"]
            assert "gone" not in models
        async with AsyncClient(OpenAICompatible("m", base_url=url, api_key="k", name="gone")) as llm:
            assert (await error_of(llm.models())).route == "gone"
