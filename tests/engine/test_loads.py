"""Loads of an Ollama: one for all callers, detached from each of them, and never counted as a slow first token."""

from __future__ import annotations

import socket
from functools import partial

import anyio
import anyio.to_thread
import pytest

from resilient_llm import AsyncClient, Bulkhead, DeadlineExceeded, Ollama, OpenAICompatible, Retry, Route, Timeouts
from resilient_llm.errors import ConnectFailed, FirstTokenTimeout, LoadTimeout, ModelNotFound
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, hang, say

from .kit import LATE, REAL, Ask, assert_nothing_held, client, error_of

pytestmark = [pytest.mark.anyio, REAL]
LOAD = 0.2  # seconds that the fake server takes


def local(server: FakeOllama, **options: object) -> Route:
    return Route(Ollama("llama3.2", base_url=server.url), **options)  # type: ignore[arg-type]


async def loaded(server: FakeOllama) -> None:
    await anyio.to_thread.run_sync(partial(server.wait_for, lambda: server.loads.completed == 1))


async def test_a_cold_model_is_loaded_first_and_then_asked(ask: Ask) -> None:
    with FakeOllama(say("yes"), load=0.1) as server:
        async with AsyncClient(local(server)) as llm:
            reply = await ask(llm)
            assert reply.text == "yes"
            asked = [one.path if one.kind == "other" else one.kind for one in server.requests]
            assert asked == ["/api/ps", "load", "/api/ps", "/api/version", "chat"]
            assert reply.timings.load >= 0.1
            assert reply.attempts[0].load == reply.timings.load
            assert (reply.attempts[0].first_token or 0) < reply.timings.load + LATE


async def test_a_warm_model_is_asked_at_once(ask: Ask) -> None:
    with FakeOllama(say("yes")) as server:
        async with AsyncClient(local(server)) as llm:
            await ask(llm)
            before = len(server.requests)
            reply = await ask(llm)
            assert [one.kind for one in server.requests[before:]] == ["chat"]
            assert reply.attempts[0].load is None
            assert reply.timings.load == 0


async def test_the_first_token_limit_counts_from_when_the_model_is_in_memory(ask: Ask) -> None:
    with FakeOllama(say("yes"), load=0.6) as near, FakeOpenAI(say("no")) as far:
        async with AsyncClient(
            local(near, timeouts=Timeouts(load=20, first_token=0.5)),
            OpenAICompatible("m", base_url=far.url, api_key="k"),
        ) as llm:
            reply = await ask(llm, timeout=20)
            assert (reply.text, len(reply.attempts)) == ("yes", 1)  # the load alone is no reason to go elsewhere
            assert far.connections == 0


async def test_a_first_token_that_is_late_after_the_load_is_still_late(ask: Ask) -> None:
    with FakeOllama(hang(), load=LOAD) as server:
        limits = Timeouts(load=20, first_token=0.2)
        async with AsyncClient(local(server, timeouts=limits, retry=Retry(attempts=1))) as llm:
            began = anyio.current_time()
            error = await error_of(ask(llm, timeout=20), FirstTokenTimeout)
            assert LOAD + 0.2 <= anyio.current_time() - began <= LOAD + 0.2 + LATE
            assert error.attempts[0].load >= LOAD


@pytest.mark.invariant(36)
async def test_five_impatient_callers_are_one_load_and_none_of_them_aborts_it() -> None:
    with FakeOllama(say("yes"), load=2 * LOAD) as server:
        async with AsyncClient(local(server, bulkhead=Bulkhead(5))) as llm:

            async def impatient(seconds: float) -> None:
                with anyio.move_on_after(seconds):
                    await llm.chat("hi")

            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(impatient, 0.03 * (number + 1))
            assert_nothing_held(llm)
            assert (server.loads.started, server.loads.completed) == (1, 0)
            await loaded(server)
            assert (await llm.chat("hi")).text == "yes"
            assert server.loads.started == 1
            assert [one.kind for one in server.requests if one.kind != "other"] == ["load", "chat"]


@pytest.mark.invariant(36)
async def test_five_patient_callers_share_one_load() -> None:
    with FakeOllama(say("yes"), load=LOAD) as server:
        async with AsyncClient(local(server, bulkhead=Bulkhead(5))) as llm:
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(llm.chat, "hi")
            assert (server.loads.started, server.loads.completed) == (1, 1)
            assert [one.kind for one in server.requests if one.kind != "other"] == ["load", *["chat"] * 5]


