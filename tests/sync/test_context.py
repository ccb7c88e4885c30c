"""What a block says crosses into the client's calls and streams, and by `bind` into threads and executors."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from resilient_llm import (
    AllRoutesFailed,
    ChatRequest,
    Client,
    DeadlineExceeded,
    Route,
    bind,
    deadline,
    local_only,
)
from resilient_llm._types import Request
from resilient_llm.errors import NoEligibleRoute
from resilient_llm.testing import FakeBackend, hang, say, stall

HOSTED = {"name": "hosted", "zone": "internet"}


def test_a_deadline_ends_a_chat() -> None:
    backend = FakeBackend(hang())
    with Client(backend) as llm, pytest.raises(DeadlineExceeded), deadline(0.1):
        llm.chat("hi", timeout=60)
    assert backend.active == 0


def test_a_deadline_ends_a_stream_that_is_read_within_it() -> None:
    with Client(FakeBackend(stall("hel"))) as llm, deadline(0.2), llm.stream("hi") as stream:
        assert next(stream).text == "hel"
        with pytest.raises(DeadlineExceeded) as caught:
            next(stream)
    assert caught.value.partial == "hel"


def test_a_deadline_is_one_for_all_calls_in_its_block() -> None:
    with Client(FakeBackend(say("slow", first=0.15))) as llm:
        with deadline(0.2), pytest.raises(DeadlineExceeded):
            llm.chat("one")
            llm.chat("two")
        assert llm.chat("after it").text == "slow"


@pytest.mark.parametrize("way", ["chat", "stream", "embed", "of the client"])
def test_a_timeout_counts_from_the_call_and_not_from_when_the_loop_has_time_for_it(way: str) -> None:
    """A plan, a listener or another call's work may hold the loop up for longer than this call wants to wait."""
    held, begun, free = threading.Event(), threading.Event(), threading.Event()

    def holds_up(request: Request, routes: Sequence[Route]) -> Sequence[Route]:
        if isinstance(request, ChatRequest) and "hold" in request.tags:
            held.set()
            free.wait(20)
        return routes

    backend = FakeBackend(say("yes"), slots=8)
    with Client(backend, plan=holds_up, timeout=0.1 if way == "of the client" else None) as llm:

        def late() -> None:
            begun.set()
            if way == "stream":
                llm.stream("hi", timeout=0.1).__enter__()
            elif way == "embed":
                llm.embed("hi", timeout=0.1)
            else:
                llm.chat("hi", **({"timeout": 0.1} if way == "chat" else {}))  # type: ignore[arg-type]

        with ThreadPoolExecutor(2) as pool:
            holding = pool.submit(llm.chat, "hold", tags=["hold"], timeout=60)
            assert held.wait(20)
            waiting = pool.submit(late)
            assert begun.wait(20)
            time.sleep(0.5)
            free.set()
            assert holding.result(20).text == "yes"
            with pytest.raises(DeadlineExceeded):
                waiting.result(20)
    assert len(backend.requests) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_scope_of_the_loop_that_runs_here_ends_a_call_as_in_a_notebook(backend: str) -> None:
    """That loop stands still during the call: the scope cannot cancel it, so its deadline has to come along."""

    async def cell() -> None:
        began = time.monotonic()
        with Client(FakeBackend(hang())) as llm:
            with pytest.raises(TimeoutError), anyio.fail_after(0.2):
                llm.chat("hi", timeout=60)
            with pytest.raises(DeadlineExceeded), anyio.fail_after(60), deadline(0.1):
                llm.stream("hi").__enter__()
        assert 0.3 <= time.monotonic() - began < 3

    anyio.run(cell, backend=backend)


def test_local_only_keeps_chat_stream_and_embed_inside() -> None:
    hosted = FakeBackend(**HOSTED)
    with Client(hosted) as llm, local_only():
        for call in (lambda: llm.chat("hi"), lambda: llm.stream("hi").__enter__(), lambda: llm.embed("hi")):
            with pytest.raises((NoEligibleRoute, AllRoutesFailed)):
                call()
    assert hosted.requests == []


def test_outside_the_block_nothing_of_it_is_left_on_the_loop() -> None:
    hosted = FakeBackend(say("hello"), **HOSTED)
    with Client(hosted) as llm:
        with local_only(), deadline(0.01), pytest.raises((NoEligibleRoute, DeadlineExceeded)):
            llm.chat("hi")
        time.sleep(0.02)
        assert llm.chat("hi").text == "hello"


def test_a_plain_thread_and_an_executor_carry_nothing_unless_bound() -> None:
    hosted = FakeBackend(say("hello"), **HOSTED)
    with Client(hosted) as llm, ThreadPoolExecutor(1) as pool, local_only():

        def ask() -> str:
            return llm.chat("hi").text

        assert pool.submit(ask).result(5) == "hello"  # this is why `bind` is there
        with pytest.raises(NoEligibleRoute):
            pool.submit(bind(ask)).result(5)

        caught: list[BaseException] = []

        def guarded() -> None:
            try:
                ask()
            except NoEligibleRoute as error:
                caught.append(error)

        thread = threading.Thread(target=bind(guarded))
        thread.start()
        thread.join(5)
        assert len(caught) == 1
    assert len(hosted.requests) == 1


def test_one_bound_function_runs_in_many_threads_at_once() -> None:
    barrier = threading.Barrier(8)
    with Client(FakeBackend(hang(), slots=8)) as llm, ThreadPoolExecutor(8) as pool, deadline(0.3):

        @bind
        def ask() -> None:
            barrier.wait(5)
            with pytest.raises(DeadlineExceeded):
                llm.chat("hi", timeout=60)

        for done in [pool.submit(ask) for _ in range(8)]:
            done.result(5)
