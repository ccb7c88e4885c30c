"""Fifty workers on real sockets: random faults, random cancellations. `make soak`, two minutes; `--minutes`, `--loop`.

At the end: every call has ended in time with a whole answer or a typed error, nothing is held, no task and no socket
is left, and the memory is where it was after the first quarter. It raises where that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from resilient_llm import AsyncClient, Bulkhead, CircuitBreaker, LLMError, Ollama, OpenAICompatible, Route, Timeouts

from ..engine.kit import assert_nothing_held, living_tasks  # noqa: TID252  # tests are no package that could be named

WORKERS = 50
LATE = 2.0  # seconds over its deadline that a call is allowed, with fifty workers on a machine that others use
PAGE = os.sysconf("SC_PAGE_SIZE")


def memory() -> float:
    """Resident megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def sockets() -> int:
    """Open sockets of this process."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(entry))
    return sum(link.startswith("socket:") for link in links)


@contextlib.contextmanager
def servers() -> Iterator[tuple[list[str], Any]]:
    """The two servers, and the pipe that has them forget what they were asked."""
    command = [sys.executable, "-m", "tests.soak.servers"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(), process.stdin
        finally:
            process.stdin.close()


class Soak:
    """The workers, and what became of their calls."""

    def __init__(self, llm: AsyncClient, seed: int) -> None:
        self.llm, self.seed = llm, seed
        self.ends: Counter[str] = Counter()
        self.latest = 0.0

    async def work(self, number: int) -> None:
        """Calls, one after the other, until it is cancelled."""
        rng = random.Random(f"{self.seed}/{number}")
        while True:
            timeout = rng.choice([0.05, 0.3, 1.0, 3.0])
            began = time.monotonic()
            with anyio.move_on_after(rng.expovariate(1 / 0.2) if rng.random() < 0.3 else 1e9) as scope:
                self.ends[await self._call(rng, timeout)] += 1
            if scope.cancelled_caught:
                self.ends["cancelled"] += 1
            late = time.monotonic() - began - timeout
            await anyio.sleep(0.01)  # a refusal waits for nothing, so that whoever asks again at once would hold up all
            self.latest = max(self.latest, late)
            assert late < LATE, f"a call of {timeout} s ended {late:.2f} s late"

    async def _call(self, rng: random.Random, timeout: float) -> str:
        what = rng.random()
        try:
            if what < 0.1:
                reply = await self.llm.embed(["one", "two"], timeout=timeout)
                assert len(reply.vectors) == 2
                return "embedded"
            if what < 0.6:
                whole((await self.llm.chat("why?", timeout=timeout)).text)
                return "answered"
            async with self.llm.stream("why?", timeout=timeout) as stream:
                leaves = rng.randint(1, 20) if rng.random() < 0.3 else 10**9
                async for event in stream:
                    leaves -= 1
                    if not leaves:
                        return "left"
                    del event
            whole(stream.reply.text)
        except LLMError as error:
            return type(error).__name__
        return "streamed"


def whole(text: str) -> None:
    """The text is all that the server said: it begins with the number of its words."""
    if text == "why?":
        return  # a fault that ends in an echo
    head, *words = text.removesuffix(">").split(" w")
    assert text.endswith(">"), text[-20:]
    assert head == f"<{len(words)}", (head, len(words))


async def soak(minutes: float, seed: int, urls: list[str], forget: Any) -> None:
    tasks = living_tasks()
    limits = Timeouts(connect=1, load=2, first_token=0.5, between_tokens=0.3)
    local, hosted = Ollama("llama3.2", base_url=urls[0]), OpenAICompatible("m", base_url=urls[1], api_key="k")
    llm = AsyncClient(
        Route(local, timeouts=limits, bulkhead=Bulkhead(8), breaker=shows(), space="s"),
        Route(hosted, timeouts=limits, breaker=shows(), space="s", on_break="restart"),
        rng=random.Random(seed),
    )
    run, samples = Soak(llm, seed), []
    end = time.monotonic() + 60 * minutes
    async with anyio.create_task_group() as group:
        for number in range(WORKERS):
            group.start_soon(run.work, number)
        while time.monotonic() < end:
            await anyio.sleep(min(5.0, 6 * minutes))
            forget.write("forget\n")
            forget.flush()
            gc.collect()
            samples.append((memory(), living_tasks(), sockets()))
        group.cancel_scope.cancel()
    await anyio.sleep(1.5)  # what is detached closes by itself: a slow close may take a second
    assert_nothing_held(llm)
    await llm.aclose()
    await anyio.sleep(0.5)
    gc.collect()
    left = living_tasks() - tasks
    assert left <= 0, f"{left} tasks are left"
    first, last = (median(part) for part in (samples[len(samples) // 4 :][:5], samples[-5:]))
    total = sum(run.ends.values())
    print(f"{total:,} calls, the latest {max(0.0, run.latest) * 1e3:.0f} ms after its deadline")
    print(", ".join(f"{end} {count:,}" for end, count in run.ends.most_common()))
    most, opened = (max(one[place] for one in samples) for place in (1, 2))
    print(f"memory {first:.1f} MB after a quarter, {last:.1f} MB at the end; at most {most} tasks, {opened} sockets")
    assert last < first * 1.05 + 2, "the memory grows"


def shows() -> CircuitBreaker:
    """With so many faults one that decides would refuse most calls, and little would happen on the sockets."""
    return CircuitBreaker(mode="observe_only")


def median(samples: list[tuple[float, int, int]]) -> float:
    return sorted(one[0] for one in samples)[len(samples) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.loop}", flush=True)
    before = sockets()
    with servers() as (urls, forget):
        anyio.run(partial(soak, asked.minutes, asked.seed, urls, forget), backend=asked.loop)
    gc.collect()
    assert sockets() <= before, f"{sockets() - before} sockets are left"
    print("nothing is lost, held or leaked")


if __name__ == "__main__":
    main()
