"""Writes `docs/errors.md`: `python -m tests.docs.errors`. All that it says of a class stands at the class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import resilient_llm
from resilient_llm import LLMError, errors
from resilient_llm.policies import plan
from resilient_llm.policies.retry import _ONCE, _TIMEOUTS
from resilient_llm.serving import STATUS

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
_HEAD = """\
# Errors

Made by `python -m tests.docs.errors` from the classes. Everything that a call raises on purpose is an `LLMError`, and
what each means for retries, fallback and the circuit breaker are facts on the error, which you can read as well:

```python
from resilient_llm import AsyncClient, LLMError, RateLimited
from resilient_llm.testing import FakeBackend, fail, say

llm = AsyncClient(FakeBackend(fail(RateLimited("slow down", retry_after=300)), say("hello"), name="hosted"))
try:
    await llm.chat("hi")
except LLMError as error:
    print(type(error).__name__, error.retryable, error.falls_back, error.fault, error.retry_after)
    print(*[f"{one.route} {one.kind} {type(one.error).__name__}" for one in error.attempts])
```

```text
RateLimited True True None 300
hosted first RateLimited
```

- One route that failed raises its own error, so `except RateLimited` does not depend on how many routes there are.
  Several raise `AllRoutesFailed`, with `.failures` in order; a deadline that ends is always `DeadlineExceeded`.
- An error carries every attempt of its call (`.attempts`) and what the server said last (`__cause__`); a budget that is
  empty or a breaker that has opened meanwhile never hides it.
- No error shows a key, a prompt or an answer in its text, its `repr` or its traceback. What had arrived of an answer is
  in `.partial`.
- The class says what holds by default; an instance may say otherwise, because a server or a short deadline did
  ([which answer of which server becomes what](outcomes.md)).

Those in **bold** can be imported from `resilient_llm`, all of them from `resilient_llm.errors`.

| column | meaning |
|---|---|
| fault | who is to blame; only `backend` counts against the circuit breaker |
| repeat | whether the same route may be asked again, within `Retry` and its budget |
| falls back | whether the next route is asked; `Route(falls_back_on=…)` opts in |
| HTTP | what `resilient_llm.serving.http_status` makes of it, for those who serve |

"""


def tree(kind: type[LLMError] = LLMError, depth: int = 0) -> Iterator[tuple[int, type[LLMError]]]:
    """The class and those below it, in the order in which they are written."""
    yield depth, kind
    for below in kind.__subclasses__():
        first = below.__bases__[0] is kind
        if first and below.__module__ == kind.__module__ and below.__name__ in errors.__all__:
            yield from tree(below, depth + 1)


def _repeat(kind: type[LLMError]) -> str:
    if not kind.retryable:
        return "no"
    if issubclass(kind, _ONCE):
        return "once"
    return "yes, but not on the same local box" if issubclass(kind, _TIMEOUTS) else "yes"


def _status(kind: type[LLMError]) -> str:
    if kind is errors.AllRoutesFailed:
        return "of the last"
    return str(next(STATUS[one] for one in kind.__mro__ if one in STATUS))


def table() -> str:
    """All classes, and what they say."""
    lines = ["| error | fault | repeat | falls back | HTTP |", "|---|---|---|---|---|"]
    for depth, kind in tree():
        name = f"[{kind.__name__}](#{kind.__name__.lower()})"
        shown = f"**{name}**" if kind.__name__ in resilient_llm.__all__ else name
        fault = "of the last" if kind is errors.AllRoutesFailed else kind.fault or "nobody"
        falls = "yes" if kind.falls_back else "no"
        lines.append(f"| {'&emsp;' * depth}{shown} | {fault} | {_repeat(kind)} | {falls} | {_status(kind)} |")
    return "\n".join(lines) + "\n"


def _words(kind: type[LLMError]) -> Iterator[str]:
    """The docstring, its attributes as a list."""
    text, _, attributes = inspect.getdoc(kind).partition("\nAttributes:\n")  # type: ignore[union-attr]
    yield " ".join(text.split())
    items = re.split(r"(?m)^    (?=\w+: )", attributes)[1:]
    if items:
        yield "\n".join(
            f"- `.{name}`: {' '.join(meaning.split())}" for name, _, meaning in (item.partition(": ") for item in items)
        )


def _facts(kind: type[LLMError]) -> str:
    also = [base.__name__ for base in kind.__bases__ if not issubclass(base, LLMError) and base is not Exception]
    above = [base.__name__ for base in kind.__bases__ if issubclass(base, LLMError)]
    facts = [f"Is a `{name}`." for name in above if name != "LLMError"] + [f"Is a `{name}` as well." for name in also]
    if issubclass(kind, plan._ASIDE_FOR):
        facts.append(f"Puts its route aside for `retry_after`, else {plan.ASIDE:g} s: later calls try it last.")
    return " ".join(facts)


def page() -> str:
    """The page as it should be."""
    parts = [_HEAD + table()]
    for _, kind in tree():
        parts.append(f"## {kind.__name__}\n")
        parts.append("\n\n".join([*_words(kind), *filter(None, [_facts(kind)])]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
