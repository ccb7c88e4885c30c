"""Measuring on a machine that others use too: CPU time, in turns, and only ratios are believed.

Every contender runs once in each round (A B C, A B C, …), so that what slows the machine down slows them all. A ratio
is the median over the rounds of the ratio within a round; a difference likewise. CPU time is that of this process with
all its threads, system calls included; the server is another process.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to be measured.

    Args:
        name: in the tables.
        run: does `units` pieces of work.
        warm: makes the next `run` a usual one: the connection is there, the caches are filled.
    """

    name: str
    run: Callable[[], object]
    units: int
    warm: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds for one unit, of every contender in every round."""

    rounds: dict[str, list[float]]

    def __contains__(self, name: str) -> bool:
        return name in self.rounds

    def median(self, name: str) -> float:
        """The middle round."""
        return median(self.rounds[name])

    def least(self, name: str) -> float:
        """The round that was disturbed least."""
        return min(self.rounds[name])

    def ratio(self, name: str, base: str) -> float:
        """How many times as much as `base`."""
        return median(one / other for one, other in zip(self.rounds[name], self.rounds[base], strict=True))

    def above(self, name: str, base: str) -> float:
        """How much more than `base`, in seconds."""
        return median(one - other for one, other in zip(self.rounds[name], self.rounds[base], strict=True))

    def only(self, *names: str) -> Costs:
        """Some of them."""
        return Costs({name: self.rounds[name] for name in names if name in self.rounds})


def compare(contenders: Sequence[Contender], rounds: int) -> Costs:
    """Runs all of them in turn, `rounds` times."""
    costs: dict[str, list[float]] = {one.name: [] for one in contenders}
    for one in contenders:
        one.run()  # the first time is always another: imports, pools, specialised bytecode
    for _ in range(rounds):
        for one in contenders:
            gc.collect()  # nobody pays for another's garbage
            one.warm()
            before = time.process_time()
            one.run()
            costs[one.name].append((time.process_time() - before) / one.units)
    return Costs(costs)
