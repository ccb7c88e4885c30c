"""What `on_event` is told: everything once, in order, without a word of what was said; and it can break nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, CircuitBreaker, ContextGuard, Message, Retry, Route, drop_oldest
from resilient_llm.errors import (
    ConfigError,
    ConnectFailed,
    ContextOverflow,
    LLMError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from resilient_llm.events import (
    AttemptEnded,
    AttemptStarted,
    BreakerChanged,
    CallEnded,
    CallStarted,
    ClientEvent,
    FellBack,
    FirstToken,
    PromptTrimmed,
    RetryPlanned,
    RoutePutAside,
)
from resilient_llm.testing import FakeBackend, cut, fail, hang, say, stall

from .kit import Ask, assert_nothing_held, cancelled_at, client, error_of

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)


def short(events: list[ClientEvent]) -> list[str]:
    """The events without their figures."""
    return [type(event).__name__ for event in events]


async def test_a_call_that_succeeds_at_once(ask: Ask) -> None:
    told: list[ClientEvent] = []
    await ask(client(FakeBackend(say("hel", "lo", first=2.0)), on_event=told.append), tags=["a", "b"])
    assert told[:3] == [
        CallStarted(1, ask.way, ("a", "b")),
        AttemptStarted(1, "fake", 1, "first"),
        FirstToken(1, "fake", 1, 2.0),
    ]
    attempt, call = told[3:]
    assert isinstance(attempt, AttemptEnded)
    assert isinstance(call, CallEnded)
    assert (attempt.outcome, attempt.attempt.number, attempt.attempt.first_token) == ("ok", 1, 2.0)
    assert (call.outcome, call.route, call.error, call.attempts) == ("ok", "fake", None, (attempt.attempt,))
    assert call.seconds == pytest.approx(2.0)


async def test_a_repeat_and_a_fallback_are_told_in_order(ask: Ask) -> None:
    told: list[ClientEvent] = []
    first = FakeBackend(fail(ConnectFailed("no")), fail(RateLimited("later", retry_after=40.0)), name="first")
    llm = client(first, FakeBackend(say("yes"), name="second"), on_event=told.append)
    await ask(llm)
    assert short(told) == [
        "CallStarted",
        "AttemptStarted", "AttemptEnded", "RetryPlanned",
        "AttemptStarted", "SlotsChanged", "AttemptEnded", "RoutePutAside", "FellBack",
        "AttemptStarted", "FirstToken", "AttemptEnded",
        "CallEnded",
    ]  # fmt: skip
    (planned,) = (event for event in told if isinstance(event, RetryPlanned))
    (aside,) = (event for event in told if isinstance(event, RoutePutAside))
    (fell,) = (event for event in told if isinstance(event, FellBack))
    ended = [event for event in told if isinstance(event, AttemptEnded)]
    assert (planned.route, type(planned.error)) == ("first", ConnectFailed)
    assert 0 <= planned.wait == pytest.approx(ended[1].attempt.started - ended[0].attempt.total)
    assert (aside.route, aside.seconds) == ("first", 40.0)
    assert (fell.before, fell.after, type(fell.error)) == ("first", "second", RateLimited)
    assert [event.outcome for event in ended] == ["failed", "failed", "ok"]


async def test_a_call_that_fails_tells_its_error(ask: Ask) -> None:
    told: list[ClientEvent] = []
    error = await error_of(ask(client(Route(FakeBackend(fail(ConnectFailed("no"))), retry=ONCE), on_event=told.append)))
    last = told[-1]
    assert isinstance(last, CallEnded)
    assert (last.outcome, last.error, last.route) == ("failed", error, None)


async def test_what_is_refused_before_a_route_was_chosen_ends_too(ask: Ask) -> None:
    told: list[ClientEvent] = []
    llm = client(FakeBackend(zone="internet"), on_event=told.append)
    await error_of(ask(llm, local_only=True))
    assert short(told) == ["CallStarted", "CallEnded"]


async def test_every_start_has_its_end_wherever_the_caller_leaves(ask: Ask) -> None:
    number = 1
    while True:
        told: list[ClientEvent] = []
        backend = FakeBackend(fail(ConnectFailed("no")), say("hel", "lo", first=1.0, gap=1.0))
        llm = client(Route(backend, retry=Retry(attempts=2)), on_event=told.append)
        cancelled = await cancelled_at(number, ask(llm))
        kinds = [type(event) for event in told]
        assert kinds.count(CallStarted) == kinds.count(CallEnded)
        assert kinds.count(AttemptStarted) == kinds.count(AttemptEnded)
        if not cancelled:
            break
        if told:
            assert isinstance(told[-1], CallEnded)
            assert told[-1].outcome == "cancelled"
        number += 1
    assert number > 5


async def test_a_stream_left_early_and_one_dropped_are_told_as_left() -> None:
    told: list[ClientEvent] = []
    llm = client(FakeBackend(stall("hel")), on_event=told.append)
    async with llm.stream("hi") as stream:
        await anext(stream)
    assert [(type(event), event.outcome) for event in told[-2:]] == [(AttemptEnded, "left"), (CallEnded, "left")]  # type: ignore[union-attr]
    told.clear()
    dropped = llm.stream("hi")
    await dropped.__aenter__()
    with pytest.warns(ResourceWarning, match="dropped"):
        del dropped
    assert [(type(event), event.outcome) for event in told[-2:]] == [(AttemptEnded, "left"), (CallEnded, "left")]  # type: ignore[union-attr]


async def test_a_stream_that_breaks_ends_the_call_once() -> None:
    told: list[ClientEvent] = []
    llm = client(FakeBackend(cut("hel")), on_event=told.append)
    async with llm.stream("hi") as stream:
        with pytest.raises(StreamInterrupted):
            async for _ in stream:
                pass
    assert short(told).count("CallEnded") == 1
    assert told[-1].outcome == "failed"  # type: ignore[union-attr]


async def test_a_restart_is_part_of_its_call() -> None:
    told: list[ClientEvent] = []
    first = Route(FakeBackend(cut("hel"), name="first"), on_break="restart")
    async with client(first, FakeBackend(say("yes"), name="second"), on_event=told.append).stream("hi") as stream:
        async for _ in stream:
            pass
    assert short(told).count("CallEnded") == short(told).count("CallStarted") == 1
    assert told[-1].route == "second"  # type: ignore[union-attr]


async def test_an_embedding_in_batches_is_one_call() -> None:
    told: list[ClientEvent] = []
    await client(FakeBackend(), on_event=told.append).embed(["a"] * 300)
    assert short(told).count("CallStarted") == short(told).count("CallEnded") == 1
    assert short(told).count("AttemptEnded") == 2
    assert told[0] == CallStarted(1, "embed")


@pytest.mark.invariant(13)
async def test_a_breaker_and_the_guard_are_told(ask: Ask) -> None:
    told: list[ClientEvent] = []
    route = Route(
        FakeBackend(fail(ConnectFailed("no"))), retry=ONCE, breaker=CircuitBreaker(failures=1),
        guard=ContextGuard(window=300, reserve=10, overflow=drop_oldest),
    )  # fmt: skip
    llm = client(route, on_event=told.append)
    await error_of(ask(llm, [Message("user", "word " * 400), Message("assistant", "x"), Message("user", "hi")]))
    assert PromptTrimmed(1, "fake", 3, 1) in told
    assert BreakerChanged("fake", "closed", "open", "1 failure in a row") in told
    await error_of(ask(llm, "word " * 600))
    (refused,) = (event for event in told if isinstance(event, AttemptEnded) and event.call == 2)
    assert isinstance(refused.attempt.error, ContextOverflow)


@pytest.mark.invariant(38)
async def test_a_listener_that_raises_is_logged_and_the_others_hear(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    told: list[ClientEvent] = []

    def broken(event: ClientEvent) -> None:
        raise RuntimeError("sesame")

    with caplog.at_level(logging.WARNING, "resilient_llm"):
        reply = await ask(client(FakeBackend(say("ok")), on_event=(broken, told.append)))
    assert reply.text == "ok"
    assert short(told)[-1] == "CallEnded"
    assert "broken raised RuntimeError on CallStarted" in caplog.text
    assert "sesame" not in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
async def test_whatever_ends_a_listener_of_a_breaker_the_slot_is_given_back(kind: type[BaseException]) -> None:
    def listener(change: object) -> None:
        raise kind

    breaker = CircuitBreaker(failures=1)
    breaker.on_change.append(listener)
    backend = FakeBackend(fail(ServerError("no")), slots=1)
    llm = client(Route(backend, retry=Retry(attempts=1), breaker=breaker))
    with pytest.raises(kind):
        await llm.chat("hi")
    assert llm.snapshot()["fake"]["breaker"].state == "open"
    assert_nothing_held(llm, backend)


async def test_no_event_shows_a_prompt_or_an_answer(ask: Ask) -> None:
    told: list[ClientEvent] = []
    first = Route(FakeBackend(cut("sesame"), name="first"), retry=ONCE)
    llm = client(first, FakeBackend(cut("sesame"), name="second"), on_event=told.append)
    await error_of(ask(llm, "sesame"))
    for event in told:
        values = list(event)
        assert "sesame" not in f"{event!r} {values} {[str(value) for value in values if isinstance(value, LLMError)]}"


@pytest.mark.parametrize("wrong", [7, [7], "log"])
def test_what_cannot_be_called_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="on_event"):
        AsyncClient(FakeBackend(), on_event=wrong)


async def test_a_call_in_the_queue_that_gives_up_ends(ask: Ask) -> None:
    told: list[ClientEvent] = []
    llm = client(FakeBackend(hang(), slots=1), on_event=told.append)
    async with anyio.create_task_group() as group:
        group.start_soon(error_of, ask(llm, timeout=5.0))
        await anyio.wait_all_tasks_blocked()
        await error_of(ask(llm, timeout=2.0))
        ended = [event for event in told if isinstance(event, CallEnded)]
        assert [event.call for event in ended] == [2]
        assert ended[0].attempts[0].queue == pytest.approx(2.0)
