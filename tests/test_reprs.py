"""What a failed test shows of a part says what it is and what state it is in, and not where it lies in memory."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    ChatRequest,
    CircuitBreaker,
    Client,
    ContextGuard,
    Message,
    RateLimit,
    Retry,
    RetryBudget,
    Route,
    Timeouts,
    policies,
)
from resilient_llm._deadline import Deadline
from resilient_llm._watch import Watch
from resilient_llm.policies._admission import Admission
from resilient_llm.policies._queue import Queue
from resilient_llm.policies._slots import Limit, Tokens, Waiter
from resilient_llm.policies.rate import Reservation
from resilient_llm.policies.timeouts import resolve
from resilient_llm.policies.tokens import Estimates, Extent
from resilient_llm.testing import FakeBackend

pytestmark = pytest.mark.anyio
ENGINE = ("_answer", "_call", "_canary", "_deadline", "_engine", "_gathered", "_leg", "_route", "_run", "_watch")


def parts() -> Iterator[type]:
    """All classes that are a part of a policy or of the engine."""
    names = [f"policies.{module.name}" for module in pkgutil.iter_modules(policies.__path__)]
    for name in (*names, *ENGINE):
        module = importlib.import_module(f"resilient_llm.{name}")
        for one in vars(module).values():
            own = inspect.isclass(one) and one.__module__ == module.__name__
            if own and not issubclass(one, BaseException) and not getattr(one, "_is_protocol", False):
                yield one


@pytest.mark.parametrize("kind", list(parts()), ids=lambda kind: kind.__qualname__)
def test_every_part_has_words_of_its_own(kind: type) -> None:
    assert kind.__repr__ is not object.__repr__


def asked(now: float) -> Any:
    raise AssertionError(now)


async def test_they_say_what_it_is_and_what_state_it_is_in() -> None:
    waiter = Waiter(asked, asked, 1.0, 9.5)
    watch = Watch(Deadline(10, 10), resolve(None, local=True), lambda: 2.0)
    watch.enter("connect")
    rate, tokens = RateLimit(60, 900), Tokens(3)
    room = rate.reserve(100, 0)
    assert isinstance(room, Reservation)
    tokens.take()
    tokens.resize(-3)
    breaker = CircuitBreaker()
    alone = breaker.permit(lambda: 0.0)
    before = repr(alone)
    with alone:
        during = repr(alone)
    closed = "CircuitBreaker(closed, 0 of 5 failures in a row,"
    opens = "opens at 50% of 5 to 20, for 5 to 30 s,"
    shown = [
        (repr(waiter), "Waiter(waits, from 1 to 9.5, again at None)"),
        (repr(watch), "Watch(in connect until 4, now 2; spent: first_token 0 s)"),
        (repr(tokens), "Tokens(0 free, 1 owed)"),
        (repr(Limit(4, 8)), "Limit(4 of at most 8, 0 answers towards the next)"),
        (repr(Limit(4)), "Limit(4, 0 answers towards the next)"),
        (repr(Queue()), "Queue(0 in 0 lanes)"),
        (repr(Estimates()), "Estimates(0 parts known)"),
        (repr(Extent(ChatRequest((Message("user", "hello"),)))), "Extent(5 characters, 0 images)"),
        (repr(room), "Reservation(100 tokens, open)"),
        (repr(room._counted), "_Counted(100 tokens at 0)"),
        (repr(rate), "RateLimit(60 requests and 900 tokens a minute, 100 tokens taken)"),
        (before, "Guarded(not entered)"),
        (during, "Guarded(Permit(normal, generation 0))"),
        (repr(RetryBudget()), "RetryBudget(10.0 of 10 left, +0.1 a call)"),
        (repr(Bulkhead(2)), "Bulkhead(0 of 2 slots in use, 0 queued)"),
        (repr(Bulkhead(2, 8)), "Bulkhead(0 of 2 slots in use, at most 8, 0 queued)"),
        (repr(breaker), f"{closed} 0 of 1 failed, {opens} closes after 2 successes, lease 120 s)"),
        (repr(CircuitBreaker(successes=1)), f"{closed} 0 of 0 failed, {opens} closes after 1 success, lease 120 s)"),
        (repr(Timeouts(connect=1)), "Timeouts(connect=1, load=None, first_token=None, between_tokens=None)"),
        (repr(Retry()), "Retry(attempts=None, wait=None, patience=3.0)"),
        (repr(AsyncClient(FakeBackend(name="a"), FakeBackend(name="b"))), "AsyncClient(a, b)"),
        (repr(AsyncClient(FakeBackend(name="a"))._engine), "Engine(a)"),
        (repr(Client(FakeBackend(name="a"))), "Client(a)"),
    ]
    assert [said for said, _ in shown] == [expected for _, expected in shown]
    assert repr(Admission(breaker, rate, 5)) == f"Admission({breaker!r}, {rate!r}, 5 tokens, by {math.inf})"
    assert repr(Route(FakeBackend(name="a"), retry=Retry(), guard=ContextGuard())) == (
        "Route(FakeBackend('a', 0 requests, 0 active), retry=Retry(attempts=None, wait=None, patience=3.0),"
        f" guard={ContextGuard()!r})"
    )
