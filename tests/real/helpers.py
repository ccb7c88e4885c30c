"""What the tests through our client share: routes to the real servers, and waiting for what a server does by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import httpx2
import pytest

from resilient_llm import DeadlineExceeded, Ollama, OpenAICompatible

from .conftest import KEY
from .llamacpp import Server as Llama
from .ollama import Server as OllamaServer

ENDLESS = {"ignore_eos": True}  # llama.cpp then goes on until the window is full: one to two seconds
SLACK = 0.25  # seconds that a deadline may be missed by on a machine that runs two servers beside the test
AUTH = {"Authorization": f"Bearer {KEY}"}
LOST = (
    "Ollama lost the slot of an answer that was broken off: its handler waits for ever to hand on a token that nobody"
    " takes (ollama/ollama#17131; seen in its goroutines), and a client that is not ours is not served either"
)


def to_llama(server: Llama, model: str = "scripted", **options: Any) -> OpenAICompatible:
    return OpenAICompatible(model, base_url=f"{server.url}/v1", api_key=KEY, **options)


def to_ollama(server: OllamaServer, model: str = "scripted", **options: Any) -> Ollama:
    return Ollama(model, base_url=server.url, **options)


def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def busy_slots(server: Llama) -> int:
    slots = httpx2.get(f"{server.url}/slots", headers=AUTH, timeout=10).json()
    return sum(slot["is_processing"] for slot in slots)


def in_memory(server: OllamaServer) -> set[str]:
    """The models that Ollama lists; those that it is still loading are among them."""
    return {one["name"].removesuffix(":latest") for one in httpx2.get(f"{server.url}/api/ps").json()["models"]}


async def unload(server: OllamaServer, model: str) -> None:
    """Puts a model out of memory, as another program on the machine may do at any time."""
    body = {"model": model, "messages": [], "keep_alive": 0}
    httpx2.post(f"{server.url}/api/chat", json=body, timeout=10).raise_for_status()
    await eventually(lambda: model not in in_memory(server))


async def stop_next_runner(server: OllamaServer) -> int:
    """Stops the next runner that Ollama starts, before it has loaded its model; `SIGCONT` lets it go on."""
    known = set(server.runners())
    await eventually(lambda: set(server.runners()) - known)
    (runner,) = set(server.runners()) - known
    os.kill(runner, signal.SIGSTOP)
    return runner


def connections(server: OllamaServer) -> int:
    """The connections to the server that a client holds open, as the kernel has them."""
    port = f":{int(server.url.rpartition(':')[2]):04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(port) and row[3] == "01" for row in rows)  # 01: established


def answers(server: OllamaServer, model: str) -> bool:
    """Whether the server answers a client that is not ours within three seconds; it takes it 0.3 with a load."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 1}}
    try:
        return httpx2.post(f"{server.url}/api/chat", json=body | {"stream": False}, timeout=3).is_success
    except httpx2.TimeoutException:
        return False


def signal_runners(server: OllamaServer, sent: signal.Signals) -> None:
    for runner in server.runners():
        os.kill(runner, sent)


def give_lost_slots_back(server: OllamaServer) -> None:
    """Of the answers of so fast a model that are broken off, Ollama loses the slot of about one in a hundred."""
    if not all(answers(server, model) for model in in_memory(server)):
        signal_runners(server, signal.SIGKILL)


@asynccontextmanager
async def served_once_more(server: OllamaServer, model: str) -> AsyncIterator[None]:
    """A call that has to be served after another one was broken off.

    If it is not, it is our fault as long as a connection of ours is open or another client is served.
    """
    try:
        yield
    except DeadlineExceeded:
        await eventually(lambda: connections(server) == 0)
        if await anyio.to_thread.run_sync(answers, server, model):
            raise
        give_lost_slots_back(server)
        pytest.xfail(LOST)


async def eventually(true: Callable[[], object], within: float = 5.0) -> None:
    """Returns when it is true. A real server tells nobody when it has noticed something: it has to be asked."""
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, f"not within {within:g} s"
        await anyio.sleep(0.005)
