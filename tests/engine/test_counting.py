"""Counting a long prompt holds up nobody: it is done in a thread, once a call, and until the deadline at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import anyio
import anyio.to_thread
import pytest

from resilient_llm import AsyncClient, ContextGuard, DeadlineExceeded, Message, Route, TokenCounter, drop_oldest
from resilient_llm._fitting import HEAVY, THREADS
from resilient_llm.errors import ContextOverflow
from resilient_llm.policies import tokens
from resilient_llm.policies._weights import Counts
from resilient_llm.policies.guard import Count
from resilient_llm.testing import FakeBackend, say

from .kit import REAL, Ask, assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio
LONG, SHORT = "word " * (HEAVY // 4), "word " * 400


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each text that was measured."""
    lengths: list[int] = []
    measure = tokens.measure

    def noted(text: str) -> Counts:
        lengths.append(len(text))
        return measure(text)

    monkeypatch.setattr(tokens, "measure", noted)
    return lengths


@pytest.fixture
def slow() -> Iterator[tuple[threading.Event, list[str]]]:
    """What a counter waits for, and the names of the threads that counted. Lets them go in the end."""
    go, where = threading.Event(), []
    yield go, where
    go.set()


async def test_a_prompt_that_fits_even_if_every_byte_were_a_token_is_not_counted(ask: Ask, counted: list[int]) -> None:
    await ask(client(Route(FakeBackend(say("ok")), guard=ContextGuard(window=100_000))), "word " * 10_000)
    assert counted == []


async def test_a_message_is_counted_once_for_all_routes_and_rules(ask: Ask, counted: list[int]) -> None:
    history = [Message("user", letter * 4_000) for letter in "abcdefgh"]
    routes = [
        Route(FakeBackend(name="small"), guard=ContextGuard(window=1_000)),
        Route(FakeBackend(say("ok"), name="trims"), guard=ContextGuard(window=6_000, overflow=drop_oldest)),
    ]
    reply = await ask(client(*routes), history)
    assert [type(one.error) for one in reply.attempts] == [ContextOverflow, type(None)]
    assert [length for length in counted if length] == [4_000] * len(history)


async def test_a_refusal_by_the_guard_stands_among_the_attempts(ask: Ask) -> None:
    small, large = FakeBackend(name="small"), FakeBackend(say("ok"), name="large")
    llm = client(Route(small, guard=ContextGuard(window=100)), large)
    reply = await ask(llm, "word " * 200)
    assert [(one.route, one.kind, type(one.error)) for one in reply.attempts] == [
        ("small", "first", ContextOverflow),
        ("large", "fallback", type(None)),
    ]
    assert small.requests == []
    assert_nothing_held(llm, small, large)


async def test_a_route_whose_window_is_no_larger_is_not_asked(ask: Ask) -> None:
    routes = [Route(FakeBackend(name=name), guard=ContextGuard(window=100)) for name in ("one", "two")]
    error = await error_of(ask(client(*routes), "word " * 200))
    assert [one.route for one in error.attempts] == ["one"]
    assert type(error) is ContextOverflow


Slow = tuple[threading.Event, list[str]]
Hanging = Callable[[Slow], ContextGuard]


def slow_counter(slow: Slow) -> ContextGuard:
    def counter(request: object) -> int:
        slow[1].append(threading.current_thread().name)
        slow[0].wait(20)
        return 10

    return ContextGuard(window=300, counter=counter)


def slow_rule(slow: Slow) -> ContextGuard:
    def rule(messages: Sequence[Message], room: int, count: Count) -> Sequence[Message]:
        slow[1].append(threading.current_thread().name)
        slow[0].wait(20)
        return [Message("user", "in short")]

    return ContextGuard(window=300, overflow=rule)


WHOSE = pytest.mark.parametrize("whose", [slow_counter, slow_rule])


@REAL
@WHOSE
async def test_what_is_not_ours_is_done_in_a_thread_while_the_loop_goes_on(
    ask: Ask, slow: Slow, whose: Hanging
) -> None:
    go, where = slow
    backend = FakeBackend(say("ok"))
    async with AsyncClient(Route(backend, guard=whose(slow))) as llm:
        replies = []

        async def call() -> None:
            replies.append(await ask(llm, SHORT, timeout=30))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            while not where:  # the loop turns although the counter stands still
                await anyio.sleep(0.001)
            assert llm.snapshot()["fake"]["bulkhead"].inflight == 0  # nor does it hold a slot meanwhile
            go.set()
        assert replies[0].text == "ok"
        assert threading.current_thread().name not in where


@REAL
@pytest.mark.parametrize("counter", [None, lambda request: 100])  # with the estimate the server's count is compared
async def test_a_long_prompt_is_measured_in_a_thread(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, counter: TokenCounter | None
) -> None:
    where: list[str] = []
    measure = tokens.measure

    def noted(text: str) -> Counts:
        where.append(threading.current_thread().name)
        return measure(text)

    monkeypatch.setattr(tokens, "measure", noted)
    async with AsyncClient(Route(FakeBackend(say("ok")), guard=ContextGuard(window=HEAVY, counter=counter))) as llm:
        await ask(llm, LONG)
    assert where
    assert threading.current_thread().name not in where


@REAL
@WHOSE
async def test_a_deadline_ends_the_wait_for_what_is_not_ours(ask: Ask, slow: Slow, whose: Hanging) -> None:
    backend = FakeBackend()
    async with AsyncClient(Route(backend, guard=whose(slow))) as llm:
        began = time.monotonic()
        error = await error_of(ask(llm, SHORT, timeout=0.2), DeadlineExceeded)
        assert error.phase == "queue"
        assert time.monotonic() - began < 10
        assert backend.requests == []
        assert_nothing_held(llm, backend)


@REAL
async def test_a_caller_who_leaves_does_not_wait_for_a_counter(ask: Ask, slow: Slow) -> None:
    backend = FakeBackend()
    async with AsyncClient(Route(backend, guard=slow_counter(slow))) as llm:
        with anyio.move_on_after(0.1) as scope:
            await ask(llm, SHORT, timeout=30)
        assert scope.cancelled_caught
        assert_nothing_held(llm, backend)


@REAL
async def test_counters_that_hang_take_none_of_the_applications_threads(slow: Slow) -> None:
    async with AsyncClient(Route(FakeBackend(), guard=slow_counter(slow))) as llm, anyio.create_task_group() as group:
        for _ in range(50):  # anyio and trio have 40 threads
            group.start_soon(error_of, llm.chat(SHORT, timeout=0.3), DeadlineExceeded)
        while len(slow[1]) < THREADS:
            await anyio.sleep(0.001)
        with anyio.fail_after(15):
            assert await anyio.to_thread.run_sync(lambda: "free") == "free"
