"""One async client on one event loop after another: it works on each, and a loop that is over leaves no socket."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, Ollama
from resilient_llm._loops import here
from resilient_llm.testing import FakeOllama, say

RUNS = pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda main: asyncio.run(main()), id="asyncio.run"),
        pytest.param(lambda main: anyio.run(main, backend="trio"), id="trio"),
    ],
)


def sockets_to(server: FakeOllama) -> int:
    """Our ends of connections to it, from the kernel's own table."""
    port = int(server.url.rpartition(":")[2])
    ours = set()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) == port:
            ours.add(f"socket:[{fields[9]}]")
    return sum(_target(entry) in ours for entry in Path("/proc/self/fd").iterdir())


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:
        return ""


@RUNS
def test_a_client_works_on_two_loops_in_turn_without_being_closed(run: Callable[[Any], Any]) -> None:
    with FakeOllama() as server:
        llm = AsyncClient(Ollama("llama3.2", base_url=server.url))

        async def main() -> tuple[str, int]:
            reply = await llm.chat("hi")
            return reply.text, sockets_to(server)

        for _ in range(3):
            assert run(main) == ("You said: hi", 1)
            assert sockets_to(server) == 0
        assert server.connections >= 3


def test_a_loop_that_was_only_closed_loses_its_sockets_at_the_next_use() -> None:
    """`loop.close()` alone ends nothing that was open on it."""
    with FakeOllama() as server:
        llm = AsyncClient(Ollama("llama3.2", base_url=server.url))

        async def main() -> int:
            await llm.chat("hi")
            return sockets_to(server)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # asyncio's own, for transports of a loop that was left
            for _ in range(3):
                loop = asyncio.new_event_loop()
                assert loop.run_until_complete(main()) == 1
                loop.close()
            assert asyncio.run(main()) == 1
            gc.collect()
        assert sockets_to(server) == 0


def test_two_loops_at_once_have_connections_of_their_own() -> None:
    with FakeOllama(say("slow", first=0.2)) as server:
        llm = AsyncClient(Ollama("llama3.2", base_url=server.url))
        ready, answers = threading.Barrier(2), []

        async def main() -> None:
            ready.wait(5)
            answers.append((await llm.chat("hi")).text)

        threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert answers == ["slow", "slow"]
        # One local slot for both loops: who waits for it is woken on its own loop when the other gives it back.
        first, second = sorted(server.chats, key=lambda chat: chat.started)
        assert second.started >= first.finished


@RUNS
def test_a_callback_runs_in_no_context_but_the_loop_s(run: Callable[[Any], Any]) -> None:
    """What wakes it may stand in a block of its own, under a deadline, or on another kind of event loop."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[str] = []

    async def main() -> None:
        soon, done = here(), anyio.Event()

        def callback() -> None:
            seen.append(variable.get())
            done.set()

        def elsewhere() -> None:
            variable.set("of another thread")
            soon(callback)

        threading.Thread(target=elsewhere).start()
        with anyio.fail_after(5):
            await done.wait()

    run(main)
    assert seen == ["unset"]
