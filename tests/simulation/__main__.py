"""`python -m tests.simulation --seed 7 --days 2 --loop trio`, from the project's folder; `make simulate` is a month.

Without a seed it takes one from the clock, and another for each day. When a promise is broken, the error says how to
play that day again.
"""

from __future__ import annotations

import argparse
import time

from .run import LOOPS, simulate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="default: from the clock, and the next one for each day")
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--loop", choices=LOOPS, help="default: in turns")
    parser.add_argument("--log", action="store_true", help="prints every decision")
    asked = parser.parse_args()
    seed = int(time.time()) if asked.seed is None else asked.seed
    left, piece = asked.days, asked.days if asked.seed is not None else 1.0
    while left > 0:
        loop, days, began = asked.loop or LOOPS[seed % 2], min(piece, left), time.monotonic()
        story = simulate(seed, days, loop)
        if asked.log:
            print("\n".join(story.log))
        print(
            f"seed {seed}, {loop}, {days:g} days in {time.monotonic() - began:.1f} s: {story.calls} calls,"
            f" {story.attempts} attempts, {story.transitions} changes of breakers, {story.digest[:16]}",
            flush=True,
        )
        seed, left = seed + 1, left - days


if __name__ == "__main__":
    main()
