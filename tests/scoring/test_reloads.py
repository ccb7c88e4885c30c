"""Whatever a client of ours does with its model, it is the same to the server: nothing of it loads the model again."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import anyio
import httpx2
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from resilient_llm import AsyncClient, Bulkhead, Ollama, Route
from resilient_llm.errors import LLMError
from resilient_llm.testing import OllamaModel, Pulled, Settings

RUNS, CALLS = 60, 20
SEES = ("completion", "tools", "thinking", "vision")


class City(BaseModel):
    name: str


def get_weather(city: str) -> str:
    """The weather in a city."""
    return city


def backend_of(chance: Random, host: OllamaModel, number: int) -> Ollama:
    """Options as a user may set them, for good."""
    options = {"num_thread": 2, "num_batch": 256, "num_gpu": 20, "use_mmap": False, "top_k": 3, "temperature": 0.5}
    return Ollama(
        "mine",
        base_url=f"http://127.0.0.1:{10_000 + number}",
        num_ctx=chance.choice((None, 4096, 6000)),
        options=dict(chance.sample(sorted(options.items()), chance.randint(0, 3))),
        keep_alive=chance.choice((None, -1, "30m", 600)),
        shift=chance.choice((False, None, True)),
        http_client=httpx2.AsyncClient(transport=host.transport()),
    )


async def call(chance: Random, llm: AsyncClient) -> None:
    """One thing that can be asked, in one way."""
    given: dict[str, Any] = {
        "temperature": chance.random(), "seed": chance.randrange(100), "max_tokens": 5, "stop": ["x"],
        "system": "be brief", "tools": [get_weather], "reasoning": "none", "timeout": 100,
    }  # fmt: skip
    chosen = dict(chance.sample(sorted(given.items()), chance.randint(0, 4)))
    prompt = "word " * chance.choice((1, 10, 1500))
    match chance.randrange(6):
        case 0:
            async with llm.stream(prompt, **chosen) as stream:
                await anext(stream)  # and leaves
        case 1:
            chosen.pop("tools", None)
            await llm.parse(prompt, City, **chosen)
        case 2:
            await llm.warm_up()
        case 3:
            await llm.health()
        case 4:
            await anyio.sleep(chance.choice((1, 35, 70)))
        case _:
            await llm.chat(prompt, **chosen)


async def reloads_of(number: int, version: str) -> list[str]:
    chance = Random(f"{version} {number}")
    pulled = Pulled("mine", capabilities=SEES, says=lambda _: ["{", '"name"', ':"x"', "}"])
    settings = Settings(context_length=4096, num_parallel=2)
    host = OllamaModel(pulled, settings=settings, version=version, seed=number)
    route = Route(backend_of(chance, host, number), bulkhead=Bulkhead(3))

    async def caller(llm: AsyncClient) -> None:
        for _ in range(CALLS):
            with suppress(LLMError):  # it does not matter here how a call ends
                await call(chance, llm)

    async with AsyncClient(route, clock=anyio.current_time) as llm, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(caller, llm)
    return [one.why for one in host.loads]


@pytest.mark.parametrize("version", ["0.9.3", "0.15.5", "0.32.15"])
def test_no_option_of_ours_loads_a_model_again(version: str) -> None:
    found: list[list[str]] = []

    async def run(number: int) -> None:
        found.append(await reloads_of(number, version))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(RUNS // 3):
                group.start_soon(run, number)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert found == [["cold"]] * (RUNS // 3)
