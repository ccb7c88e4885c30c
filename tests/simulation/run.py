"""Days of a client's life in seconds, from one seed: arrivals, weather, faults, impatience.

The same seed lives the very same days again, on either event loop. What breaks a promise raises, with the seed in a
note.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from dataclasses import dataclass
from typing import Any

import anyio
import trio
from trio.testing import MockClock

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    CircuitBreaker,
    LLMError,
    RateLimit,
    Retry,
    RetryBudget,
    Route,
    Timeouts,
)

from ..engine.kit import VirtualLoop  # noqa: TID252  # tests are no package that could be named
from .promises import CALL, FAR_GAP, Promises
from .weather import DAY, Server, Spell

LOOPS = ("asyncio", "trio")
EVERY = 30.0  # seconds between two arrivals, on average
TIMEOUTS = (None, None, 0.5, 2.0, 8.0, 30.0, 120.0, 600.0)


@dataclass(frozen=True, slots=True)
class Story:
    """What happened.

    Attributes:
        digest: of every decision, in order.
        ends: how the calls ended, and how many ended so.
    """

    digest: str
    calls: int
    attempts: int
    transitions: int
    ends: dict[str, int]
    log: list[str]


@dataclass(frozen=True, slots=True)
class Who:
    """What some callers want an answer to be."""

    server: str
    number: int


class World:
    """Two clients of three servers, that share what can be shared, and those who call them."""

    def __init__(self, seed: int, days: float) -> None:
        self.rng = random.Random(f"{seed}/callers")
        self.until = days * DAY
        self.promises = Promises()
        note = self.promises.attempt
        box = Server("box", seed, self.until, note, local=True, loads=20, slots=2)
        near = Server("near", seed, self.until, note, connects=0.05)
        far = Server("far", seed, self.until, note, zone="internet", slots=5)
        self.servers = {one.name: one for one in (box, near, far)}
        self.spells = {one.name: list(one.spells) for one in (box, near, far)}
        shared: dict[str, dict[str, Any]] = {
            name: {"breaker": CircuitBreaker(), "bulkhead": bulkhead, "budget": RetryBudget(burst=burst)}
            for name, bulkhead, burst in (
                ("box", Bulkhead(2), 5), ("near", Bulkhead(8, max_slots=64), 10), ("far", Bulkhead(5), 10),
            )
        }  # fmt: skip
        shared["far"]["rate"] = RateLimit(60 / FAR_GAP, 20_000)

        def client(number: int) -> AsyncClient:
            return AsyncClient(
                Route(box, timeouts=Timeouts(load=90, first_token=20), **shared["box"]),
                Route(near, retry=Retry(attempts=4), on_break="restart", **shared["near"]),
                Route(far, **shared["far"]),
                clock=anyio.current_time,
                rng=random.Random(f"{seed}/jitter/{number}"),
            )

        self.clients = [client(1), client(2)]
        self.promises.watch(*self.clients)
        self.calls = 0
        self.thought: dict[int, float] = {}  # seconds that the reader of a stream took for itself

    async def live(self) -> None:
        """Callers come until the time is over; then all servers are well, and so are the clients."""
        async with anyio.create_task_group() as group:
            while (now := anyio.current_time()) < self.until:
                pause = self.rng.expovariate(1 / EVERY)
                await anyio.sleep_until(now + pause)
                together = 20 if self.rng.random() < 0.01 else 1
                for _ in range(together):
                    self.calls += 1
                    group.start_soon(self._call, self.calls, random.Random(self.rng.random()))
        now = anyio.current_time()
        self.promises.at_rest(now, *self.clients)
        self.promises.bounded(self.servers)
        await anyio.sleep(max(0.0, max(one.spells[-1].begins for one in self.servers.values()) - now) + 1000)
        for llm in self.clients:
            CALL.set(0)
            self.promises.sent[0] = []
            for _ in range(3):
                assert (await llm.chat("are you well?")).route == "box", "what is healthy again is used again"
            await llm.aclose()
        for name, spells in self.spells.items():
            self._dead_was_left_alone(name, spells)

    async def _call(self, number: int, rng: random.Random) -> None:
        CALL.set(number)
        self.promises.sent[number] = []
        llm, timeout = rng.choice(self.clients), rng.choice(TIMEOUTS)
        leaves = rng.expovariate(1 / 10) if rng.random() < 0.2 else math.inf
        twice = leaves + (rng.choice([0.0, 0.01]) if rng.random() < 0.5 else math.inf)
        options: dict[str, Any] = {"timeout": timeout, "local_only": True if rng.random() < 0.1 else None}
        began, end = anyio.current_time(), "cancelled"
        with anyio.move_on_after(twice), anyio.move_on_after(leaves):
            end = await self._ask(number, llm, rng, options)
        now = anyio.current_time()
        self.promises.took(now - began - self.thought.pop(number, 0.0), timeout, leaves)
        self.promises.ends[end] += 1
        self.promises.note(now, f"call {number} ends: {end}")
        del self.promises.sent[number]

    async def _ask(self, number: int, llm: AsyncClient, rng: random.Random, options: dict[str, Any]) -> str:
        if rng.random() < 0.3:
            options["conversation"] = f"c{rng.randint(1, 20)}"
        what, promises = rng.random(), self.promises
        try:
            if what < 0.1:
                reply: Any = await llm.embed(
                    [f"text {n}" for n in range(rng.choice([1, 300]))], timeout=options["timeout"]
                )
                promises.answered(number, self.servers, reply)
            elif what < 0.2:
                reply = await llm.parse("who?", Who, **options)
                promises.answered(number, self.servers, reply)
                assert reply.output.server == reply.route, "what was made of an answer is what it says"
                assert ("repaired" in reply.degraded) == reply.text.startswith("```")
            elif what < 0.5:
                reply = await llm.chat("why?", **options)
                promises.answered(number, self.servers, reply)
            else:
                return await self._stream(number, llm, rng, options)
        except LLMError as error:
            promises.failed(number, error)
            return type(error).__name__
        return f"{reply.route}, {len(reply.attempts)} attempts"

    async def _stream(self, number: int, llm: AsyncClient, rng: random.Random, options: dict[str, Any]) -> str:
        left_after = rng.randint(0, 4) if rng.random() < 0.2 else math.inf
        thinks = rng.choice([0.0, 0.0, 0.1, 1.0])
        pieces: list[str] = []
        async with llm.stream("why?", **options) as stream:
            async for event in stream:
                if type(event).__name__ == "Restarted":
                    pieces.clear()
                pieces.append(getattr(event, "text", ""))
                if len(pieces) > left_after:
                    return "left"
                self.thought[number] = self.thought.get(number, 0.0) + thinks
                await anyio.sleep(thinks)
            reply = stream.reply
        assert "".join(pieces) == reply.text, "no text twice, none lost"
        self.promises.answered(number, self.servers, reply)
        return f"{reply.route}, {len(reply.attempts)} attempts, a stream"

    def _dead_was_left_alone(self, name: str, spells: list[Spell]) -> None:
        """A server that refused everyone got the failures that open a breaker, and then a probe from time to time."""
        opens = self.servers[name].opens
        for spell in spells:
            if spell.kind == "down":
                seconds = spell.ends - spell.begins
                tried = sum(spell.begins <= at < spell.ends for at in opens)
                assert tried <= 10 + seconds / 30, f"{name} was down for {seconds:.0f} s and asked {tried} times"


def simulate(seed: int, days: float, loop: str) -> Story:
    """Lives so many days. What breaks a promise raises, with the seed in a note."""

    async def main() -> Story:
        world = World(seed, days)
        await world.live()
        log = world.promises.log
        return Story(
            hashlib.sha256("\n".join(log).encode()).hexdigest(), world.calls,
            sum(len(one.opens) for one in world.servers.values()), sum(" -> " in line for line in log),
            dict(world.promises.ends.most_common()), log,
        )  # fmt: skip

    try:
        if loop == "asyncio":
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                return runner.run(main())
        return _deterministic_trio(seed, main)
    except BaseException as error:
        error.add_note(f"replay: python -m tests.simulation --seed {seed} --days {days} --loop {loop}")
        raise


def _deterministic_trio(seed: int, main: Any) -> Story:
    """trio runs ready tasks in an order of chance: here the seed's, so that each seed has its own interleavings."""
    core = trio._core._run  # type: ignore[attr-defined]  # as hypothesis-trio does it
    flag, state = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()
    core._ALLOW_DETERMINISTIC_SCHEDULING = True
    core._r.seed(seed)
    try:
        return trio.run(main, clock=MockClock(autojump_threshold=0))  # type: ignore[no-any-return]
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING = flag
        core._r.setstate(state)
