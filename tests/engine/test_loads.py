"""Loads of an Ollama: one for all callers, detached from each of them, and never counted as a slow first token."""

from __future__ import annotations

import socket

import anyio
import pytest

from resilient_llm import AsyncClient, Bulkhead, DeadlineExceeded, Ollama, Retry, Route, Timeouts
from resilient_llm.errors import ConnectFailed, FirstTokenTimeout, LoadTimeout, ModelNotFound
from resilient_llm.testing import FakeBackend, FakeOllama, Fault, say

from .box import Box, ollama, slow_disk
from .kit import REAL, Ask, assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio
LOAD = 60.0  # seconds
ONCE = Retry(attempts=1)


def outcomes(host: Box) -> list[str]:
    return [load.outcome for load in host.loads]


def far() -> FakeBackend:
    return FakeBackend(say("far"), name="far")


async def test_a_cold_model_is_loaded_first_and_then_asked(ask: Ask) -> None:
    host = slow_disk(LOAD)
    async with client(ollama(host)) as llm:
        reply = await ask(llm)
    assert host.paths == ["/api/ps", "/api/chat", "/api/ps", "/api/version", "/api/chat"]
    assert len(host.chats) == 1
    assert reply.timings.load == pytest.approx(LOAD, abs=0.1)
    assert reply.attempts[0].load == reply.timings.load
    assert (reply.attempts[0].first_token or 9) < 1


async def test_a_warm_model_is_asked_at_once(ask: Ask) -> None:
    host = Box()
    async with client(ollama(host)) as llm:
        await ask(llm)
        before = len(host.paths)
        reply = await ask(llm)
    assert host.paths[before:] == ["/api/chat"]
    assert (reply.attempts[0].load, reply.timings.load) == (None, 0)


async def test_the_first_token_limit_counts_from_when_the_model_is_in_memory(ask: Ask) -> None:
    other = far()
    async with client(Route(ollama(slow_disk(LOAD)), timeouts=Timeouts(first_token=5)), other) as llm:
        reply = await ask(llm, timeout=90)
    assert (reply.text, len(reply.attempts)) == ("You said: hi", 1)  # the load alone is no reason to go elsewhere
    assert other.opened == 0


async def test_a_first_token_that_is_late_after_the_load_is_still_late(ask: Ask) -> None:
    host = slow_disk(LOAD)
    host.inject(Fault("stalls"))
    async with client(Route(ollama(host), timeouts=Timeouts(first_token=5), retry=ONCE)) as llm:
        error = await error_of(ask(llm, timeout=90), FirstTokenTimeout)
    assert anyio.current_time() == pytest.approx(LOAD + 5, abs=0.1)
    assert error.attempts[0].load == pytest.approx(LOAD, abs=0.1)


@pytest.mark.invariant(36)
async def test_five_impatient_callers_are_one_load_and_none_of_them_aborts_it() -> None:
    host = slow_disk(LOAD)
    async with client(Route(ollama(host), bulkhead=Bulkhead(5))) as llm:

        async def impatient(seconds: float) -> None:
            with anyio.move_on_after(seconds):
                await llm.chat("hi")

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(impatient, 10.0 * (number + 1))
        assert_nothing_held(llm)
        assert outcomes(host) == ["running"]
        await anyio.sleep(LOAD)
        assert outcomes(host) == ["completed"]
        assert (await llm.chat("hi")).timings.load == 0
    assert (len(host.log), len(host.chats)) == (2, 1)


@pytest.mark.invariant(36)
async def test_five_patient_callers_share_one_load() -> None:
    host = slow_disk(LOAD)
    async with client(Route(ollama(host), bulkhead=Bulkhead(5))) as llm, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(llm.chat, "hi")
    assert outcomes(host) == ["completed"]
    assert (len(host.log), len(host.chats)) == (6, 5)


