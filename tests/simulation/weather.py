"""Servers whose health changes with the hour: what the simulation's backends do to their callers.

Rules of the file: every choice comes from one `Random` per server, and every text that a server ever says whole is
remembered, so that a caller's answer can be looked up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from resilient_llm import ChatRequest
from resilient_llm._watch import Watch
from resilient_llm.backends.base import Batches
from resilient_llm.errors import (
    BadRequest,
    ConnectFailed,
    EmptyReply,
    Malformed,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerError,
)
from resilient_llm.testing import FakeBackend, cut, fail, hang, say, slow_close, stall
from resilient_llm.testing._steps import Broken

HOUR, DAY = 3600.0, 86400.0
FAIR = ("healthy", "healthy", "healthy", "slow")
FOUL = (
    "down", "flaky", "flaky", "flaky", "hangs", "throttled", "busy", "spent", "missing", "tears", "stalls", "mute",
    "mute", "mute", "mute", "garbled", "mistakes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spell:
    """The health of a server from one instant to the next."""

    begins: float
    ends: float
    kind: str


def forecast(rng: random.Random, until: float) -> list[Spell]:
    """Fair and foul spells in turn, minutes to hours long; the last one is fair and has no end."""
    spells, now, foul = [], 0.0, False
    while now < until:
        length = min(rng.expovariate(1 / (0.25 * HOUR)) + 60, 3 * HOUR)
        spells.append(Spell(now, now + length, rng.choice(FOUL if foul else FAIR)))
        now, foul = now + length, not foul
    return [*spells, Spell(now, math.inf, "healthy")]


class Server:
    """A backend on which the weather acts. It is a `FakeBackend` that is told its next step when it is asked.

    Attributes:
        said: every whole answer that it ever began to give, by its text.
        opens: the instants at which an attempt reached it.
    """

    def __init__(self, name: str, seed: int, until: float, note: Any, **options: Any) -> None:
        self._rng = random.Random(f"{seed}/{name}")
        self.spells = forecast(self._rng, until)
        self._fake = FakeBackend(name=name, **options)
        self._note = note
        self.said: set[str] = set()
        self.opens: list[float] = []
        self._number = 0
        self._typed = False  # what it is asked for has a schema

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fake, name)

    @property
    def ready(self) -> Any:
        """Where it loads its model, it does so before it answers."""
        return self._fake.ready

    def at(self, now: float) -> Spell:
        """The spell of this instant."""
        while self.spells[0].ends <= now:
            self.spells.pop(0)
        return self.spells[0]

    def open(self, request: Any, watch: Watch, *, stream: bool = True) -> AbstractAsyncContextManager[Batches]:
        now = watch.clock()
        self._note(self, request, watch, now)
        self.opens.append(now)
        self._number += 1
        self._typed = getattr(request, "schema", None) is not None
        if self._rng.random() < 0.03:
            self._fake._loaded_at = -math.inf  # another model took its place: the next call finds it cold
        step = next(self._steps(self.at(now).kind, isinstance(request, ChatRequest)))
        self._fake.then(step)
        del self._fake.requests[:-8]  # a month of them would be the largest thing in the simulation
        return self._fake.open(request, watch, stream=stream)

    def _answer(self, **options: Any) -> Any:
        words = [f"{self.name}-{self._number}:", *(f" w{n}" for n in range(self._rng.randint(1, 12)))]
        if self._typed and self._rng.random() < 0.7:  # else it has not understood
            fence = self._rng.choice(["", "", "```"])
            words = [fence, fence and "json\n", f'{{"server": "{self.name}"', f', "number": {self._number}}}', fence]
        self.said.add("".join(words))
        return say(*words, **options)

    def _words(self) -> list[str]:
        return [f"{self.name}-{self._number} torn", *(" x" for _ in range(self._rng.randint(0, 5)))]

    def _steps(self, kind: str, chat: bool) -> Iterator[Any]:
        """What happens now."""
        rng = self._rng
        hint = rng.choice([None, 0.5, 2.0, 20.0, 90.0, 600.0])
        match kind:
            case "down":
                yield fail(ConnectFailed("refused"))
            case "hangs":
                yield hang(after_headers=rng.random() < 0.5)
            case "throttled" if rng.random() < 0.7:
                yield fail(RateLimited("slow down", retry_after=hint))
            case "busy" if rng.random() < 0.7:
                yield fail(Overloaded("busy", retry_after=hint, fault=rng.choice(["nobody", "backend"])))
            case "spent":
                yield fail(QuotaExhausted("no credit", retry_after=hint))
            case "missing":
                yield fail(ModelNotFound("not here"))
            case "tears" if chat and rng.random() < 0.6:
                yield rng.choice([cut, lambda *words: Broken(say(*words, gap=3), "ends")])(*self._words())
            case "stalls" if chat and rng.random() < 0.6:
                yield stall(*self._words())
            case "mute" if rng.random() < 0.6:
                yield fail(EmptyReply("nothing"))
            case "garbled" if rng.random() < 0.6:
                yield fail(Malformed("not a frame"))
            case "mistakes":
                yield fail(BadRequest("no such field"))
            case "flaky" if rng.random() < 0.4:
                yield fail(ServerError("out of luck", status=500))
            case "slow":
                yield self._answer(first=rng.uniform(1, 50), gap=rng.uniform(0, 4))
            case _ if rng.random() < 0.05 and chat:
                words = self._answer().texts
                yield slow_close(*words, seconds=rng.choice([1.0, 100.0]))
            case _:
                yield self._answer(first=rng.uniform(0, 2), gap=rng.uniform(0, 0.2))
