"""What an attempt needs beside a free slot: room in a rate limit, a slot of all processes, a server that wants it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, Bulkhead, ChatRequest, CircuitBreaker, RateLimit, Retry, Route, Timeouts, Usage
from resilient_llm._types import Request
from resilient_llm.errors import (
    CircuitOpen,
    CircuitOpenTooLong,
    ConfigError,
    ConnectFailed,
    DeadlineUnattainable,
    FirstTokenTimeout,
    Overloaded,
    RateLimited,
    StreamInterrupted,
)
from resilient_llm.events import ClientEvent, SlotsChanged
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, fail, hang, say, stall, status

from .kit import REAL, Ask, assert_nothing_held, cancelled_at, client, error_of, seconds_of

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)


def limited(backend: FakeBackend, requests: float | None = None, tokens: float | None = None, **more: Any) -> Route:
    return Route(backend, rate=RateLimit(requests_per_minute=requests, tokens_per_minute=tokens), retry=ONCE, **more)


async def test_requests_come_evenly(ask: Ask) -> None:
    llm = client(limited(FakeBackend(say("ok")), requests=30))
    for gap in (0.0, 2.0, 2.0):
        assert await seconds_of(ask(llm)) == pytest.approx(gap)


async def test_many_at_once_are_spread_and_none_is_lost(ask: Ask) -> None:
    backend = FakeBackend(say("ok"))
    llm = client(limited(backend, requests=60))
    ended: list[float] = []

    async def call() -> None:
        await ask(llm, timeout=60)
        ended.append(anyio.current_time())

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(call)
    assert [one - began for one in ended] == pytest.approx(list(range(10)))
    assert_nothing_held(llm, backend)


async def test_the_tokens_of_prompt_and_answer_count_and_what_was_not_used_is_free_again(ask: Ask) -> None:
    llm = client(limited(FakeBackend(say("ok", usage=Usage(10, 5))), tokens=1_000))
    await ask(llm, max_tokens=900)
    assert llm.snapshot()["fake"]["rate"].tokens == 15
    assert await seconds_of(ask(llm, max_tokens=900)) == pytest.approx(0.0)


async def test_a_request_that_is_larger_than_the_limit_is_refused_and_goes_on(ask: Ask) -> None:
    first = FakeBackend(name="first")
    llm = client(limited(first, tokens=1_000), FakeBackend(say("ok"), name="second"))
    reply = await ask(llm, max_tokens=2_000)
    assert reply.route == "second"
    error = reply.attempts[0].error
    assert isinstance(error, RateLimited)
    assert error.oversize
    assert first.requests == []


async def test_waiting_in_vain_for_the_limit_is_refused_at_once_with_the_reckoning(ask: Ask) -> None:
    backend = FakeBackend(say("ok"))
    llm = client(limited(backend, requests=6))
    await ask(llm)
    began = anyio.current_time()
    error = await error_of(ask(llm, timeout=4), DeadlineUnattainable)
    assert anyio.current_time() == began
    assert error.retry_after == pytest.approx(10.0)
    assert len(backend.requests) == 1


async def test_with_another_route_left_only_what_is_not_kept_for_it_is_waited(ask: Ask) -> None:
    llm = client(limited(FakeBackend(say("one"), name="first"), requests=6), FakeBackend(say("two"), name="second"))
    assert (await ask(llm, timeout=20)).route == "first"
    assert (await ask(llm, timeout=12)).route == "second"  # 10 s to wait, 7 s are its own
    assert (await ask(llm, timeout=20)).route == "first"


async def test_who_leaves_the_queue_takes_no_room(ask: Ask) -> None:
    number = 1
    while True:
        backend = FakeBackend(say("ok", usage=Usage(10, 5)))
        llm = client(limited(backend, requests=30, tokens=2_000))
        await ask(llm)
        cancelled = await cancelled_at(number, ask(llm))
        sent = len(backend.requests)
        assert llm.snapshot()["fake"]["rate"].tokens <= 15 + (300 if sent == 2 else 0)
        assert_nothing_held(llm, backend)
        if not cancelled:
            break
        number += 1
    assert number > 2


async def test_who_waits_at_the_head_and_leaves_lets_the_next_in(ask: Ask) -> None:
    backend = FakeBackend(say("ok"))
    llm = client(limited(backend, requests=30))
    await ask(llm)
    with anyio.move_on_after(1):
        await ask(llm)
    assert await seconds_of(ask(llm)) == pytest.approx(1.0)


def named(request: Request, routes: Sequence[Route]) -> Sequence[Route]:
    """The route that the message names, and no other."""
    assert isinstance(request, ChatRequest)
    return [route for route in routes if route.name == request.messages[0].content]


async def test_a_breaker_that_starts_slowly_holds_up_no_other_route_of_its_origin(ask: Ask) -> None:
    ill = FakeBackend(fail(ConnectFailed()), say("back"), say("a ", "long ", "one", gap=10), name="ill", origin="o")
    breaker = CircuitBreaker(failures=1, successes=1)
    well = FakeBackend(say("ok"), name="well", origin="o")
    llm = client(Route(well, name="well"), Route(ill, retry=ONCE, breaker=breaker, name="ill"), plan=named)
    await error_of(ask(llm, "ill"), ConnectFailed)
    await anyio.sleep(5)
    await ask(llm, "ill")
    ended: list[float] = []

    async def call() -> None:
        await ask(llm, "ill")
        ended.append(anyio.current_time() - began)

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(call)
        await anyio.sleep(1)
        assert llm.snapshot()["ill"]["bulkhead"].queued == 2
        assert await seconds_of(ask(llm, "well")) == pytest.approx(0)
    assert ended == pytest.approx([20, 40, 40], abs=0.2)  # one at a time, then two
    assert_nothing_held(llm, well, ill)


async def test_a_rate_limit_holds_up_no_other_route_of_its_origin_but_those_that_share_it(ask: Ask) -> None:
    shared = RateLimit(requests_per_minute=6)
    a, b, free = (FakeBackend(say("ok"), name=name, origin="o") for name in ("a", "b", "free"))
    llm = client(Route(a, rate=shared, name="a"), Route(b, rate=shared, name="b"), Route(free, name="free"), plan=named)
    order: list[tuple[str, float]] = []

    async def call(name: str) -> None:
        await ask(llm, name)
        order.append((name, round(anyio.current_time() - began)))

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for name in ("a", "b", "a", "b", "free"):
            group.start_soon(call, name)
            await anyio.sleep(0.001)
    assert order == [("a", 0), ("free", 0), ("b", 10), ("a", 20), ("b", 30)]


async def test_what_was_never_sent_does_not_count(ask: Ask) -> None:
    llm = client(limited(FakeBackend(fail(ConnectFailed("no")), say("ok")), tokens=1_000))
    await error_of(ask(llm, max_tokens=900), ConnectFailed)
    assert llm.snapshot()["fake"]["rate"].tokens == 0


@pytest.mark.invariant(34)
@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5])
async def test_who_leaves_before_it_is_sent_takes_no_room_and_who_leaves_after_does(ask: Ask, seconds: float) -> None:
    llm = client(limited(FakeBackend(say("ok", first=1), loads=1, connects=1), tokens=1_000))
    with anyio.move_on_after(seconds):
        await ask(llm, max_tokens=900)
    assert (llm.snapshot()["fake"]["rate"].tokens > 0) is (seconds > 2)


@pytest.mark.invariant(1, 34)
async def test_who_is_cancelled_at_the_moment_of_its_turn_takes_no_room(ask: Ask) -> None:
    backend = FakeBackend(say("a", first=5, usage=Usage(1, 1)))
    llm = client(limited(backend, tokens=1_000, bulkhead=Bulkhead(1)))
    async with anyio.create_task_group() as group:

        async def in_front() -> None:
            async with llm.stream("hi") as stream:
                async for _ in stream:
                    pass
                assert llm.snapshot()["fake"]["rate"].tokens > 900  # the next was given all that it needs in this step
                second.cancel()

        second = anyio.CancelScope()
        group.start_soon(in_front)
        await anyio.sleep(1)
        with second:
            await ask(llm, max_tokens=900)
    assert second.cancelled_caught
    assert len(backend.requests) == 1
    assert llm.snapshot()["fake"]["rate"].tokens == 2
    assert_nothing_held(llm, backend)


@pytest.mark.invariant(27)
@pytest.mark.parametrize("slots", [1, 2, 5])
async def test_what_a_request_did_not_use_goes_to_whoever_waits_for_it_at_once(ask: Ask, slots: int) -> None:
    """Each reserves 600 of 1,000 tokens, which are not free before a minute is over, and uses 2 of them."""
    backend = FakeBackend(say("a", first=5, usage=Usage(1, 1)))
    llm = client(limited(backend, tokens=1_000, bulkhead=Bulkhead(slots)))
    ended: list[float] = []

    async def call() -> None:
        await ask(llm, max_tokens=600, timeout=600)
        ended.append(anyio.current_time() - began)

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(call)
    assert ended == pytest.approx([5, 10, 15, 20])


async def test_an_embedding_counts_its_texts() -> None:
    llm = client(limited(FakeBackend(say("x", usage=Usage(40))), tokens=100_000))
    await llm.embed(["word " * 40])
    assert 0 < llm.snapshot()["fake"]["rate"].tokens < 100


async def test_a_server_that_said_when_is_not_asked_before_by_a_call_that_cannot_wait_so_long(ask: Ask) -> None:
    backend = FakeBackend(fail(RateLimited("later", retry_after=60)), say("ok"))
    llm = client(Route(backend, retry=ONCE))
    await error_of(ask(llm), RateLimited)
    error = await error_of(ask(llm, timeout=10), DeadlineUnattainable)
    assert error.retry_after == pytest.approx(60.0)
    assert len(backend.requests) == 1
    assert (await ask(llm, timeout=100)).text == "ok"  # a lone route is tried all the same


@pytest.mark.parametrize(("hint", "left"), [(60, 60), (3600, 120)])
async def test_a_server_that_is_overloaded_and_said_when_is_not_asked_before_either(
    ask: Ask, hint: float, left: float
) -> None:
    backend = FakeBackend(fail(Overloaded("busy", retry_after=hint)), say("ok"))
    llm = client(Route(backend, retry=ONCE))
    await error_of(ask(llm), Overloaded)
    began = anyio.current_time()
    error = await error_of(ask(llm, timeout=10), DeadlineUnattainable)
    assert anyio.current_time() == began
    assert error.retry_after == pytest.approx(left)  # as far as a breaker would believe it
    assert len(backend.requests) == 1
    assert (await ask(llm, timeout=150)).text == "ok"  # a lone route is tried all the same


@pytest.mark.parametrize("by", ["timeout", "scope"])
async def test_a_breaker_that_is_open_for_longer_than_a_call_has_time_says_so_at_once(ask: Ask, by: str) -> None:
    backend = FakeBackend(fail(ConnectFailed("refused")), name="box")
    llm = client(Route(backend, breaker=CircuitBreaker(failures=1, cooldown=5), retry=ONCE))
    await error_of(ask(llm))
    with anyio.move_on_after(2 if by == "scope" else 60):
        error = await error_of(ask(llm, timeout=2 if by == "timeout" else 60), CircuitOpenTooLong)
    assert isinstance(error, CircuitOpen)  # for whom the class matters more than the time
    assert isinstance(error, DeadlineUnattainable)
    assert error.message == "open for 5 s more: 1 failure in a row; 2 s are left"
    assert type(await error_of(ask(llm, timeout=6), CircuitOpen)) is CircuitOpen
    assert len(backend.requests) == 1


async def test_who_is_refused_after_a_wait_is_told_how_long_it_was(ask: Ask) -> None:
    """Two calls hang for 2 s, one after the other, and that opens the breaker for the third."""
    llm = client(Route(FakeBackend(hang()), bulkhead=Bulkhead(1), timeouts=Timeouts(first_token=2), retry=ONCE))
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(error_of, llm.chat("hi"), FirstTokenTimeout)
        await anyio.sleep(0.5)
        (attempt,) = (await error_of(ask(llm), CircuitOpen)).attempts
    assert (attempt.queue, attempt.total) == (pytest.approx(3.5), pytest.approx(3.5))


async def test_how_long_a_probe_or_an_order_will_take_is_not_known() -> None:
    breaker = CircuitBreaker(failures=1, cooldown=5)
    llm = client(Route(FakeBackend(fail(ConnectFailed("refused")), hang()), breaker=breaker, retry=ONCE))
    await error_of(llm.chat("hi"))
    await anyio.sleep(5)
    async with anyio.create_task_group() as group:
        group.start_soon(llm.chat, "hi")
        await anyio.sleep(1)
        assert type(await error_of(llm.chat("hi", timeout=1))) is CircuitOpen
        group.cancel_scope.cancel()
    breaker.mode = "forced_open"
    assert type(await error_of(llm.chat("hi", timeout=1))) is CircuitOpen


async def test_a_server_that_is_overloaded_and_says_nothing_of_use_is_asked_again(ask: Ask) -> None:
    for hint in (None, 0, -1, math.nan):
        llm = client(Route(FakeBackend(fail(Overloaded("busy", retry_after=hint)), say("ok")), retry=ONCE))
        await error_of(ask(llm), Overloaded)
        assert (await ask(llm, timeout=10)).text == "ok"


async def test_a_hosted_number_of_slots_shrinks_once_for_many_throttles_at_once(ask: Ask) -> None:
    told: list[ClientEvent] = []
    backend = FakeBackend(fail(Overloaded("503")), slots=20)
    llm = client(Route(backend, retry=ONCE, bulkhead=Bulkhead(20, max_slots=20)), on_event=told.append)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(error_of, ask(llm))
    assert [event for event in told if isinstance(event, SlotsChanged)] == [SlotsChanged("fake", 20, 14)]
    assert llm.snapshot()["fake"]["bulkhead"].slots == 14
    assert_nothing_held(llm, backend)


async def test_a_local_number_and_one_that_the_user_fixed_stay(ask: Ask) -> None:
    for route in (
        Route(FakeBackend(fail(Overloaded("busy")), local=True), retry=ONCE),
        Route(FakeBackend(fail(Overloaded("busy"))), retry=ONCE, bulkhead=Bulkhead(8)),
    ):
        llm = client(route)
        before = llm.snapshot()["fake"]["bulkhead"].slots
        await error_of(ask(llm), Overloaded)
        assert llm.snapshot()["fake"]["bulkhead"].slots == before


async def test_answers_let_a_number_grow_up_to_its_most(ask: Ask) -> None:
    llm = client(Route(FakeBackend(say("ok")), bulkhead=Bulkhead(1, max_slots=3)))
    for _ in range(20):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask, llm)
    assert llm.snapshot()["fake"]["bulkhead"].slots == 3


async def test_two_clients_share_a_limit_by_its_name(ask: Ask, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    backends = [FakeBackend(say("ok", first=5.0), name=name) for name in ("a", "b")]
    clients = [client(Route(one, bulkhead=Bulkhead(1, shared="box"))) for one in backends]
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for llm in clients:
            group.start_soon(ask, llm)
        await anyio.sleep(1)
        assert sum(one.active for one in backends) == 1
    assert 10.0 <= anyio.current_time() - began <= 10.1  # the second looks again every 50 ms at the latest
    for llm in clients:
        assert_nothing_held(llm, *backends)


async def test_a_stream_that_nobody_reads_gives_its_slot_to_whoever_waits() -> None:
    backend = FakeBackend(stall("hel"), say("ok"), slots=1)
    llm = client(backend)
    async with llm.stream("hi") as stream:
        await anext(stream)
        await anyio.sleep(3600)
        assert backend.active == 1  # while nobody waits it is left alone
        assert 60 <= await seconds_of(llm.chat("hi", timeout=300)) <= 90
        await anyio.wait_all_tasks_blocked()
        assert backend.active == 0
        with pytest.raises(StreamInterrupted, match="nobody read") as caught:
            await anext(stream)
        assert caught.value.partial == "hel"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert_nothing_held(llm, backend)


async def test_a_stream_whose_slot_was_taken_away_closes_its_connection_with_its_block() -> None:
    backend = FakeBackend(stall("hel"))
    llm = client(backend)
    async with llm.stream("hi") as stream:
        await anext(stream)
        (slot,) = llm._legs[0].bulkhead._read
        assert slot.reader is not None
        slot.reader.revoke()
        assert backend.active == 1  # which takes an await, and nobody can make one there
    assert backend.active == 0
    await anyio.wait_all_tasks_blocked()
    assert_nothing_held(llm, backend)


async def test_a_stream_that_is_read_now_and_then_keeps_its_slot() -> None:
    backend = FakeBackend(say(*"abcdefghij"), slots=1)
    llm = client(backend)
    async with anyio.create_task_group() as group, llm.stream("hi") as stream:
        group.start_soon(error_of, llm.chat("hi", timeout=200))
        read = [await anext(stream)]
        async for event in stream:
            await anyio.sleep(40)
            read.append(event)
    assert len(read) == 11
    assert stream.reply.text == "abcdefghij"


async def test_a_stream_that_waits_for_its_server_is_not_one_that_nobody_reads() -> None:
    backend = FakeBackend(say("a", "b", gap=100.0), slots=1)
    llm = client(Route(backend, timeouts=Timeouts(between_tokens=300)))
    async with anyio.create_task_group() as group, llm.stream("hi") as stream:
        group.start_soon(llm.chat, "hi")
        texts = [text async for text in stream.text()]
    assert texts == ["a", "b"]
    assert_nothing_held(llm, backend)


async def test_a_stream_that_was_dropped_is_not_kept_by_the_queue() -> None:
    backend = FakeBackend(stall("hel"), slots=1)
    llm = client(backend)
    stream = llm.stream("hi")
    await stream.__aenter__()
    with pytest.warns(ResourceWarning, match="dropped"):
        del stream
    await anyio.wait_all_tasks_blocked()
    assert_nothing_held(llm, backend)


@REAL
@pytest.mark.parametrize("kind", ["ollama", "openai", "user"])
async def test_a_route_that_tells_its_deadline_sends_what_is_left(ask: Ask, kind: str) -> None:
    import httpx2

    from resilient_llm import Ollama, OpenAICompatible

    server: Any = FakeOllama(say("ok")) if kind == "ollama" else FakeOpenAI(say("ok"))
    with server:
        async with httpx2.AsyncClient() as http:
            backend: Any = (
                Ollama("llama3.2", base_url=server.url)
                if kind == "ollama"
                else OpenAICompatible("m", base_url=server.url, http_client=http if kind == "user" else None)
            )
            async with AsyncClient(Route(backend, tells_deadline=True)) as llm:
                await ask(llm, timeout=30)
            async with AsyncClient(Route(backend)) as llm:
                await ask(llm, timeout=30)
        told, silent = server.chats
        assert 10_000 < int(told.headers["x-request-timeout-ms"]) <= 30_000
        assert "x-request-timeout-ms" not in silent.headers


@REAL
@pytest.mark.parametrize("said", ["argument", "scope", "nothing"])
async def test_what_is_told_is_what_is_left_when_each_request_goes_out(ask: Ask, said: str) -> None:
    from resilient_llm import OpenAICompatible

    with FakeOpenAI(status(429, "slow", {"Retry-After": "0.6"}), say("ok")) as server:
        backend = OpenAICompatible("m", base_url=server.url)
        async with AsyncClient(Route(backend, tells_deadline=True)) as llm:
            with anyio.fail_after(30 if said == "scope" else None):
                await ask(llm, timeout=30 if said == "argument" else None)
            await llm.embed("text", timeout=20)
    first, second = (int(one.headers["x-request-timeout-ms"]) for one in server.chats)
    assert second <= first - 600  # a point in time would stay, and what there was at the door too
    assert second > 5_000
    assert first <= (900_000 if said == "nothing" else 30_000)
    (embedding,) = (one for one in server.requests if one.kind == "embed")
    assert 5_000 < int(embedding.headers["x-request-timeout-ms"]) <= 20_000


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 0}, {"slots": 2.5}, {"slots": True}, {"max_slots": 0}, {"slots": 5, "max_slots": 4},
     {"shared": "a/b"}, {"shared": ""}, {"shared": "x", "max_slots": 4}],
)  # fmt: skip
def test_impossible_numbers_are_refused_with_what_was_given(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="|".join(wrong)):
        Bulkhead(**wrong)