async def test_a_load_longer_than_its_limit_goes_on_while_the_next_route_answers(ask: Ask) -> None:
    with FakeOllama(say("near"), load=LOAD) as near, FakeOpenAI(say("far")) as far:
        async with AsyncClient(
            local(near, timeouts=Timeouts(load=0.1)), OpenAICompatible("m", base_url=far.url, api_key="k")
        ) as llm:
            reply = await ask(llm, timeout=20)
            assert reply.text == "far"
            assert [type(one.error) for one in reply.attempts] == [LoadTimeout, type(None)]
            await loaded(near)
            assert (await ask(llm)).text == "near"
            assert near.loads.started == 1


async def test_a_deadline_ends_the_wait_for_a_load_but_not_the_load(ask: Ask) -> None:
    with FakeOllama(say("yes"), load=LOAD) as server:
        async with AsyncClient(local(server)) as llm:
            error = await error_of(ask(llm, timeout=0.1), DeadlineExceeded)
            assert error.phase == "load"
            await loaded(server)
            assert (await ask(llm)).text == "yes"
            assert server.loads.started == 1


async def test_closing_the_client_ends_a_load_that_is_under_way() -> None:
    with FakeOllama(say("yes"), load=60) as server:
        async with AsyncClient(local(server)) as llm:
            await error_of(llm.chat("hi", timeout=0.1), DeadlineExceeded)
            assert server.active == 1
        await anyio.to_thread.run_sync(server.wait_idle)
        assert server.loads.completed == 0


async def test_a_warm_up_loads_once_and_sends_no_prompt() -> None:
    with FakeOllama(say("yes")) as near, FakeOpenAI() as far:
        async with AsyncClient(local(near), OpenAICompatible("m", base_url=far.url, api_key="k")) as llm:
            await llm.warm_up()
            assert (near.loads.completed, near.chats, far.connections) == (1, [], 0)
            await llm.chat("hi")
            assert near.loads.started == 1


async def test_a_warm_up_that_takes_too_long_says_so_and_its_load_goes_on() -> None:
    with FakeOllama(say("yes"), load=LOAD) as server:
        async with AsyncClient(local(server, timeouts=Timeouts(load=0.1))) as llm:
            error = await error_of(llm.warm_up(), LoadTimeout)
            assert error.route == "ollama:llama3.2"
            await loaded(server)


async def test_a_server_that_does_not_even_say_what_it_holds_hangs_and_does_not_load(ask: Ask) -> None:
    """It takes connections, and nothing else: to wait for a load there would be to wait for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = Ollama("llama3.2", base_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        route = Route(backend, timeouts=Timeouts(load=60, first_token=0.3), retry=Retry(attempts=1))
        async with AsyncClient(route) as llm:
            with anyio.fail_after(20):
                await error_of(ask(llm, timeout=50), FirstTokenTimeout)


async def test_an_eviction_is_found_out_after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient_llm.backends._ollama_memory.RESIDENT", 0.0)
    with FakeOllama(say("yes"), load=0.1) as server:
        async with AsyncClient(local(server)) as llm:
            await llm.chat("hi")
            server.evict()
            reply = await llm.chat("hi")
            assert server.loads.started == 2
            assert reply.timings.load >= 0.1


async def test_a_load_that_fails_has_its_own_error_and_goes_elsewhere(ask: Ask) -> None:
    with FakeOllama(models=["other"]) as near:
        async with AsyncClient(local(near), FakeBackend(say("far"), name="far")) as llm:
            reply = await ask(llm)
            assert isinstance(reply.attempts[0].error, ModelNotFound)
            assert reply.text == "far"
    async with AsyncClient(local(near, retry=Retry(attempts=1))) as llm:  # nobody is there any more
        await error_of(ask(llm), ConnectFailed)
        await error_of(llm.warm_up(), ConnectFailed)


async def test_what_a_fake_backend_loads_survives_its_caller_too() -> None:
    llm = client(FakeBackend(say("yes"), loads=0.2))
    with anyio.move_on_after(0.1):
        await llm.chat("hi")
    await anyio.sleep(0.15)
    assert (await llm.chat("hi")).timings.load == 0
