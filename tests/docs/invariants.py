"""Writes `docs/invariants.md`: `python -m tests.docs.invariants`. Which test holds what stands at the tests themselves.

A test says so with `@pytest.mark.invariant(4, 5)`. The numbers are those of the list below and stay what they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "invariants.md"

INVARIANTS = {
    1: "Every permit and slot that was taken is given back exactly once, at any point of cancellation",
    2: "What is in flight is never below 0 nor above the limit, but for those let in before it shrank",
    3: "At rest nothing is in flight and nobody waits",
    4: "An open breaker lets nothing through before its time",
    5: "At half-open at most one probe is in flight",
    6: "A result of an older generation changes no state",
    7: "A probe that was cancelled, or says nothing, changes nothing: its permit is back and the next call may probe",
    8: "A probe that was lost is freed by its lease",
    9: "`forced_open` beats the timers",
    10: "A breaker depends on outcomes and monotonic time alone: a wall clock that jumps has no effect",
    11: "A caller who leaves before an attempt counts as slow moves no count of failures",
    12: "A mistake of the caller never opens a breaker",
    13: "One event for each transition, in order, none told under a lock",
    14: "Attempts on a route are at most `Retry.attempts`",
    15: "Attempts of N calls on a route are at most N + burst + ratio·N",
    16: "A retry budget is never below 0 nor above its burst",
    17: "No repeat begins after the deadline or after the commit",
    18: "No wait ends after the deadline",
    19: "A wait is between 0 and its cap, or what `Retry-After` says, for any number of attempts",
    20: "Jitter is uniform",
    21: "A call returns or raises by its deadline",
    22: "Of nested deadlines the earliest holds",
    23: "A limit of ours and a cancellation from outside are always told apart",
    24: "A cancellation is never swallowed",
    25: "In the queue nobody is overtaken, starved or forgotten",
    26: "A waiter whose time is over is never sent",
    27: "A free slot goes to a waiter in the same step",
    28: "A limit that moves stays within its bounds, and shrinks once an epoch",
    29: "A limit that is not used does not grow",
    30: "An error never raises a limit, however fast it comes",
    31: "The events of one stream reach the reader, in order, none twice and none lost",
    32: "What is left early is hung up on, and not recorded as a failure",
    33: "A hedge goes to another endpoint, draws on the budget, and only where a repeat is safe",
    34: "In no window is more than the rate sent, and what was not sent is given back",
    35: "The last route is never put out of use by being put aside",
    36: "What is done once for many (a model's load) survives each of them",
    37: "A cache never keeps a part of an answer or an error",
    38: "What a listener or telemetry raises changes no outcome",
    39: "The same seed gives the same decisions",
    40: "Sockets, pool slots and tasks come back to where they were",
    41: "Where nothing fails the answer is the backend's, after one attempt",
    42: "An error carries its last cause upstream and every attempt",
    43: "A refusal of ours sends no byte and takes no time",
    44: "Tokens used and wasted add up to those of all attempts",
}
NOTHING_TO_HOLD = {
    33: "There is no hedging: a call has one attempt at a time.",
    37: "There is no cache.",
}
_HEAD = """\
# What always holds, and where that is shown

Made by `python -m tests.docs.invariants` from the tests, which name the numbers that they hold
(`@pytest.mark.invariant(…)`). Most are tried beside a model of their own, over every way of ten steps, at every
checkpoint, or over days of simulated time, and not by an example.

| | what always holds | shown by |
|---|---|---|
"""


def held() -> Iterator[tuple[int, str, str]]:
    """Number, file and name of every test that holds an invariant."""
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.invariant" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.invariant":
                        for number in mark.args:
                            yield ast.literal_eval(number), path.relative_to(ROOT).as_posix(), node.name


def page() -> str:
    """The page as it should be."""
    found: dict[int, list[str]] = {number: [] for number in INVARIANTS}
    for number, path, name in sorted(held()):
        words = name.removeprefix("test_").replace("_", " ")
        found[number].append(f"[{words}](../{path})")
    rows = []
    for number, text in INVARIANTS.items():
        shown = "; ".join(found[number]) or f"– {NOTHING_TO_HOLD.get(number, '')}"
        rows.append(f"| {number} | {text} | {shown} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
