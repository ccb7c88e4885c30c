"""What `Client` costs over `AsyncClient`: a hop to the loop's thread and back for a call, a queue for a stream.

CPU time of both threads. Two things are reported beside it. An empty hop through anyio's portal, the usual loop in a
thread, though not the one that `Client` has. And an async call that begins after a pause of 0.2 ms: its caches are
cold, on a virtual machine above all, and a call of the facade always begins like that, because its loop slept.
"""

from __future__ import annotations

import time

from anyio.from_thread import start_blocking_portal

from benchmarks._clients import ASKED, OURS, Clients, drain, hosted
from benchmarks._measure import Contender, Costs, compare
from resilient_llm import Client, Route

HOP = "an empty hop, anyio"
CALL, RESTED, SYNC_CALL = f"{OURS} call", f"{OURS} call after a pause", f"{OURS} call, sync"
STREAM, SYNC_STREAM = f"{OURS} stream", f"{OURS} stream, sync"


async def _nothing() -> None:
    pass


def _many(name: str, work: object, *, times: int, units: int = 1) -> Contender:
    assert callable(work)

    def repeat() -> None:
        for _ in range(times):
            work()

    return Contender(name, repeat, times * units, work)


def measure(clients: Clients, *, rounds: int, tokens: int) -> tuple[Costs, Costs]:
    """Calls and hops; chunks."""
    one, streamed = clients.ours(1), clients.ours(tokens)
    portal = start_blocking_portal()
    short, long = (Client(Route(hosted(clients.url, count))) for count in (1, tokens))

    async def rested() -> None:
        time.sleep(0.0002)
        await one.chat(ASKED)

    with portal as hop, short, long:

        def pump() -> None:
            with long.stream(ASKED) as stream:
                for _ in stream:
                    pass

        calls = [
            clients.contender(CALL, lambda: one.chat(ASKED), times=100),
            clients.contender(RESTED, rested, times=100),
            _many(SYNC_CALL, lambda: short.chat(ASKED), times=100),
            _many(HOP, lambda: hop.call(_nothing), times=200),
        ]
        chunks = [
            clients.contender(STREAM, lambda: drain(streamed.stream(ASKED)), times=2, units=tokens),
            _many(SYNC_STREAM, pump, times=2, units=tokens),
        ]
        return compare(calls, rounds), compare(chunks, rounds)
