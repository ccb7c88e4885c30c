"""Fifty workers on real sockets: random faults, random cancellations. `make soak`, two minutes; `--minutes`, `--loop`.

At the end: every call that was begun has ended, in time, with a whole answer, a typed error or its cancellation, and
accounts for its time and attempts; nothing is held, no task and no socket is left, and the memory is where it was after
the first quarter. It raises where that is not so.

Beside every call runs a timer that is due when the call has to be over, and then once more after the 50 ms that are
promised. How late a call is beyond that timer is ours; how late the timer is has to do with fifty workers on one loop,
on a machine that others use.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
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
from tests.accounts import accounts_for

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    ChatReply,
    CircuitBreaker,
    LLMError,
    Ollama,
    OpenAICompatible,
    Restarted,
    Route,
    TextDelta,
    Timeouts,
)

from ..engine.kit import assert_nothing_held, living_tasks  # noqa: TID252  # tests are no package that could be named

WORKERS = 50
LONGEST = 3.0  # seconds: the longest timeout of a call
LATE = 2.0  # seconds over its end that a call is never allowed, however busy the machine is
PROMISE = 0.05  # seconds over its end that a call is allowed; while it ends, the loop has others to serve, too,
SELDOM = 0.01  # so that a part of the calls may take longer,
AT_MOST = 0.25  # but no more than that
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
        self.begun, self.over = 0, False
        self.ends: Counter[str] = Counter()
        self.running: dict[int, float] = {}  # by worker: when its call has to be over
        self.late: list[float] = [0.0]  # seconds beyond the timer, of the calls that ended after it
        self.latest = 0.0

    async def work(self, number: int) -> None:
        """Calls, one after the other, until it is over."""
        rng = random.Random(f"{self.seed}/{number}")
        while not self.over:
            timeout = rng.choice([0.05, 0.3, 1.0, LONGEST])
            leaves = rng.expovariate(1 / 0.2) if rng.random() < 0.3 else 1e9
            self.begun += 1
            self.ends[await self._in_time(number, rng, timeout, leaves)] += 1
            await anyio.sleep(0.01)  # a refusal waits for nothing, so that whoever asks again at once would hold up all

    async def _in_time(self, number: int, rng: random.Random, timeout: float, leaves: float) -> str:
        """One call, beside a timer that is due when it has to be over."""
        end = "cancelled"
        began = time.monotonic()
        due = self.running[number] = began + min(timeout, leaves)
        promised = math.inf

        async def timer() -> None:
            nonlocal promised
            await anyio.sleep(due - began)
            await anyio.sleep(PROMISE)
            promised = time.monotonic()

        async with anyio.create_task_group() as group:
            group.start_soon(timer)
            with anyio.move_on_after(leaves):
                end = await self._call(rng, timeout)
            ended = time.monotonic()
            group.cancel_scope.cancel()
        late = ended - self.running.pop(number)
        assert late < LATE, f"a call of {timeout} s, left after {leaves:.2f} s, ended {late:.2f} s late"
        self.latest = max(self.latest, late)
        if ended > promised:
            self.late.append(ended - promised)
        return end

    def nobody_hangs(self) -> None:
        """No call is under way that should be over."""
        now = time.monotonic()
        hang = [number for number, due in self.running.items() if now > due + LATE]
        assert not hang, f"the calls of workers {hang} do not end"

    async def _call(self, rng: random.Random, timeout: float) -> str:
        what, began = rng.random(), time.monotonic()
        try:
            if what < 0.1:
                reply = await self.llm.embed(["one", "two"], timeout=timeout)
                assert len(reply.vectors) == 2
                return "embedded"
            if what < 0.6:
                answer = await self.llm.chat("why?", timeout=timeout)
                end = "answered"
            else:
                answer = await self._stream(rng, timeout)
                end = "streamed"
        except LLMError as error:
            accounts_for(error, time.monotonic() - began, between=LATE)
            return type(error).__name__
        if answer is None:
            return "left"
        whole(answer.text)
        accounts_for(answer, time.monotonic() - began, between=LATE)
        return end

    async def _stream(self, rng: random.Random, timeout: float) -> ChatReply | None:
        pieces: list[str] = []
        async with self.llm.stream("why?", timeout=timeout) as stream:
            leaves = rng.randint(1, 20) if rng.random() < 0.3 else 10**9
            async for event in stream:
                leaves -= 1
                if not leaves:
                    return None
                if isinstance(event, Restarted):
                    pieces.clear()
                elif isinstance(event, TextDelta):
                    pieces.append(event.text)
        assert "".join(pieces) == stream.reply.text, "no text twice, none lost"
        return stream.reply


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
            run.nobody_hangs()
            samples.append((memory(), living_tasks(), sockets()))
        run.over = True
        with anyio.move_on_after(LONGEST + LATE):
            while run.running:
                await anyio.sleep(0.01)
        run.nobody_hangs()
    assert run.begun == run.ends.total(), "a call was begun and never ended"
    await anyio.sleep(1.5)  # what is detached closes by itself: a slow close may take a second
    assert_nothing_held(llm)
    await llm.aclose()
    await anyio.sleep(0.5)
    gc.collect()
    left = living_tasks() - tasks
    assert left <= 0, f"{left} tasks are left"
    first, last = (median(part) for part in (samples[len(samples) // 4 :][:5], samples[-5:]))
    total = sum(run.ends.values())
    print(
        f"{total:,} calls, the latest {run.latest * 1e3:.0f} ms after its end; {len(run.late) - 1} later than a timer"
        f" of {PROMISE * 1e3:.0f} ms, the latest by {max(run.late) * 1e3:.0f} ms"
    )
    print(", ".join(f"{end} {count:,}" for end, count in run.ends.most_common()))
    most, opened = (max(one[place] for one in samples) for place in (1, 2))
    print(f"memory {first:.1f} MB after a quarter, {last:.1f} MB at the end; at most {most} tasks, {opened} sockets")
    assert last < first * 1.05 + 2, "the memory grows"
    assert len(run.late) - 1 <= SELDOM * total, "calls are late by themselves"
    assert max(run.late) < AT_MOST, "a call was late by itself"


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
