"""Work that outlives the call which started it: nobody loses it, nobody is hurt by it, and closing ends it."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings

import anyio
import pytest

from resilient_llm import AsyncClient, Ollama, deadline, local_only
from resilient_llm._deadline import _AMBIENT
from resilient_llm._detached import GRACE, Detached
from resilient_llm._zones import ambient_limit
from resilient_llm.testing import FakeOllama, stall


@pytest.mark.anyio
async def test_it_goes_on_when_the_call_that_started_it_is_cancelled() -> None:
    detached, ran = Detached(), anyio.Event()

    async def work() -> None:
        await anyio.sleep(0.05)
        ran.set()

    with anyio.move_on_after(0.01) as scope:
        detached.spawn(work)
        await anyio.sleep(10)
    assert scope.cancelled_caught
    with anyio.fail_after(2):
        await ran.wait()


@pytest.mark.anyio
async def test_no_exception_escapes_and_who_waits_can_see_it() -> None:
    async def work() -> None:
        raise ValueError("mine")

    job = Detached().spawn(work)
    with anyio.fail_after(2):
        await job.done.wait()
    assert isinstance(job.error, ValueError)
    await anyio.sleep(0.01)  # asyncio tells of an exception that nobody took when the task is collected
    del job
    gc.collect()


@pytest.mark.anyio
async def test_what_is_set_around_the_call_that_began_it_is_not_set_in_it() -> None:
    """A deadline of the first caller's would end what the hook of a wedged runner asks, minutes later."""
    seen: list[object] = []

    async def work() -> None:
        seen.extend((_AMBIENT.get(), ambient_limit()))

    with deadline(0.001), local_only():
        job = Detached().spawn(work)
    with anyio.fail_after(2):
        await job.done.wait()
    assert seen == [None, None]


@pytest.mark.anyio
async def test_it_is_held_while_it_runs_and_let_go_afterwards() -> None:
    """asyncio holds its tasks only weakly: one that waits for what only it knows would be collected in the middle."""
    detached, ended = Detached(), []

    async def work() -> None:
        try:
            await anyio.Event().wait()
        finally:
            ended.append(1)

    detached.spawn(work)
    await anyio.sleep(0.01)
    gc.collect()
    await anyio.sleep(0.01)
    assert ended == []
    await detached.aclose()
    assert ended == [1]
    assert not detached._jobs


@pytest.mark.anyio
async def test_closing_waits_for_what_tidies_up_but_not_for_ever() -> None:
    detached, tidied = Detached(), []

    async def tidy() -> None:
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
                tidied.append(1)

    leave = anyio.Event()

    async def deaf() -> None:
        with anyio.CancelScope(shield=True):
            await leave.wait()

    detached.spawn(tidy)
    deaf_job = detached.spawn(deaf)
    await anyio.sleep(0.01)
    began = time.monotonic()
    await detached.aclose()
    assert 0.1 <= time.monotonic() - began < GRACE + 0.3
    assert tidied == [1]
    leave.set()
    with anyio.fail_after(2):
        await deaf_job.done.wait()


@pytest.mark.anyio
async def test_what_is_cancelled_before_it_began_does_not_run_on() -> None:
    detached, passed = Detached(), []

    async def work() -> None:
        await anyio.sleep(0)
        passed.append(1)

    job = detached.spawn(work)
    job.cancel()
    with anyio.fail_after(2):
        await job.done.wait()
    assert passed == []


@pytest.mark.anyio
async def test_closing_leaves_alone_what_another_loop_runs() -> None:
    detached, elsewhere = Detached(), []

    async def other() -> None:
        async def work() -> None:
            await anyio.sleep(0.2)
            elsewhere.append(1)

        job = detached.spawn(work)
        await job.done.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, lambda: asyncio.run(other()))
        await anyio.sleep(0.1)
        await detached.aclose()
    assert elsewhere == [1]


@pytest.mark.parametrize(
    "run", [asyncio.run, lambda main: anyio.run(lambda: main, backend="trio")], ids=["asyncio", "trio"]
)
def test_a_stream_that_is_dropped_hangs_up_on_a_loop_that_is_not_anyio_s_own(run) -> None:
    """Its finaliser runs in no task, where anyio does not see that asyncio is running."""

    async def main(url: str) -> None:
        llm = AsyncClient(Ollama("llama3.2", base_url=url))
        stream = llm.stream("hi")
        await stream.__aenter__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del stream
        assert llm.snapshot()["ollama:llama3.2"]["bulkhead"].inflight == 0
        await anyio.to_thread.run_sync(lambda: server.wait_for(lambda: server.chats[0].ended == "disconnected"))
        await llm.aclose()

    with FakeOllama(stall("a")) as server:
        run(main(server.url))
