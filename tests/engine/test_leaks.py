"""On real sockets: cancelled at any point, a thousand times over, no connection, slot or place in a pool is lost."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from resilient_llm import AsyncClient, CircuitBreaker, Ollama, OpenAICompatible, Retry, Route, Timeouts
from resilient_llm._detached import running_loop
from resilient_llm.testing import (
    FakeOllama,
    FakeOpenAI,
    FakeServer,
    comments,
    cut,
    dribble,
    ends,
    error_line,
    hang,
    malformed,
    reset,
    say,
    slow_close,
    stall,
    status,
)

from .kit import REAL, assert_nothing_held, cancelled_at, left_twice, living_tasks

pytestmark = [pytest.mark.anyio, REAL]
STREAMS = 1000


async def chat(llm: AsyncClient) -> None:
    await llm.chat("hi")


async def stream(llm: AsyncClient) -> None:
    async with llm.stream("hi") as events:
        async for _ in events:
            pass


async def embed(llm: AsyncClient) -> None:
    await llm.embed(["one", "two"])


def hosted(server: FakeServer, **options: object) -> OpenAICompatible:
    return OpenAICompatible("m", base_url=server.url, api_key="k", **options)  # type: ignore[arg-type]


def local(server: FakeServer) -> Ollama:
    return Ollama("llama3.2", base_url=server.url)


async def settled(llm: AsyncClient, *servers: FakeServer) -> None:
    """Nothing is held, no server is being waited for, and every connection that is left is idle."""
    assert_nothing_held(llm)
    for server in servers:
        await anyio.to_thread.run_sync(partial(server.wait_idle, 5.0))
    for leg in llm._legs:
        transport = leg.backend._transport  # type: ignore[attr-defined]
        pools = transport._loops.get(running_loop())
        for pool, _ in pools.by_limit.values() if pools is not None else ():
            assert all(connection.is_idle() for connection in pool.connections), pool.connections
            assert not pool._requests


SERVED = {
    "an answer": (say("a", "b", "c", gap=0.001), say("no")),
    "an error, then an answer": (status(500), say("a", "b", "c", gap=0.001)),
    "a break, then an answer with a slow close": (cut("a"), slow_close("a", "b", seconds=0.2)),
}


@pytest.mark.invariant(1, 40)
@pytest.mark.parametrize("work", [chat, stream, embed])
@pytest.mark.parametrize("served", SERVED)
async def test_a_cancellation_at_every_checkpoint_leaves_no_connection_in_use(
    work: Callable[[AsyncClient], Awaitable[None]], served: str
) -> None:
    first, second = SERVED[served]
    tasks = living_tasks()
    with FakeOllama(first) as near, FakeOpenAI(second) as far:
        async with AsyncClient(
            Route(local(near), retry=Retry(attempts=1), space="s"), Route(hosted(far), space="s"), timeout=5
        ) as llm:
            for number in range(1, 200):
                near.evict()
                if not await cancelled_at(number, work(llm)):  # type: ignore[arg-type]
                    break
                assert_nothing_held(llm)
            await settled(llm, near, far)
    assert 5 < number < 199
    assert living_tasks() <= tasks + 1  # httpcore's pool may end one of its own a moment later


FAULTS = {
    "silence": hang(),
    "headers, then silence": hang(after_headers=True),
    "comments only": comments(gap=0.005),
    "dribble": dribble(0.005),
    "a stall": stall("a"),
    "a clean end": ends("a"),
    "a reset": reset(),
    "garbage": malformed(b"\x00\xff\n\n", after=["a"]),
    "an error in mid-answer": error_line("CUDA error", after=["a"]),
    "a dribbled error": dribble(0.005, status(500)),
    "a refusal for a while": status(429, "slow down", {"Retry-After": "0.01"}),
}


@pytest.mark.invariant(1, 40)
@pytest.mark.parametrize("work", [chat, stream])
async def test_in_every_fault_a_cancellation_or_two_at_every_checkpoint_leave_no_connection_in_use(
    work: Callable[[AsyncClient], Coroutine[Any, Any, None]],
) -> None:
    """All faults at once: what they cost is waiting. The second cancellation comes at once, or one or two later."""
    tasks, limits = living_tasks(), Timeouts(first_token=0.03, between_tokens=0.03)

    async def sweep(fault: str) -> None:
        with FakeOllama(FAULTS[fault]) as near, FakeOpenAI(say("a", "b", gap=0.001)) as far:
            first = Route(local(near), timeouts=limits, breaker=CircuitBreaker(mode="observe_only"))
            async with AsyncClient(first, hosted(far), timeout=5) as llm:
                for twice in (False, True):
                    for number in range(1, 200):
                        doing = work(llm)
                        if not await (left_twice(number, number % 3, doing) if twice else cancelled_at(number, doing)):
                            break
                        assert_nothing_held(llm)
                    assert 5 < number < 199, fault
                await settled(llm, near, far)

    async with anyio.create_task_group() as group:
        for fault in FAULTS:
            group.start_soon(sweep, fault)
    with anyio.move_on_after(5):
        while living_tasks() > tasks:  # what is detached ends by itself
            await anyio.sleep(0.01)
    assert living_tasks() <= tasks


async def impatient(llm: AsyncClient, rng: random.Random, count: int) -> None:
    """So many streams, each left at a random point between its connecting and its end, however fast the machine is."""
    for _ in range(count):
        await cancelled_at(rng.randint(1, 20), stream(llm))


async def leave_many(llm: AsyncClient, count: int) -> None:
    rng, workers = random.Random(4), 16
    async with anyio.create_task_group() as group:
        for _ in range(workers):
            group.start_soon(impatient, llm, rng, count // workers + 1)


async def all_at_once(llm: AsyncClient, count: int) -> None:
    """Succeeds if so many streams can be open at the same time."""
    ready = anyio.Semaphore(0)
    with anyio.fail_after(
        20
    ):  # what is lost stays lost; a connection that a busy kernel drops is made after 1, 3 or 7 s
        async with anyio.create_task_group() as group:

            async def hold() -> None:
                async with llm.stream("hi") as events:
                    await anext(events)
                    ready.release()
                    await anyio.sleep_forever()

            for _ in range(count):
                group.start_soon(hold)
            for _ in range(count):
                await ready.acquire()
            group.cancel_scope.cancel()


# httpx2 leaves a generator of its own to the collector, which closes it; only trio has a word for that.
@pytest.mark.invariant(40)
@pytest.mark.filterwarnings("ignore:Async generator 'httpcore2:ResourceWarning")
async def test_a_thousand_cancelled_streams_lose_no_slot_of_a_users_pool_of_ten() -> None:
    limits = httpx2.Limits(max_connections=10)
    with FakeOpenAI(say(*"abcd", gap=0.001)) as server:
        async with httpx2.AsyncClient(limits=limits) as http:
            llm = AsyncClient(hosted(server, http_client=http))
            await leave_many(llm, STREAMS)
            server.then(stall("a"))
            await all_at_once(llm, 10)
            await anyio.to_thread.run_sync(server.wait_idle)
            assert_nothing_held(llm)
            await llm.aclose()
    assert len(server.chats) > STREAMS / 4  # the others were left before they were sent


@pytest.mark.invariant(40)
async def test_a_thousand_cancelled_streams_leave_nothing_of_our_own_connections_in_use() -> None:
    with FakeOpenAI(say(*"abcd", gap=0.001)) as server:
        async with AsyncClient(hosted(server)) as llm:
            await leave_many(llm, STREAMS)
            await settled(llm, server)
            server.then(stall("a"))
            await all_at_once(llm, 64)
            await settled(llm, server)
    assert len(server.chats) > STREAMS / 4
