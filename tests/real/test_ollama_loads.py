"""Our client and the loads of a real Ollama: who waits for them, under which limit, and that nobody aborts them.

A load takes 0.3 s here. A test that needs longer stops the new runner: Ollama then waits for it, like for a large model
on a slow disk.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import anyio
import pytest

from resilient_llm import AsyncClient, DeadlineExceeded, Route, Timeouts
from resilient_llm.errors import LoadTimeout

from .conftest import NARROW
from .helpers import eventually, in_memory, stop_next_runner, to_llama, to_ollama, unload
from .llamacpp import Server as Llama
from .ollama import Server
from .script import CONTEXT, SCRIPT

pytestmark = pytest.mark.anyio
NOTICED = 0.5  # seconds after which Ollama has aborted a load if it was going to


@pytest.fixture(autouse=True)
def every_runner_goes_on(ollama_server: Server) -> Iterator[None]:
    yield
    for runner in ollama_server.runners():
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            os.kill(runner, signal.SIGCONT)


async def test_a_warm_up_brings_the_model_into_memory_and_the_next_call_finds_it_there(ollama_server: Server) -> None:
    await unload(ollama_server, "scripted")
    before = set(ollama_server.runners())
    async with AsyncClient(to_ollama(ollama_server)) as llm:
        await llm.warm_up()
        assert "scripted" in in_memory(ollama_server)
        (runner,) = set(ollama_server.runners()) - before
        reply = await llm.chat("hi", temperature=0)
    assert reply.text == SCRIPT
    assert runner in ollama_server.runners()


async def test_a_load_has_a_limit_of_its_own_and_its_time_is_told_apart(ollama_server: Server) -> None:
    await unload(ollama_server, "scripted")
    route = Route(to_ollama(ollama_server), timeouts=Timeouts(first_token=1))

    async def hold() -> None:
        runner = await stop_next_runner(ollama_server)
        await anyio.sleep(1.5)  # longer than a first token may take
        os.kill(runner, signal.SIGCONT)

    async with AsyncClient(route) as llm, anyio.create_task_group() as group:
        group.start_soon(hold)
        reply = await llm.chat("hi", temperature=0)
    assert (reply.text, len(reply.attempts)) == (SCRIPT, 1)
    assert reply.timings.load > 1.4
    assert (reply.timings.first_token or 2) < 1


async def test_callers_that_wait_for_a_load_share_it_and_the_impatient_one_does_not_abort_it(
    ollama_server: Server,
) -> None:
    """Ollama aborts a load whose caller hangs up, and the next caller starts it anew: see `test_servers_speak`."""
    await unload(ollama_server, "scripted")
    runners: list[int] = []
    errors: list[DeadlineExceeded] = []
    replies: list[str] = []
    async with AsyncClient(to_ollama(ollama_server)) as llm, anyio.create_task_group() as group:

        async def hold() -> None:
            runners.append(await stop_next_runner(ollama_server))

        async def impatient() -> None:
            with pytest.raises(DeadlineExceeded) as caught:
                await llm.chat("hi", timeout=0.8)
            errors.append(caught.value)
            await anyio.sleep(NOTICED)
            os.kill(runners[0], signal.SIGCONT)

        async def patient() -> None:
            with anyio.fail_after(10):
                await eventually(lambda: runners)
                replies.append((await llm.chat("hi", temperature=0)).text)

        for one in (hold, impatient, patient):
            group.start_soon(one)
    assert errors[0].phase == "load"
    assert replies == [SCRIPT]
    assert runners[0] in ollama_server.runners()  # the load that was begun is the one that was completed


async def test_a_load_longer_than_its_limit_goes_on_while_another_route_answers(
    ollama_server: Server, llama: Llama
) -> None:
    await unload(ollama_server, "scripted")
    slow = Route(to_ollama(ollama_server), timeouts=Timeouts(load=0.8))
    async with AsyncClient(slow, Route(to_llama(llama), name="other")) as llm, anyio.create_task_group() as group:
        runners: list[int] = []

        async def hold() -> None:
            runners.append(await stop_next_runner(ollama_server))

        group.start_soon(hold)
        reply = await llm.chat("hi", temperature=0)
        assert (reply.text, reply.route) == (SCRIPT, "other")
        assert [type(one.error) for one in reply.attempts] == [LoadTimeout, type(None)]
        await anyio.sleep(NOTICED)
        os.kill(runners[0], signal.SIGCONT)
        assert (await llm.chat("hi", temperature=0)).route == "ollama:scripted"
    assert runners[0] in ollama_server.runners()


async def test_another_window_is_a_load_and_the_same_one_is_none(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server)) as llm:  # with the server's own window
        wide = (await llm.chat("hi", temperature=0)).served_by.window
    before = set(ollama_server.runners())
    async with AsyncClient(to_ollama(ollama_server, num_ctx=NARROW)) as llm:
        first = await llm.chat("hi", temperature=0)
    (runner,) = set(ollama_server.runners()) - before
    async with AsyncClient(to_ollama(ollama_server, options={"num_ctx": NARROW})) as llm:
        second = await llm.chat("hi", temperature=0)
    assert (wide, first.served_by.window, second.served_by.window) == (CONTEXT, NARROW, NARROW)
    assert runner in ollama_server.runners()
    assert first.timings.load > (first.timings.first_token or 0)  # the reload was waited for as a load
    assert second.timings.load < first.timings.load


async def test_a_model_that_another_program_unloaded_is_loaded_again_as_a_load(ollama_server: Server) -> None:
    minutes = 0.0
    async with AsyncClient(to_ollama(ollama_server), clock=lambda: anyio.current_time() + 60 * minutes) as llm:
        await llm.chat("hi", temperature=0)
        await unload(ollama_server, "scripted")
        minutes = 2  # after which nobody takes its being there for granted
        reply = await llm.chat("hi", temperature=0)
    assert reply.text == SCRIPT
    assert reply.timings.load > (reply.timings.first_token or 0)
