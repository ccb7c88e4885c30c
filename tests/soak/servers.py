"""The other end of the soak, in a process of its own: an Ollama and an OpenAI that are in a bad mood now and then."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Any

from resilient_llm.testing import (
    FakeOllama,
    FakeOpenAI,
    comments,
    cut,
    dribble,
    ends,
    hang,
    malformed,
    raw,
    reset,
    say,
    slow_close,
    stall,
    status,
)


class Moody:
    """A step that is another one each time: mostly an answer that tells how long it is, else any fault."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def actions(self, answer: Any) -> Iterable[Any]:
        return self._mood().actions(answer)

    def _mood(self) -> Any:
        rng = self._rng
        words = [f"<{(count := rng.randint(0, 30))}", *[" w"] * count, ">"]
        if rng.random() < 0.6:
            return say(*words, gap=rng.choice([0.0, 0.0, 0.002]), first=rng.choice([0.0, 0.01, 0.05]))
        return rng.choice(
            [
                hang(), hang(after_headers=True), stall("<9"), cut("<9", " w"), ends("<9", " w"), reset(), raw(b""),
                slow_close(*words, seconds=0.5), status(500), status(503, "busy"), status(404, "no such model"),
                status(429, "slow down", {"Retry-After": rng.choice(["0", "0.05", "1", "NaN", "-3", "1e309"])}),
                status(400, "no"), dribble(0.005), dribble(0.005, status(500)), comments(gap=0.01),
                comments(3, 0.01, then=say(*words)), malformed(b"{]\n\n", after=["<9"]), say(),
            ]
        )  # fmt: skip


def main() -> None:
    """Serves until its standard input ends."""
    with FakeOllama(Moody(1)) as local, FakeOpenAI(Moody(2), api_key="k") as hosted:
        print(local.url, hosted.url, flush=True)
        while sys.stdin.readline():
            for server in (local, hosted):
                del server.requests[:]  # what they were asked would be the largest thing in this process


if __name__ == "__main__":
    main()
