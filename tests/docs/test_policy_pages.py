"""A page for each policy, all of one plan; the numbers on it are those of the code, and what it emits there is."""

from __future__ import annotations

import re

import pytest

import resilient_llm
from resilient_llm import CircuitBreaker, Retry, RetryBudget, errors, events
from resilient_llm._deadline import CEILING
from resilient_llm._leg import HOSTED_MOST, HOSTED_SLOTS
from resilient_llm.policies import breaker as breakers
from resilient_llm.policies import bulkhead, plan, retry, timeouts
from resilient_llm.policies._slots import ABANDONED

from .conftest import ROOT

FOLDER = ROOT / "docs" / "policies"
PAGES = ["deadline", "fallback", "timeouts", "retry", "circuit-breaker", "bulkhead", "rate-limit"]
SECTIONS = ["Usage", "Defaults", "What it emits", "Anti-patterns"]
each_page = pytest.mark.parametrize("page", PAGES)


def sections(page: str) -> dict[str, str]:
    """The text below each heading; that before the first is below the empty one."""
    parts = re.split(r"(?m)^## (.+)$", (FOLDER / f"{page}.md").read_text())
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_every_policy_has_a_page_and_the_front_page_leads_to_it() -> None:
    assert sorted(PAGES) == sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "README")
    front = (FOLDER / "README.md").read_text()
    assert [page for page in PAGES if f"({page}.md)" not in front] == []


@each_page
def test_a_page_has_all_its_parts_in_their_order(page: str) -> None:
    found = sections(page)
    plan_of_it = [name if name in found else {"Defaults": "Rules"}.get(name, name) for name in SECTIONS]
    assert [name for name in found if name] == plan_of_it
    assert re.search(r"(?m)^```(mermaid)?\n[^`]{80,}^```$", found[""]), "a diagram stands before the usage"
    assert "```python\n" in found["Usage"]
    assert len(re.findall(r"(?m)^- ", found["Anti-patterns"])) >= 3


@each_page
def test_every_default_has_its_reason(page: str) -> None:
    found = sections(page)
    table = rows(found.get("Defaults") or found["Rules"])
    assert len(table) >= 3
    head = next(line for line in (found.get("Defaults") or found["Rules"]).splitlines() if line.startswith("|"))
    assert head.rstrip("| ").endswith("why")
    reasons = [row[-1] for row in table]
    assert [row for row, reason in zip(table, reasons, strict=True) if not reason and row[0] != "embed"] == []


@each_page
def test_what_it_emits_there_is(page: str) -> None:
    names = re.findall(r"`([A-Z]\w+)", sections(page)["What it emits"])
    known = {*errors.__all__, *events.__all__, *resilient_llm.__all__, "TimeoutError"}
    assert names
    assert [name for name in names if name not in known] == []


def test_the_front_page_tells_of_every_event_once() -> None:
    front = (FOLDER / "README.md").read_text()
    table = front[front.index("| event | when |") :]
    told = [name for row in rows(table) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(told) == sorted(name for name in events.__all__ if name != "ClientEvent")


def seconds(value: float) -> str:
    return f"{value:g} s"


NUMBERS: dict[str, list[tuple[str, list[str]]]] = {
    # page: the beginning of a row, and what stands in it
    "deadline": [
        ("chat, stream", [f"{seconds(timeouts.DEADLINE_CHAT[local])} to the first token" for local in (True, False)]),
        ("chat, stream", [f"{CEILING / 60:g} minutes"]),
        ("embed", [seconds(timeouts.DEADLINE_EMBED[local]) for local in (True, False)]),
        ("kept for later routes", [f"{seconds(plan.RESERVE)}, or half of what is left"]),
    ],
    "timeouts": [
        (f"`{name}`", [seconds(getattr(timeouts.resolve(None, local=local), name)) for local in (True, False)])
        for name in ("connect", "first_token", "between_tokens")
    ]
    + [
        ("`load`", [seconds(timeouts.resolve(None, local=True).load)]),
        ("`first_token`", [f"{seconds(timeouts.FIRST_TOKEN_REASONING)} with `reasoning=`"]),
    ],
    "retry": [
        ("`attempts`", [f"{retry.ATTEMPTS[True]}, and 1 after a timeout", f"| {retry.ATTEMPTS[False]} |"]),
        ("wait", [f"0 to {retry.BASE:g}, ", f"… {seconds(retry.TOP[True])}", f"… {seconds(retry.TOP[False])}"]),
        ("wait", [f"({retry.THROTTLED:g} if throttled)"]),
        ("`Retry-After`", ["up to 10 % late", f"Above {seconds(retry.LONGEST_HINT)} it is not waited for"]),
        ("`patience`", [seconds(Retry().patience)]),
        ("budget", [f"+{RetryBudget().ratio:g} a call, at most 5", f"+0.1, at most {RetryBudget().burst:g}"]),
    ],
    "circuit-breaker": [
        ("`failures`", [f"{CircuitBreaker().failures} in a row"]),
        ("`rate`", [f"half of the last {CircuitBreaker().window}, at least {CircuitBreaker().min_calls}"]),
        ("`rate`", [f"none older than {seconds(breakers.OLDEST)}"]),
        ("slow", [f"{breakers.SLOW_IN_A_ROW} in a row", f"{seconds(breakers.SLOW)} without an event"]),
        ("`cooldown`", [seconds(CircuitBreaker().cooldown), f"to {seconds(CircuitBreaker().max_cooldown)}"]),
        ("`Retry-After`", [f"up to {seconds(breakers.LONGEST_HINT)}"]),
        ("`successes`", [f"| {CircuitBreaker().successes} |"]),
        ("`lease`", [seconds(CircuitBreaker().lease)]),
    ],
    "bulkhead": [("`slots`", ["| 1, ", f"| {HOSTED_SLOTS} |"]), ("moves", [f"up to {HOSTED_MOST:,}", "to 70 %"])],
}  # fmt: skip


@pytest.mark.parametrize("page", NUMBERS)
def test_the_numbers_on_a_page_are_those_of_the_code(page: str) -> None:
    lines = [line for line in sections(page)["Defaults"].splitlines() if line.startswith("|")]
    for beginning, words in NUMBERS[page]:
        row = next(line for line in lines if line.startswith(f"| {beginning}"))
        for word in words:
            assert word in row
    assert CircuitBreaker().rate == 0.5  # "half"


def test_the_time_after_which_a_stream_is_forgotten_is_that_of_the_code() -> None:
    assert f"nobody has read it for {seconds(ABANDONED)}" in sections("bulkhead")["Usage"]
    assert bulkhead.LOOK < ABANDONED
    assert f"else {plan.ASIDE:g} s" in sections("fallback")["Rules"]
