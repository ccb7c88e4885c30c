"""A day of an office with one box: ten thousand calls, three models, impatience, other programs, faults."""

from __future__ import annotations

import math
import time
from random import Random

import pytest

from resilient_llm.testing import Fault, Machine, OllamaModel, Pulled, Settings
from resilient_llm.testing._host.facts import GIB
from resilient_llm.testing._host.job import Exchange

from .drive import chat, embed

CALLS, DAY = 10_000, 86_400.0
SECONDS = 30.0  # of our time, for a day of theirs
ANSWER = [f"{at} " for at in range(2000)]
FAULTS = [
    Fault(name, after=5, chance=0.001) for name in ("ends", "crashes", "error line", "stalls", "reset", "load fails")
]
MODELS = ("small", "large", "bge")


def office(seed: int) -> OllamaModel:
    models = (
        Pulled("small", size=2 * GIB, decode=150.0, prefill=6000.0, says=lambda _: ANSWER),
        Pulled("large", size=14 * GIB, says=lambda _: ANSWER),
        Pulled("bge", size=GIB, capabilities=("embedding",)),
    )
    host = OllamaModel(*models, machine=Machine(vram=20 * GIB), settings=Settings(num_parallel=4, context_length=8192),
                       faults=FAULTS, seed=seed)  # fmt: skip
    for hour in range(24):  # another program, which wants its own window
        body = {"model": "small", "prompt": "report", "options": {"num_ctx": 2048, "num_predict": 50}}
        host.also(3600 * hour, "/api/generate", body)
    return host


def arrivals(chance: Random) -> list[float]:
    """Most of them in the middle of the day."""
    found: list[float] = []
    while len(found) < CALLS:
        at = chance.uniform(0, DAY)
        if chance.random() < 0.1 + 0.9 * math.sin(math.pi * at / DAY) ** 2:
            found.append(at)
    return sorted(found)


def ask(host: OllamaModel, chance: Random) -> Exchange:
    size = 4 * round(min(chance.lognormvariate(5.5, 1.2), 12_000))
    text = chance.choice(MODELS) * (size // 5)
    limit = round(min(chance.lognormvariate(3.2, 0.8), 800))
    model = chance.choices(MODELS, (6, 1, 3))[0]
    if model == "bge":
        return embed(host, text[:4000], model=model)
    return chat(host, text, model=model, stream=chance.random() < 0.8, options={"num_predict": limit})


def live_through(seed: int) -> tuple[OllamaModel, list[Exchange]]:
    host, chance, asked, impatient = office(seed), Random(seed), [], []
    for at in arrivals(chance):
        while impatient and impatient[0][0] < at:
            host.advance(impatient[0][0])
            host.hang_up(impatient.pop(0)[1])
        host.advance(at)
        asked.append(ask(host, chance))
        impatient.append((at + 60, asked[-1]))
    host.advance(DAY + 60)
    for _, exchange in impatient:
        host.hang_up(exchange)
    host.advance(DAY + 3600)
    return host, asked


@pytest.fixture(scope="module")
def day() -> tuple[OllamaModel, list[Exchange], float]:
    began = time.process_time()
    host, asked = live_through(1)
    return host, asked, time.process_time() - began


def test_it_takes_less_than_half_a_minute(day: tuple[OllamaModel, list[Exchange], float]) -> None:
    host, asked, seconds = day
    assert len(asked) == CALLS
    assert sum(one.output for one in host.log) > 200_000  # tokens, each a line
    assert seconds < SECONDS


def test_every_call_ends_and_its_phases_are_its_time(day: tuple[OllamaModel, list[Exchange], float]) -> None:
    host, asked, _ = day
    assert all(one.over for one in asked)
    for truth in host.log:
        assert truth.ended is not None
        if truth.outcome == "complete":
            parts = (truth.pending, truth.load, truth.ping, truth.overhead, truth.slot, truth.prefill, truth.decode)
            assert sum(parts) == pytest.approx(truth.total, abs=1e-6)
            assert 0 <= truth.cached < max(truth.kept, 1) + 1
            assert truth.kept <= (truth.window or 0)
    kinds = {one.outcome for one in host.log}
    assert kinds == {"complete", "disconnected", "broken", "failed"}
    assert sum(one.outcome == "complete" for one in host.log) > 0.8 * CALLS


def test_nothing_is_left_behind(day: tuple[OllamaModel, list[Exchange], float]) -> None:
    host, _, _ = day
    assert (host.active, host.loaded) == (0, ())
    assert all(load.ended is not None for load in host.loads)
    reasons = {load.why.partition(":")[0] for load in host.loads}
    assert {"cold", "num_ctx", "the runner had died"} <= reasons
