"""Our client against a real llama.cpp server that is busy, stopped, broken or killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    DeadlineExceeded,
    Restarted,
    Retry,
    Route,
    StreamInterrupted,
    TextDelta,
    Timeouts,
)
from resilient_llm.errors import BackendFailed, ConnectFailed, FirstTokenTimeout, OutputInvalid

from .conftest import KEY
from .helpers import ENDLESS, SLACK, busy_slots, eventually, get_weather, to_llama
from .llamacpp import Server, llama_server
from .script import SCRIPT, THOUGHT, Kind

pytestmark = pytest.mark.anyio
SLOTS = 2  # of the server


@pytest.fixture
def victim(model: Callable[[Kind], Path], llama_needed: None) -> Iterator[Server]:
    """A server of its own for each test, which may stop or kill it."""
    with llama_server(model("scripted"), api_keys=[KEY], model_alias=["scripted"]) as server:
        yield server


@pytest.fixture(scope="module")
def llama_broken(model: Callable[[Kind], Path], llama_needed: None) -> Iterator[Server]:
    """A model whose answer llama.cpp itself gives up in the middle, if there are tools in the request."""
    with llama_server(model("broken"), api_keys=[KEY], model_alias=["broken"]) as server:
        yield server


async def test_a_deadline_holds_while_the_server_lets_us_wait_in_silence(llama: Server) -> None:
    async with AsyncClient(to_llama(llama)) as llm:
        async with AsyncExitStack() as streams:
            for _ in range(SLOTS):
                await streams.enter_async_context(llm.stream("hi", extra=ENDLESS))
            assert busy_slots(llama) == SLOTS
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                await llm.chat("hi", timeout=0.2)
            assert time.monotonic() - began < 0.2 + SLACK
            assert busy_slots(llama) == SLOTS  # it was the server that let us wait
        assert (caught.value.phase, len(caught.value.attempts)) == ("first_token", 1)
        reply = await llm.chat("hi", temperature=0, timeout=5)
    assert (reply.text, len(reply.attempts)) == (SCRIPT, 1)


async def test_our_own_queue_waits_for_the_slots_that_the_server_has(llama: Server) -> None:
    async with AsyncClient(Route(to_llama(llama), bulkhead=Bulkhead(SLOTS))) as llm:
        async with AsyncExitStack() as streams:
            for _ in range(SLOTS):
                await streams.enter_async_context(llm.stream("hi", extra=ENDLESS))
            with pytest.raises(DeadlineExceeded) as caught:
                await llm.chat("hi", timeout=0.1)
        assert (caught.value.phase, caught.value.attempts[-1].connect) == ("queue", None)  # nothing was sent
        replies: list[str] = []

        async def ask() -> None:
            replies.append((await llm.chat("hi", temperature=0)).text)

        async with anyio.create_task_group() as group:
            for _ in range(3 * SLOTS):
                group.start_soon(ask)
    assert replies == [SCRIPT] * 3 * SLOTS


@pytest.mark.parametrize("way", ["leave", "cancel", "deadline"])
async def test_whoever_stops_listening_frees_the_slot(victim: Server, way: str) -> None:
    """A llama.cpp stream is cancelled when its connection closes; an answer in one piece never is."""
    async with AsyncClient(to_llama(victim, extra=ENDLESS)) as llm:
        if way == "leave":
            async with llm.stream("hi") as stream:
                await anext(stream)
                assert busy_slots(victim) == 1
        elif way == "cancel":
            async with anyio.create_task_group() as group:
                group.start_soon(llm.chat, "hi")
                await eventually(lambda: busy_slots(victim) == 1)
                group.cancel_scope.cancel()
        else:
            with pytest.raises(DeadlineExceeded):
                await llm.chat("hi", timeout=0.2)
        left = time.monotonic()
        await eventually(lambda: busy_slots(victim) == 0)
        assert time.monotonic() - left < 0.5  # of the 1.7 s that the whole answer takes
        assert llm.snapshot()["compatible:scripted"]["bulkhead"].inflight == 0


async def test_a_stream_whose_server_is_killed_breaks_with_what_had_arrived(victim: Server, llama: Server) -> None:
    async with AsyncClient(to_llama(victim, extra=ENDLESS), Route(to_llama(llama), name="other")) as llm:
        seen: list[str] = []
        with pytest.raises(StreamInterrupted) as caught:
            async with llm.stream("hi", temperature=0) as stream:
                async for text in stream.text():
                    seen.append(text)
                    victim.process.kill()
    assert caught.value.partial == "".join(seen)  # nothing twice, nothing lost, nothing from the other server
    assert SCRIPT.startswith(caught.value.partial[: len(SCRIPT)])
    assert len(caught.value.attempts) == 1
    assert caught.value.partial not in repr(caught.value)


async def test_a_stream_that_asked_for_restarts_is_told_of_the_one_after_a_kill(victim: Server, llama: Server) -> None:
    first = Route(to_llama(victim, extra=ENDLESS), on_break="restart", retry=Retry(attempts=1))
    llm = AsyncClient(first, Route(to_llama(llama), name="other"))
    texts: list[str] = []
    async with llm, llm.stream("hi", temperature=0) as stream:
        async for event in stream:
            victim.process.kill()
            if isinstance(event, TextDelta):
                texts.append(event.text)
            elif isinstance(event, Restarted):
                texts.clear()
    assert "".join(texts) == stream.reply.text == SCRIPT
    assert (stream.reply.route, stream.reply.degraded) == ("other", ("restarted",))


async def test_a_chat_whose_server_is_killed_gives_the_whole_answer_of_the_next(victim: Server, llama: Server) -> None:
    async with AsyncClient(to_llama(victim, extra=ENDLESS), Route(to_llama(llama), name="other")) as llm:

        async def kill() -> None:
            await eventually(lambda: busy_slots(victim) == 1)
            victim.process.kill()

        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            reply = await llm.chat("hi", temperature=0)
    assert (reply.text, reply.route, reply.degraded) == (SCRIPT, "other", ())
    first, *again, last = reply.attempts
    assert isinstance(first.error, BackendFailed)
    assert first.kind == "first"
    assert {type(one.error) for one in again} <= {ConnectFailed}  # nobody listens any more
    assert (last.kind, last.error) == ("fallback", None)


async def test_a_server_that_hangs_is_left_at_the_first_token_limit(victim: Server, llama: Server) -> None:
    """A stopped process: the kernel takes the connection and the request, and nobody ever answers."""
    hung = Route(to_llama(victim), timeouts=Timeouts(first_token=0.3))
    async with AsyncClient(hung, Route(to_llama(llama), name="other")) as llm:
        victim.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            reply = await llm.chat("hi", temperature=0)
            took = time.monotonic() - began
        finally:
            victim.process.send_signal(signal.SIGCONT)
        assert (reply.text, reply.route) == (SCRIPT, "other")
        assert [type(one.error) for one in reply.attempts] == [FirstTokenTimeout, type(None)]
        assert 0.3 <= took < 0.3 + 2 * SLACK


async def test_an_error_in_mid_stream_is_raised_after_the_text_before_it(llama_broken: Server) -> None:
    async with AsyncClient(to_llama(llama_broken, "broken")) as llm:
        seen: list[str] = []
        with pytest.raises(OutputInvalid) as caught:
            async with llm.stream("hi", tools=[get_weather], temperature=0) as stream:
                async for text in stream.text():
                    seen.append(text)
        assert "".join(seen) == stream.partial == THOUGHT
        assert (caught.value.fault, len(caught.value.attempts)) == (None, 1)
        assert llm.snapshot()["compatible:broken"]["breaker"].failures == 0  # the model's output, not the server


async def test_an_error_in_mid_answer_is_tried_once_more_in_a_chat(llama_broken: Server, llama: Server) -> None:
    route = Route(to_llama(llama_broken, "broken"), falls_back_on=(OutputInvalid,))
    async with AsyncClient(route, Route(to_llama(llama), name="other")) as llm:
        reply = await llm.chat("hi", tools=[get_weather], temperature=0)
    assert (reply.text, reply.route) == (SCRIPT, "other")
    assert [(one.kind, type(one.error)) for one in reply.attempts] == [
        ("first", OutputInvalid),
        ("retry", OutputInvalid),
        ("fallback", type(None)),
    ]
