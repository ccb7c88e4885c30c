"""Our client against a real Ollama that is busy, refuses, or whose runner is stopped or killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import anyio
import anyio.to_thread
import httpx2
import pytest

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    ChatReply,
    CircuitBreaker,
    LLMError,
    Retry,
    Route,
    StreamInterrupted,
    Timeouts,
)
from resilient_llm.backends import _ollama_mend
from resilient_llm.errors import BadRequest, FirstTokenTimeout, Overloaded, ServerError, StreamStalled

from .helpers import answers, eventually, give_lost_slots_back, served_once_more, signal_runners, to_llama, to_ollama
from .llamacpp import Server as Llama
from .ollama import Server
from .script import SCRIPT

pytestmark = pytest.mark.anyio
QUEUE = 2  # OLLAMA_MAX_QUEUE


@pytest.fixture(autouse=True)
def no_slot_stays_lost(ollama_server: Server) -> Iterator[None]:
    yield
    give_lost_slots_back(ollama_server)


async def test_our_own_queue_is_as_narrow_as_the_server_so_that_it_never_has_to_refuse(ollama_server: Server) -> None:
    replies: list[ChatReply] = []
    async with AsyncClient(to_ollama(ollama_server)) as llm:

        async def ask() -> None:
            replies.append(await llm.chat("hi", temperature=0))

        async with anyio.create_task_group() as group:
            for _ in range(4 * QUEUE):
                group.start_soon(ask)
    assert [(reply.text, len(reply.attempts)) for reply in replies] == [(SCRIPT, 1)] * 4 * QUEUE
    assert sum(reply.timings.queue > 0 for reply in replies) == 4 * QUEUE - 1


async def test_a_full_queue_of_the_server_is_overload_and_nobodys_fault(ollama_server: Server) -> None:
    """With more slots than the server has: one is being let in, two wait for that, and all others are refused.

    Letting one in takes no time unless the runner does not answer Ollama's question whether it is well: so it is
    stopped until somebody was refused.
    """
    ends: list[ChatReply | LLMError] = []
    route = Route(to_ollama(ollama_server), bulkhead=Bulkhead(8), retry=Retry(attempts=1))
    async with AsyncClient(route) as llm:
        await llm.chat("hi", temperature=0)

        async def ask() -> None:
            try:
                ends.append(await llm.chat("hi", temperature=0))
            except Overloaded as error:
                ends.append(error)

        async with anyio.create_task_group() as group:
            signal_runners(ollama_server, signal.SIGSTOP)
            for _ in range(8):
                group.start_soon(ask)
            try:
                await eventually(lambda: len(ends) >= 8 - QUEUE - 1)
            finally:
                signal_runners(ollama_server, signal.SIGCONT)
        breaker = llm.snapshot()["ollama:scripted"]["breaker"]
    refused = [end for end in ends if isinstance(end, Overloaded)]
    assert len(ends) == 8
    assert 8 - QUEUE - 1 <= len(refused) <= 8 - QUEUE  # one more, if all were there before the first was let in
    assert {(error.status, error.fault, error.retryable, error.falls_back) for error in refused} == {
        (503, None, True, True)
    }
    assert {end.text for end in ends if isinstance(end, ChatReply)} == {SCRIPT}
    assert (breaker.state, breaker.failed) == ("closed", 0)


@pytest.mark.parametrize("streams", [True, False])
async def test_an_error_after_a_200_is_an_error_and_the_callers(ollama_server: Server, streams: bool) -> None:
    async with AsyncClient(Route(to_ollama(ollama_server), streams=streams)) as llm:
        with pytest.raises(BadRequest, match="invalid JSON schema") as caught:
            await llm.chat("hi", extra={"format": {"type": "wat"}})
        assert len(caught.value.attempts) == 1
        assert llm.snapshot()["ollama:scripted"]["breaker"].failures == 0


async def test_a_500_for_a_wrong_option_is_the_callers_mistake(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server)) as llm:
        with pytest.raises(BadRequest, match="stop") as caught:
            await llm.chat("hi", extra={"options": {"stop": 5}})
        assert (caught.value.status, len(caught.value.attempts)) == (500, 1)
        assert llm.snapshot()["ollama:scripted"]["breaker"].failures == 0


async def test_a_stream_whose_runner_is_killed_breaks_with_what_had_arrived(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server, "endless")) as llm:
        seen: list[str] = []
        with pytest.raises(StreamInterrupted) as caught:
            async with llm.stream("hi", temperature=0) as stream:
                async for text in stream.text():
                    seen.append(text)
                    if len(seen) == 3:
                        signal_runners(ollama_server, signal.SIGKILL)
        assert caught.value.partial == "".join(seen)
        assert (SCRIPT * 3).startswith(caught.value.partial)
        assert isinstance(caught.value.__cause__, ServerError)
        assert len(caught.value.attempts) == 1
        assert (await llm.chat("hi", temperature=0, max_tokens=3)).degraded == ("cut_at_length",)  # loaded again


async def test_a_chat_whose_runner_is_killed_gives_the_whole_answer_of_the_next_route(
    ollama_server: Server, llama: Llama
) -> None:
    first = Route(to_ollama(ollama_server, "endless"), retry=Retry(attempts=1))
    async with AsyncClient(first, Route(to_llama(llama), name="other")) as llm:
        await llm.warm_up()

        async def kill() -> None:
            await eventually(lambda: llm.snapshot()["ollama:endless"]["bulkhead"].inflight)
            await anyio.sleep(0.2)  # into the answer; it is as well if the first token is not there yet
            signal_runners(ollama_server, signal.SIGKILL)

        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            reply = await llm.chat("hi", temperature=0)
    assert (reply.text, reply.route) == (SCRIPT, "other")
    first_attempt, last = reply.attempts
    assert isinstance(first_attempt.error, (StreamInterrupted, ServerError))
    assert (last.kind, last.error) == ("fallback", None)


async def test_a_runner_that_stops_in_mid_stream_is_left_at_the_gap_limit(ollama_server: Server) -> None:
    route = Route(to_ollama(ollama_server, "endless"), timeouts=Timeouts(between_tokens=0.5))
    async with served_once_more(ollama_server, "endless"), AsyncClient(route) as llm:
        seen: list[str] = []
        try:
            with pytest.raises(StreamStalled) as caught:
                async with llm.stream("hi", temperature=0) as stream:
                    async for text in stream.text():
                        seen.append(text)
                        if len(seen) == 3:
                            signal_runners(ollama_server, signal.SIGSTOP)
        finally:
            signal_runners(ollama_server, signal.SIGCONT)
        assert caught.value.partial == "".join(seen)
        again = await llm.chat("hi", temperature=0, max_tokens=3, timeout=3)
        assert again.text  # nothing is left behind that blocks the slot


@pytest.mark.parametrize("way", ["leave", "cancel"])
async def test_whoever_stops_listening_frees_the_slot(ollama_server: Server, way: str) -> None:
    """The server has one slot, and this answer would keep it for ten seconds and more."""
    endless = to_ollama(ollama_server, "endless", options={"num_predict": 20_000})
    async with served_once_more(ollama_server, "endless"), AsyncClient(endless) as llm:
        await llm.warm_up()
        if way == "leave":
            async with llm.stream("hi") as stream:
                await anext(stream)
        else:
            with anyio.move_on_after(0.3) as scope:
                await llm.chat("hi")
            assert scope.cancelled_caught
        left = time.monotonic()
        reply = await llm.chat("hi", max_tokens=1, timeout=3)
        assert time.monotonic() - left < 1
        assert len(reply.attempts) == 1


async def test_a_slot_that_ollama_lost_is_got_back(
    ollama_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is as wedged as a user's after a week; no other client is needed to see it, and ours mends it."""
    monkeypatch.setattr(_ollama_mend, "TOKEN", 1.0)
    if not await anyio.to_thread.run_sync(lose_a_slot, ollama_server):
        pytest.skip("Ollama lost no slot")
    route = Route(
        to_ollama(ollama_server, "endless"),
        timeouts=Timeouts(first_token=0.5),
        retry=Retry(attempts=1),
        breaker=CircuitBreaker(failures=1, cooldown=0.1),
    )
    async with AsyncClient(route) as llm:
        with pytest.raises(FirstTokenTimeout):
            await llm.chat("hi")
        await eventually(lambda: "gives tokens again, after it was loaded anew" in caplog.text, 20)
        assert SCRIPT.startswith((await llm.chat("hi", temperature=0, max_tokens=5)).text)


def lose_a_slot(server: Server) -> bool:
    """Breaks off answers until Ollama has lost the slot of one: of twenty, if tokens gather while it stands still."""
    body = {"model": "endless", "messages": [{"role": "user", "content": "hi"}]}
    with httpx2.Client(timeout=1) as http:
        for _ in range(400):
            try:
                with http.stream("POST", f"{server.url}/api/chat", json=body) as answer:
                    next(answer.iter_lines())
                    os.kill(server.pid, signal.SIGSTOP)
                    time.sleep(0.02)  # some 40 tokens
            finally:
                os.kill(server.pid, signal.SIGCONT)
            try:
                http.post(f"{server.url}/api/chat", json=body | {"stream": False, "options": {"num_predict": 1}})
            except httpx2.TimeoutException:
                return not answers(server, "endless")
    return False
