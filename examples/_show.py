"""How the demo looks: headings, answers while they come, the account of a call, and claims that are checked.

No colour where it is not wanted (`NO_COLOR`) or not understood (a file, a pipe).
"""

from __future__ import annotations

import io
import os
import sys
import textwrap
from collections.abc import Sequence

from resilient_llm import Attempt, ChatStream, ReasoningDelta, TextDelta

BOLD, RED, GREEN, CYAN = "1", "31", "32", "36"
INDENT = "   "
COLOURED = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")  # a model may say what this terminal cannot show


def paint(text: str, *codes: str) -> str:
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if COLOURED else text


def heading(number: int, title: str) -> None:
    print(f"\n{paint(str(number), BOLD, CYAN)}  {paint(title, BOLD)}")


def line(text: str) -> None:
    print(textwrap.indent(text, INDENT))


async def as_it_comes(stream: ChatStream) -> int:
    """Prints each piece of an answer at once, what a model thinks first included, and counts them."""
    pieces = 0
    print(INDENT, end="")
    async for event in stream:
        if isinstance(event, TextDelta | ReasoningDelta):
            print(event.text.replace("\n", f"\n{INDENT}"), end="", flush=True)
            pieces += 1
    print()
    return pieces


def account(attempts: Sequence[Attempt], total: float) -> None:
    """Route, attempts, time to first token, total: the same four for an answer and for an error."""
    last = attempts[-1]
    each = ", ".join(f"{one.route} {type(one.error).__name__ if one.error else 'ok'}" for one in attempts)
    count = f"{len(attempts)} attempt{'s' * (len(attempts) > 1)} ({each})"
    first = "no first token" if last.first_token is None else f"first token {last.first_token:.2f} s"
    line(paint(f"{last.route} · {count} · {first} · total {total:.2f} s", CYAN))


class Claims:
    """What was said of each outcome, and how much of it did not hold."""

    def __init__(self) -> None:
        self.broken = 0

    def check(self, claim: str, held: object, found: object = "nothing of the kind") -> None:
        """Shows the claim and, if it did not hold, what was found instead."""
        if held:
            line(f"{paint('✓', GREEN)} {claim}")
        else:
            self.broken += 1
            line(paint(f"✗ expected: {claim}; found: {found}", BOLD, RED))
