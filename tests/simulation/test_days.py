"""A day on each event loop, from a seed; the same seed gives the same decisions; a broken promise is noticed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import CircuitBreaker, RateLimit, RetryBudget, _run
from resilient_llm._deadline import Deadline
from resilient_llm._run import Gathered, Run
from resilient_llm._watch import Watch
from resilient_llm.policies.bulkhead import Slot

from .run import LOOPS, simulate

ROOT = Path(__file__).parents[2]
each_loop = pytest.mark.parametrize("loop", LOOPS)


@pytest.mark.invariant(2, 3, 4, 5, 15, 16, 17, 21, 31, 34, 42)
@each_loop
def test_a_day_breaks_no_promise(loop: str) -> None:
    story = simulate(2026, 1, loop)
    assert story.calls > 2000
    assert story.transitions > 200
    kinds = {"cancelled", "left", "DeadlineExceeded", "AllRoutesFailed", "StreamInterrupted", "OutputInvalid"}
    assert kinds <= story.ends.keys()  # a day in which nothing goes wrong would show nothing


@pytest.mark.invariant(39)
@each_loop
def test_the_same_seed_gives_the_same_decisions_and_another_one_others(loop: str) -> None:
    first, again, other = (simulate(seed, 0.1, loop) for seed in (5, 5, 6))
    assert first.log == again.log != other.log


@pytest.mark.invariant(39)
@each_loop
def test_no_decision_depends_on_how_python_hashes(loop: str) -> None:
    told = set()
    for hash_seed in ("1", "4242"):
        command = [
            sys.executable,
            "-m",
            "tests.simulation",
            "--seed",
            "9",
            "--days",
            "0.1",
            "--loop",
            loop,
            "--log",
        ]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        log, _, summary = done.stdout.strip().rpartition(b"\n")
        assert summary.startswith(b"seed 9")
        assert log.count(b"\n") > 500
        told.add(log)
    assert len(told) == 1


def a_budget_that_is_never_empty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RetryBudget, "draw", lambda budget: True)


def a_breaker_that_lets_all_probes_through(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CircuitBreaker, "_full", lambda breaker, now: None)


def a_breaker_that_is_never_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_run, "judge", lambda run, permit, error, now: None)


def a_slot_that_is_kept_now_and_then(patch: pytest.MonkeyPatch) -> None:
    release, count = Slot.release, iter(range(10**9))
    patch.setattr(Slot, "release", lambda slot, now: release(slot, now) if next(count) % 50 else None)


def a_piece_that_comes_twice(patch: pytest.MonkeyPatch) -> None:
    add = Gathered.add
    patch.setattr(Gathered, "add", lambda gathered, batch: add(gathered, [*batch, *batch]))


def a_limit_that_knows_no_deadline(patch: pytest.MonkeyPatch) -> None:
    made = Watch.__init__

    def timeless(watch: Watch, deadline: Deadline, *rest: Any, **more: Any) -> None:
        made(watch, Deadline(math.inf, math.inf), *rest, **more)

    patch.setattr(Watch, "__init__", timeless)


def a_wait_that_knows_no_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deadline, "left", lambda deadline, now: 1e9)


def a_rate_limit_that_always_has_room(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RateLimit, "_room", lambda rate, tokens, now: now)


def an_attempt_that_is_not_told(patch: pytest.MonkeyPatch) -> None:
    end = Run.end

    def forgetful(run: Any, *error: Any) -> None:
        end(run, *error)
        if len(run.call.attempts) > 1:
            del run.call.attempts[0]

    patch.setattr(Run, "end", forgetful)


SABOTAGE = [
    a_budget_that_is_never_empty, a_breaker_that_lets_all_probes_through, a_breaker_that_is_never_told,
    a_slot_that_is_kept_now_and_then, a_piece_that_comes_twice, a_limit_that_knows_no_deadline,
    a_wait_that_knows_no_deadline, a_rate_limit_that_always_has_room, an_attempt_that_is_not_told,
]  # fmt: skip


@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda sabotage: sabotage.__name__)
def test_a_promise_that_is_broken_on_purpose_is_noticed_and_the_seed_is_told(
    sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        simulate(2, 1, "asyncio")
    error: BaseException = caught.value
    assert any("--seed 2" in note for note in error.__notes__)
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, AssertionError)


_BROKEN = """
import pytest
from tests.simulation import __main__ as command
from tests.simulation.test_days import a_piece_that_comes_twice as sabotage
sabotage(pytest.MonkeyPatch())
command.main()
"""


def test_a_failure_prints_the_command_that_plays_it_again() -> None:
    """Without a seed, as `make simulate` does it: the one from the clock is told, and gives the very same failure."""
    given, said = ["--days", "2"], []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", _BROKEN, *given], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0
        (replay,) = {line for line in done.stderr.splitlines() if "replay: python -m tests.simulation " in line}
        said.append(done.stderr.replace(str(ROOT), ""))
        given = replay.partition("tests.simulation ")[2].split()
        assert given[0] == "--seed"
    assert said[0] == said[1]
