"""The speed and the size of the library, beside what it stands on and beside its peers, in one run.

`make bench` prints the tables and writes `benchmarks/results.md`. A figure in microseconds says something about this
machine; a ratio says something about the library.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import imports, memory, sync
from benchmarks._clients import OURS, Clients
from benchmarks._measure import Costs, compare
from benchmarks._report import Row, listing, report, verdicts

TOKENS, MANY = 64, 1000  # of a usual answer, and of a stream long enough that only its chunks count
SHORT_ROUNDS, LONG_ROUNDS, IMPORT_ROUNDS = 21, 11, 7
MICRO, MILLI = 1e6, 1e3


@contextmanager
def peer() -> Iterator[str]:
    """The server, in its own process; gives its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks._server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()


def whole(costs: Costs) -> list[Row]:
    bare = "httpx2, unary"
    rows = [Row.ratio("unary call, every default policy on", costs, f"{OURS}, unary", bare, 1.3)]
    rows += [Row.ratio("the same, streamed on the wire", costs, f"{OURS}, streamed", bare)]
    if "openai, unary" in costs:
        rows += [Row.ratio("chat, 64 tokens, streamed on the wire", costs, f"{OURS}, streamed", "openai, unary", 1.1)]
    rows += [Row.ratio("unary call, Ollama's API", costs, f"{OURS}, unary, Ollama", f"{bare}, Ollama", 1.3)]
    if "ollama, unary" in costs:
        rows += [Row.ratio("unary call, Ollama's API", costs, f"{OURS}, unary, Ollama", "ollama, unary")]
    return rows


def streamed(costs: Costs) -> list[Row]:
    rows = []
    for wire in ("", ", Ollama"):
        raw, lines = f"httpx2 aiter_raw{wire}", f"httpx2 aiter_lines + json{wire}"
        name = f"a chunk of `stream`{wire}"
        rows += [
            Row.above(name, costs, f"{OURS} stream{wire}", raw, 12),
            Row.ratio(name, costs, f"{OURS} stream{wire}", lines, 1.6),
            Row.above(f"a chunk in `chat`{wire}", costs, f"{OURS} chat{wire}", raw, 5),
        ]
    for name, base in ((f"{OURS} stream", "openai stream"), (f"{OURS} stream, Ollama", "ollama stream")):
        if base in costs:
            rows += [Row.ratio("a chunk of `stream`", costs, name, base)]
    return rows


def imported(costs: Costs) -> list[Row]:
    rows = [Row.ratio("import", costs, imports.OURS, imports.DEPENDENCIES, 1.3, MILLI, "ms")]
    if "openai" in costs:
        rows.insert(0, Row.ratio("import", costs, imports.OURS, "openai", 0.4, MILLI, "ms"))
        made = ("resilient_llm, a client", "openai, a client")
        rows.append(Row.ratio("import and make a client", costs, *made, None, MILLI, "ms"))
    return rows


def remembered(url: str) -> tuple[list[Row], Costs, Costs]:
    """One process each: memory is not disturbed by who else uses the machine."""
    names = (memory.BARE, memory.OURS, *memory.peers())
    peak = Costs({name: [memory.in_process(url, "calls", name)["peak"] / 1e6] for name in names})
    streams = {name: memory.in_process(url, "streams", name) for name in (memory.BARE, memory.OURS)}
    each, complete = (
        Costs({name: [found["each"] / 1e3] for name, found in streams.items()}),
        streams[memory.OURS]["complete"],
    )
    rows = [
        Row.ratio("peak memory after 1,000 calls", peak, memory.OURS, memory.BARE, 1.25, 1, "MB"),
        Row("1,000 streams at once: complete", f"{complete}", "", f"{complete}", "1000", complete == memory.STREAMS),
        Row.figure("1,000 streams at once: each holds", each, memory.OURS, memory.BARE, 60, 1, "kB"),
    ]
    return rows, peak, each


def facade(calls: Costs, chunks: Costs) -> list[Row]:
    extra = calls.above(sync.SYNC_CALL, sync.CALL) * MICRO
    hop, cold = calls.median(sync.HOP) * MICRO, calls.above(sync.RESTED, sync.CALL) * MICRO
    beside = f"empty hop {hop:.0f} µs, a pause alone {cold:+.0f} µs"
    sync_call = f"{calls.median(sync.SYNC_CALL) * MICRO:.0f} µs"
    return [
        Row("sync facade, a call over async", sync_call, beside, f"{extra:+.0f} µs", "≤ 200 µs", extra <= 200),
        Row.above("sync facade, a pumped chunk over async", chunks, sync.SYNC_STREAM, sync.STREAM, 25),
    ]


def main() -> None:
    began = time.monotonic()
    rows: list[Row] = []
    lists: list[str] = []
    with peer() as url:
        clients = Clients(url)

        def take(title: str, unit: str, scale: float, costs: Costs, base: str, found: Sequence[Row]) -> None:
            rows.extend(found)
            lists.append(listing(title, unit, scale, costs, base))
            print(f"{time.monotonic() - began:5.0f} s  {title}", file=sys.stderr)

        costs = compare(clients.answers(TOKENS, 25), SHORT_ROUNDS)
        take(f"A whole answer of {TOKENS} tokens", "µs", MICRO, costs, "httpx2, unary", whole(costs))
        costs = compare(clients.chunks(MANY, 1), LONG_ROUNDS)
        take(f"A chunk of a stream of {MANY} tokens", "µs", MICRO, costs, "httpx2 aiter_raw", streamed(costs))
        calls, chunks = sync.measure(clients, rounds=LONG_ROUNDS, tokens=MANY)
        take("A call of the sync facade", "µs", MICRO, calls, sync.CALL, [])
        take("A chunk through the sync facade", "µs", MICRO, chunks, sync.STREAM, facade(calls, chunks))
        from benchmarks import telemetry  # now: an SDK that is imported is looked at by every call after it

        told, counted = telemetry.measure()
        take("Telemetry of a call", "µs", MICRO, told, telemetry.OFF, telemetry.rows(told, counted))
        found, peak, each = remembered(url)
        take("Peak memory after 1,000 calls", "MB", 1, peak, memory.BARE, found)
        take("What one of 1,000 open streams holds", "kB", 1, each, memory.BARE, [])
    costs = imports.measure(IMPORT_ROUNDS)
    take("Import", "ms", MILLI, costs, imports.DEPENDENCIES, imported(costs))
    print(verdicts(rows))
    results = Path(__file__).with_name("results.md")
    results.write_text(report(rows, lists, time.monotonic() - began), encoding="utf-8")
    aimed = [row.met for row in rows if row.met is not None]
    print(f"\n{aimed.count(False)} of {len(aimed)} targets missed; written to benchmarks/results.md")


if __name__ == "__main__":
    main()
