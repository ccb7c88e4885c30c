"""The page `docs/outcomes.md`: what each failure of each server becomes. `python -m tests.wire.outcomes` writes it.

Rules of the file: no cell is written by hand. The error is what the wire makes of a case of the corpus; what follows
from it is asked of the policies themselves, with their defaults for a hosted server.
"""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from resilient_llm import _errors as e
from resilient_llm.policies.breaker import CircuitBreaker
from resilient_llm.policies.plan import aside_for
from resilient_llm.policies.retry import Retry

from .corpus import CASES, Case

PAGE = Path(__file__).parents[2] / "docs" / "outcomes.md"
HEAD = """\
# What each failure becomes

Every kind of server fails in its own words. This page says what `resilient_llm` makes of them: which error, and what
follows from it. It is made by `python -m tests.wire.outcomes`: the errors by the code that reads answers, from the
{count} answers in [`tests/wire/cases`](../tests/wire/cases/README.md), and what follows by the policies themselves, as
they are by default for a hosted server. {recorded} of these answers were recorded from real servers, the others are
written after the sources that stand beside them there.

| column | meaning |
|---|---|
| HTTP | the status; 200 is an error, or an end, in the body of an answer that had begun well |
| error | its class in `resilient_llm.errors` |
| retried here | whether the same request is sent to the same route again; "once" is one repeat, whatever `attempts=` allows. A wait above 120 s is not waited for |
| falls back | whether the next route is tried; `Route(falls_back_on=…)` opts in where it says "no" |
| counts | whether it counts against the circuit breaker of the route |
| put aside | how long the route is tried last by later calls |

"""
COLUMNS = ("failure", "HTTP", "error", "retried here", "falls back", "counts", "put aside")
LOCAL = """\
## Whatever the server

What happens before there is an answer to be read, or beside it.

"""
UNREAD = (  # what no bytes of a server tell
    ("no connection: refused, reset, no such name, TLS", e.ConnectFailed()),
    ("no connection in time", e.ConnectTimeout()),
    ("model not in memory in time", e.LoadTimeout()),
    ("no first token in time", e.FirstTokenTimeout()),
    ("connection broke in mid-answer", e.StreamInterrupted()),
    ("no further token in time", e.StreamStalled()),
    ("breaker open", e.CircuitOpen()),
    ("deadline", e.DeadlineExceeded()),
)
_PATIENT = {"local": False, "left": math.inf, "others": False}


def _retried(error: e.LLMError) -> str:
    rng = random.Random(0)
    first, second = (Retry(attempts=3).delay(tried, error, rng, **_PATIENT) for tried in (1, 2))  # type: ignore[arg-type]
    wait = error.retry_after
    if first is None:
        return "no" if not error.retryable or wait is None else f"no: {wait:g} s"
    if second is None:
        return "once"
    return "yes" if wait is None else f"yes, after {wait:g} s"


def _falls_back(error: e.LLMError) -> str:
    if not error.falls_back:
        return "no"
    return "to a larger window" if isinstance(error, e.ContextOverflow) else "yes"


def _counts(error: e.LLMError) -> str:
    breaker = CircuitBreaker(failures=1)
    breaker.admit(0.0).judge(error, 0.0)
    return "yes" if breaker.state(0.0) == "open" else "no"


def _aside(error: e.LLMError) -> str:
    seconds = aside_for(error)
    return "" if seconds is None else f"{seconds:g} s"


def _follows(error: e.LLMError) -> tuple[str, str, str, str, str]:
    return type(error).__name__, _retried(error), _falls_back(error), _counts(error), _aside(error)


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (COLUMNS, ("---",) * len(COLUMNS), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n"


def _rows(cases: Iterable[Case]) -> Iterator[tuple[str, ...]]:
    for case in cases:
        error = case.outcome()
        if isinstance(error, e.LLMError):
            yield (case.name, str(case.status), *_follows(error))


def page() -> str:
    """The whole page."""
    failures = [case for case in CASES if case.error]
    parts = [HEAD.format(count=len(failures), recorded=sum(case.recorded for case in failures)), LOCAL]
    parts += _table((name, "", *_follows(error)) for name, error in UNREAD)
    in_order = sorted(failures, key=lambda case: (case.server == "any server", case.server.lower()))
    for server, cases in groupby(in_order, key=lambda case: case.server):
        parts += [f"\n## {server[0].upper()}{server[1:]}\n\n", *_table(_rows(cases))]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
