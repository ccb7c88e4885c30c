"""The catalogue of what goes wrong with an Ollama, each with where it was seen.

A fault is chosen for a request (by its number, its model, the time, by chance) when it comes to the point that its row
names, and strikes there. Rules of the file: data only; what a fault does stands where it happens, under its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from resilient_llm._errors import ConfigError

Point = Literal["door", "load", "answer"]

# name: where it strikes, and what the client sees
CATALOGUE: Final[Mapping[str, tuple[Point, str]]] = {
    "refused": ("door", "nobody listens; over a socket a reset, for there somebody does"),
    "reset": ("door", "the connection is reset before any header"),
    "hang": ("door", "no byte; /api/ps and /api/tags answer as ever (ollama/ollama#15950, #15258)"),
    "unauthorized": ("door", "401 of Ollama's cloud, with a sign-in address"),
    "usage limit": ("door", "429 of Ollama's cloud (ollama/ollama#15934)"),
    "overloaded": ("door", "503 of Ollama's cloud (ollama/ollama#13399)"),
    "deadlock": ("load", "every load hangs from here on, loaded models answer (ollama/ollama#17408)"),
    "queue full": ("load", "503: more requests wait for a load than may"),
    "load stalls": ("load", "no sign of life until the load timeout, then 500"),
    "load fails": ("load", "500: the runner's process has terminated"),
    "load runs out of memory": ("load", "500, or a smaller window than the server's own without a word"),
    "window shrinks": ("load", "a window of the next smaller size, which only /api/ps tells (ollama/ollama#14116)"),
    "falls back to CPU": ("load", "all on the CPU: slow, and size_vram 0 in /api/ps (ollama/ollama#14258)"),
    "stalls": ("answer", "silence in mid-answer, the connection open (ollama/ollama#1863 and many more)"),
    "loses its slot": ("answer", "who leaves takes the slot along until the model is unloaded (ollama/ollama#17131)"),
    "error line": ("answer", "an error inside the 200; without a stream a 500"),
    "ends": ("answer", "a clean end without done (ollama/ollama#13239); without a stream a 200 with done: false"),
    "repeats": ("answer", "the same token until the guard breaks it off, or to the limit (ollama/ollama#2577)"),
    "blanks": ("answer", "blanks and line ends under `format` (ollama/ollama#4446)"),
    "gibberish": ("answer", "GGGG until the model is loaded again (ollama/ollama#7766)"),
    "only thinks": ("answer", "an empty answer, thinking has eaten the limit (ollama/ollama#16184)"),
    "crashes": ("answer", "the runner dies: an error line or 500 for all that it answers (ollama/ollama#9699)"),
    "tool call unreadable": ("answer", "500: error parsing tool call (ollama/ollama#17638)"),
    "NaN": ("answer", "400 of an embedding that has none: a fault of the server's (ollama/ollama#14186)"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with a request.

    Attributes:
        name: one of `CATALOGUE`.
        after: tokens of the answer before it.
        request: the number of the one request that it strikes, the first being 1; else any.
        model: only requests for it.
        since: seconds before which it does not strike.
        until: seconds after which it does not.
        chance: of striking, each time.
        times: how often at most.

    Raises:
        ConfigError: there is no such fault, or a number has no meaning.
    """

    name: str
    after: int = 0
    request: int | None = None
    model: str | None = None
    since: float = 0.0
    until: float = math.inf
    chance: float = 1.0
    times: float = math.inf

    def __post_init__(self) -> None:
        if self.name not in CATALOGUE:
            raise ConfigError(f"fault: {self.name!r} is none of {', '.join(sorted(CATALOGUE))}")
        if self.after < 0 or not 0 <= self.chance <= 1 or self.times < 1:
            raise ConfigError(f"fault: after={self.after}, chance={self.chance}, times={self.times} make no sense")

    @property
    def at(self) -> Point:
        """Where it strikes."""
        return CATALOGUE[self.name][0]


class Faults:
    """Chooses the fault of each request: the first in the list that fits."""

    def __init__(self, faults: tuple[Fault, ...], chance: Random) -> None:
        self._chance = chance
        self._left: list[tuple[Fault, float]] = [(one, one.times) for one in faults]

    def add(self, fault: Fault) -> None:
        """From here on this one may strike, too."""
        self._left.append((fault, fault.times))

    def choose(self, point: Point, number: int, model: str, now: float) -> Fault | None:
        """What goes wrong with this request at this point."""
        for at, (fault, left) in enumerate(self._left):
            if fault.at != point:
                continue
            fits = fault.request in (None, number) and fault.model in (None, model, model.removesuffix(":latest"))
            if fits and left >= 1 and fault.since <= now < fault.until:
                if fault.chance < 1 and self._chance.random() >= fault.chance:
                    continue
                self._left[at] = (fault, left - 1)
                return fault
        return None
