"""Tables: what was aimed at and whether it was met, and below it all that was measured."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Self

from benchmarks._measure import Costs

PACKAGES = (
    "resilient-llm", "httpx2", "httpcore2", "h11", "anyio", "pydantic", "openai", "ollama", "litellm", "pydantic-ai",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One measure beside its target. `met` is `None` where there is none."""

    measure: str
    ours: str
    beside: str
    result: str
    target: str
    met: bool | None

    @classmethod
    def ratio(
        cls, measure: str, costs: Costs, ours: str, base: str, most: float | None = None, scale: float = 1e6,
        unit: str = "µs",
    ) -> Self:  # fmt: skip
        """At most so many times as much as `base`."""
        ratio = costs.ratio(ours, base)
        return cls(
            measure, _figure(costs, ours, scale, unit), f"{base} {_figure(costs, base, scale, unit)}", f"{ratio:.2f} ×",
            "" if most is None else f"≤ {most:g} ×", None if most is None else ratio <= most,
        )  # fmt: skip

    @classmethod
    def above(cls, measure: str, costs: Costs, ours: str, base: str, most: float) -> Self:
        """At most so many microseconds more than `base`."""
        extra = costs.above(ours, base) * 1e6
        return cls(
            measure, _figure(costs, ours, 1e6, "µs"), f"{base} {_figure(costs, base, 1e6, 'µs')}", f"{extra:+.1f} µs",
            f"≤ {most:g} µs", extra <= most,
        )  # fmt: skip

    @classmethod
    def figure(
        cls, measure: str, costs: Costs, ours: str, base: str, most: float, scale: float, unit: str
    ) -> Self:  # fmt: skip
        """At most so much, whatever `base` has."""
        amount = costs.median(ours) * scale
        shown = _figure(costs, ours, scale, unit)
        beside = f"{base} {_figure(costs, base, scale, unit)}"
        return cls(measure, shown, beside, shown, f"≤ {most:g} {unit}", amount <= most)

    def cells(self) -> tuple[str, ...]:
        """As they stand in the table."""
        verdict = {True: "met", False: "**missed**", None: ""}[self.met]
        return self.measure, self.ours, self.beside, self.result, self.target, verdict


def _figure(costs: Costs, name: str, scale: float, unit: str) -> str:
    return f"{_digits(costs.median(name) * scale)} {unit}"


def _digits(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, whose columns also line up in a terminal."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def verdicts(rows: Sequence[Row]) -> str:
    """The measures and their targets."""
    return table(("measure", "ours", "beside", "result", "target", ""), [row.cells() for row in rows])


def listing(title: str, unit: str, scale: float, costs: Costs, base: str) -> str:
    """Everything that was measured in one group."""
    rows = []
    for name in costs.rounds:
        least, middle = _digits(costs.least(name) * scale), _digits(costs.median(name) * scale)
        rows.append((name, least, middle, f"{costs.ratio(name, base):.2f} ×"))
    return f"### {title}\n\n{table(('', f'least, {unit}', f'median, {unit}', f'of {base}'), rows)}\n"


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


_HEAD = """\
# Speed and size

Written by `make bench` on {day} in {seconds:.0f} s. {versions}; {system}.

CPU time of the client's process, all its threads and system calls included; the server is another process that sends
canned bytes, one HTTP chunk for each event. The contenders take turns, round by round; a ratio or a difference is the
median of those within a round, so that what slows the machine down slows them all. Believe the ratios: the figures are
this machine's.

{verdicts}

## All that was measured
"""


def report(rows: Sequence[Row], lists: Sequence[str], seconds: float) -> str:
    """What is written to `results.md`."""
    head = _HEAD.format(
        day=f"{datetime.now(UTC):%Y-%m-%d}", seconds=seconds, versions=_versions(), verdicts=verdicts(rows),
        system=f"{platform.system()} on {platform.machine()}",
    )  # fmt: skip
    return "\n".join((head, *lists))
