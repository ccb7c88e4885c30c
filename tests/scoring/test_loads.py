"""Is it a load or a hang? Ollama sends nothing in either; the library says, and the truth log knows.

A thousand runs, each a server and a client of its own with a model that takes 0.6 to 60 s into memory: cold, put out by
another program, or killed while the client takes it to be there; and in half of them the answer then hangs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import anyio
import httpx2
import trio
from trio.testing import MockClock

from resilient_llm import AsyncClient, Ollama, Retry, Route, Timeouts
from resilient_llm.errors import FirstTokenTimeout, LLMError
from resilient_llm.events import AttemptEnded
from resilient_llm.testing import Fault, Machine, OllamaModel, Pulled, Settings

RUNS = 1000
GIB = 2**30
LATE = 2.5  # seconds by which a load may seem shorter or longer: it is noticed after one, and looked at once a second


@dataclass(frozen=True)
class Case:
    """What happens in one run.

    Attributes:
        version: of Ollama; before 0.10 it tells no window, and lists what is still loading.
        before: what happens to the model before it is asked.
        hangs: how the request hangs once its model is there, or not at all.
        load: seconds that the model takes into memory.
        first_token: the limit, in seconds, which is shorter than most loads.
        num_ctx: of the backend.
        streams: it is asked by `stream`, not by `chat`.
    """

    version: str
    before: str
    hangs: str
    load: float
    first_token: float
    num_ctx: int | None
    streams: bool

    @classmethod
    def drawn(cls, chance: Random) -> Case:
        return cls(
            chance.choice(("0.9.3", "0.32.15")),
            chance.choice(("cold", "warm", "put out", "put out long ago", "killed", "unloaded")),
            chance.choice(("", "", "stalls", "hang")),
            math.exp(chance.uniform(math.log(0.6), math.log(60))),
            chance.choice((3.0, 5.0)),
            chance.choice((None, 4096)),
            chance.random() < 0.5,
        )


def host_of(case: Case, seed: int) -> OllamaModel:
    size = 8 * GIB  # of which one fits
    machine = Machine(vram=12 * GIB, disk=size / (case.load - 0.5), cached=size / (case.load - 0.5))
    models = (Pulled("mine", size=size, says=lambda _: ["ok"]), Pulled("other", size=size, says=lambda _: ["ok"]))
    return OllamaModel(
        *models, machine=machine, settings=Settings(context_length=4096), version=case.version, seed=seed
    )


async def prepare(case: Case, host: OllamaModel, llm: AsyncClient) -> None:
    """Brings the model to where it is when it is asked."""
    if case.before == "cold":
        return
    await llm.chat("hi")
    if case.before.startswith("put out"):
        body = {"model": "other", "messages": [{"role": "user", "content": "hi"}]}
        host.also(anyio.current_time(), "/api/chat", body)
        await anyio.sleep(90 + case.load if case.before == "put out long ago" else 1)
    elif case.before == "killed":
        host.kill("mine")
    elif case.before == "unloaded":
        host.also(anyio.current_time(), "/api/chat", {"model": "mine", "messages": [], "keep_alive": 0})
        await anyio.sleep(1)


async def ask(case: Case, llm: AsyncClient) -> LLMError | None:
    try:
        if not case.streams:
            await llm.chat("hi")
        else:
            async with llm.stream("hi") as stream:
                async for _ in stream:
                    pass
    except LLMError as error:
        return error
    return None


async def wrong_with(seed: int) -> tuple[Case, str | None]:
    """What the library took for something else, in one run."""
    case = Case.drawn(Random(seed))
    host = host_of(case, seed)
    http = httpx2.AsyncClient(transport=host.transport())
    backend = Ollama("mine", num_ctx=case.num_ctx, base_url=f"http://127.0.0.1:{10_000 + seed}", http_client=http)
    limits = Timeouts(load=170, first_token=case.first_token)
    route = Route(backend, name="mine", timeouts=limits, retry=Retry(attempts=1))
    ended: list[AttemptEnded] = []
    listen = lambda event: ended.append(event) if isinstance(event, AttemptEnded) else None  # noqa: E731
    async with AsyncClient(route, clock=anyio.current_time, on_event=listen) as llm:
        await prepare(case, host, llm)
        if case.hangs:
            host.inject(Fault("stalls" if case.before != "warm" else case.hangs, model="mine", times=1))
        began = anyio.current_time()
        error = await ask(case, llm)
        failures = llm.snapshot()["mine"]["breaker"].failures
    attempt = ended[-1].attempt
    loaded = max((one.ended or 0.0 for one in host.loads if one.model == "mine:latest"), default=0.0)
    loading = max(loaded - began, 0.0)
    if type(error) is not (FirstTokenTimeout if case.hangs else type(None)):
        return case, f"{error!r}"
    if abs((attempt.load or 0.0) - loading) > LATE:
        return case, f"{attempt.load} s of load instead of {loading:.1f}"
    if case.hangs and abs(attempt.total - loading - case.first_token) > LATE:
        return case, f"a hang of {attempt.total - loading:.1f} s instead of {case.first_token}"
    if failures != bool(case.hangs):
        return case, f"{failures} failures in the eyes of the breaker"
    return case, None


def test_no_load_is_taken_for_a_hang_and_no_hang_for_a_load() -> None:
    found: list[tuple[Case, str | None]] = []

    async def run(seed: int) -> None:
        found.append(await wrong_with(seed))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for seed in range(RUNS):
                group.start_soon(run, seed)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len(found) == RUNS
    assert [one for one in found if one[1] is not None] == []