async def test_a_load_longer_than_its_limit_goes_on_while_the_next_route_answers(ask: Ask) -> None:
    host = slow_disk(LOAD)
    async with client(Route(ollama(host), timeouts=Timeouts(load=10)), far()) as llm:
        reply = await ask(llm, timeout=90)
        assert reply.text == "far"
        assert [type(one.error) for one in reply.attempts] == [LoadTimeout, type(None)]
        await anyio.sleep(LOAD)
        assert (await ask(llm)).text == "You said: hi"
    assert outcomes(host) == ["completed"]


async def test_a_deadline_ends_the_wait_for_a_load_but_not_the_load(ask: Ask) -> None:
    host = slow_disk(LOAD)
    async with client(ollama(host)) as llm:
        error = await error_of(ask(llm, timeout=10), DeadlineExceeded)
        assert (error.phase, anyio.current_time()) == ("load", pytest.approx(10, abs=0.05))
        await anyio.sleep(LOAD)
        assert (await ask(llm)).text == "You said: hi"
    assert outcomes(host) == ["completed"]


async def test_closing_the_client_ends_a_load_that_is_under_way() -> None:
    host = slow_disk(LOAD)
    async with client(ollama(host)) as llm:
        await error_of(llm.chat("hi", timeout=10), DeadlineExceeded)
    assert outcomes(host) == ["aborted"]


async def test_a_warm_up_loads_once_and_sends_no_prompt() -> None:
    host, other = slow_disk(LOAD), far()
    async with client(ollama(host), other) as llm:
        await llm.warm_up()
        assert (outcomes(host), host.chats, other.opened) == (["completed"], [], 0)
        before = len(host.paths)
        await llm.chat("hi")
        assert host.paths[before:] == ["/api/chat"]  # it is known to be there
    assert outcomes(host) == ["completed"]


async def test_a_warm_up_that_takes_too_long_says_so_and_its_load_goes_on() -> None:
    host = slow_disk(LOAD)
    async with client(Route(ollama(host), timeouts=Timeouts(load=10))) as llm:
        error = await error_of(llm.warm_up(), LoadTimeout)
        assert error.route == "ollama:llama3.2"
        await anyio.sleep(LOAD)
        assert outcomes(host) == ["completed"]


async def test_an_eviction_is_found_out_after_a_silence(ask: Ask) -> None:
    host = slow_disk(LOAD)
    async with client(ollama(host)) as llm:
        await ask(llm, timeout=90)
        host.evict()
        await anyio.sleep(61)
        reply = await ask(llm, timeout=90)
    assert outcomes(host) == ["completed", "completed"]
    assert reply.timings.load == pytest.approx(LOAD, abs=0.1)
    assert reply.degraded == ("reloaded",)


async def test_a_load_that_fails_has_its_own_error_and_goes_elsewhere(ask: Ask) -> None:
    async with client(ollama(Box("other")), far()) as llm:
        reply = await ask(llm)
    assert isinstance(reply.attempts[0].error, ModelNotFound)
    assert reply.text == "far"


@REAL
async def test_where_nobody_is_a_load_fails_like_a_call(ask: Ask) -> None:
    with FakeOllama() as server:
        backend = Ollama("llama3.2", base_url=server.url)
    async with AsyncClient(Route(backend, retry=ONCE)) as llm:
        await error_of(ask(llm), ConnectFailed)
        await error_of(llm.warm_up(), ConnectFailed)


@REAL
async def test_a_server_that_does_not_even_say_what_it_holds_hangs_and_does_not_load(ask: Ask) -> None:
    """It takes connections, and nothing else: to wait for a load there would be to wait for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = Ollama("llama3.2", base_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        route = Route(backend, timeouts=Timeouts(load=60, first_token=0.3), retry=ONCE)
        async with AsyncClient(route) as llm:
            with anyio.fail_after(20):
                await error_of(ask(llm, timeout=50), FirstTokenTimeout)


async def test_what_a_fake_backend_loads_survives_its_caller_too() -> None:
    llm = client(FakeBackend(say("yes"), loads=0.2))
    with anyio.move_on_after(0.1):
        await llm.chat("hi")
    await anyio.sleep(0.15)
    assert (await llm.chat("hi")).timings.load == 0
