"""What may be replaced and what may not: `chat` commits with the whole answer, `stream` with its first event."""

from __future__ import annotations

import anyio
import pytest

from resilient_llm import (
    AllRoutesFailed,
    CircuitBreaker,
    ConfigError,
    Done,
    Restarted,
    Retry,
    RetryBudget,
    Route,
    TextDelta,
    Timeouts,
)
from resilient_llm.errors import BadRequest, DeadlineExceeded, ServerError, StreamInterrupted, StreamStalled, Truncated
from resilient_llm.testing import FakeBackend, cut, ends, error_line, fail, hang, say, stall

from .kit import assert_nothing_held, client, error_of, unlimited

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)
BREAKS = [
    (cut("half ", "an "), StreamInterrupted),
    (ends("half ", "an "), Truncated),
    (stall("half ", "an "), StreamStalled),
    (fail(ServerError("out of memory"), after=["half ", "an "]), StreamInterrupted),
]


@pytest.mark.parametrize(("step", "kind"), BREAKS)
async def test_a_chat_whose_answer_breaks_off_is_answered_by_the_next_route(step: object, kind: type) -> None:
    first = Route(FakeBackend(step, name="a"), retry=ONCE)  # type: ignore[arg-type]
    reply = await client(first, FakeBackend(say("whole"), name="b")).chat("hi")
    assert (reply.text, reply.route) == ("whole", "b")
    assert type(reply.attempts[0].error) is kind
    assert reply.attempts[0].error.partial == "half an "


@pytest.mark.parametrize(("step", "kind"), BREAKS[:2])
async def test_a_chat_whose_answer_breaks_off_is_asked_for_again(step: object, kind: type) -> None:
    reply = await client(FakeBackend(step, say("whole"))).chat("hi")  # type: ignore[arg-type]
    assert reply.text == "whole"
    assert [(one.kind, type(one.error)) for one in reply.attempts] == [("first", kind), ("retry", type(None))]


@pytest.mark.invariant(17, 31)
@pytest.mark.parametrize(("step", "kind"), BREAKS)
async def test_a_stream_is_never_replayed_after_its_first_event(step: object, kind: type) -> None:
    first, second = FakeBackend(step, say("again"), name="a"), FakeBackend(say("other"), name="b")  # type: ignore[arg-type]
    async with client(first, second).stream("hi") as stream:
        with pytest.raises(kind):
            async for _ in stream:
                pass
    assert len(first.requests) == 1
    assert second.requests == []


async def test_before_its_first_event_a_stream_is_tried_again_and_elsewhere() -> None:
    first = Route(FakeBackend(fail(ServerError("no")), name="a"), retry=Retry(attempts=2))
    async with client(first, FakeBackend(cut(), say("yes"), name="b")).stream("hi") as stream:
        texts = [text async for text in stream.text()]
    assert texts == ["yes"]
    assert [one.route for one in stream.reply.attempts] == ["a", "a", "b", "b"]


def after_the_last_restart(events: list[object]) -> str:
    """The rule for a reader: what came before a `Restarted` is forgotten."""
    last = max((at for at, event in enumerate(events) if isinstance(event, Restarted)), default=-1)
    return "".join(event.text for event in events[last + 1 :] if isinstance(event, TextDelta))


@pytest.mark.parametrize(("step", "kind"), BREAKS)
async def test_a_route_may_ask_for_restarts_and_each_is_told(step: object, kind: type) -> None:
    first = FakeBackend(step, name="a")  # type: ignore[arg-type]
    llm = client(Route(first, on_break="restart"), FakeBackend(say("the ", "whole"), name="b"))
    async with llm.stream("hi") as stream:
        events: list[object] = [event async for event in stream]
    assert [type(event) for event in events] == [TextDelta, TextDelta, Restarted, TextDelta, TextDelta, Done]
    told = events[2]
    assert isinstance(told, Restarted)
    assert (told.route, type(told.error)) == ("b", kind)
    assert after_the_last_restart(events) == stream.reply.text == "the whole"
    assert stream.reply.degraded == ("restarted",)
    assert [(one.route, one.kind) for one in stream.reply.attempts] == [("a", "first"), ("b", "fallback")]
    assert_nothing_held(llm, first)


async def test_who_reads_strings_alone_gets_no_text_twice_but_the_error() -> None:
    first, second = FakeBackend(cut("the ", "wh"), name="a"), FakeBackend(say("the ", "whole"), name="b")
    llm, texts = client(Route(first, on_break="restart"), second), list[str]()
    with pytest.raises(StreamInterrupted) as caught:
        async with llm.stream("hi") as stream:
            async for text in stream.text():
                texts.append(text)
    assert texts == ["the ", "wh"]
    assert (caught.value.partial, caught.value.route) == ("the wh", "a")
    assert_nothing_held(llm, first, second)


async def test_a_restart_comes_back_to_its_own_route_last() -> None:
    first, second = FakeBackend(cut("x"), say("yes"), name="a"), FakeBackend(fail(ServerError("no")), name="b")
    async with client(Route(first, on_break="restart"), Route(second, retry=ONCE)).stream("hi") as stream:
        events: list[object] = [event async for event in stream]
    assert [one.route for one in stream.reply.attempts] == ["a", "b", "a"]
    assert after_the_last_restart(events) == "yes"


async def test_a_route_without_restarts_ends_what_another_route_restarted() -> None:
    first, second = FakeBackend(cut("x"), name="a"), FakeBackend(cut("y"), name="b")
    async with client(Route(first, on_break="restart"), second).stream("hi") as stream:
        with pytest.raises(StreamInterrupted) as caught:
            async for _ in stream:
                pass
    assert caught.value.route == "b"
    assert caught.value.partial == "y"


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_restarts_on_one_route_are_bounded_by_its_attempts(attempts: int) -> None:
    backend = FakeBackend(cut("x"))
    breaker = CircuitBreaker(mode="observe_only")
    route = Route(backend, on_break="restart", retry=Retry(attempts=attempts), budget=unlimited(), breaker=breaker)
    async with client(route).stream("hi") as stream:
        with pytest.raises(StreamInterrupted):
            async for _ in stream:
                pass
    assert len(backend.requests) == attempts


async def test_restarts_draw_on_the_budget_of_the_route_that_broke() -> None:
    backend = FakeBackend(cut("x"))
    budget = RetryBudget(ratio=0, burst=1)
    llm = client(Route(backend, on_break="restart", retry=Retry(attempts=5), budget=budget))
    async with llm.stream("hi") as stream:
        error = await error_of(_read(stream), StreamInterrupted)
    assert len(backend.requests) == len(error.attempts) == 2


async def test_a_restart_on_a_route_that_was_not_tried_is_free() -> None:
    first = Route(FakeBackend(cut("x"), name="a"), on_break="restart", budget=RetryBudget(ratio=0, burst=0))
    second = Route(FakeBackend(say("yes"), name="b"), budget=RetryBudget(ratio=0, burst=0))
    async with client(first, second).stream("hi") as stream:
        await _read(stream)
    assert stream.reply.route == "b"


async def test_a_restart_does_not_go_back_to_a_local_box_that_stalled() -> None:
    backend = FakeBackend(stall("x"), local=True)
    async with client(Route(backend, on_break="restart")).stream("hi") as stream:
        await error_of(_read(stream), StreamStalled)
    assert len(backend.requests) == 1


async def test_a_restart_that_finds_no_route_tells_of_every_failure() -> None:
    first, second = FakeBackend(cut("x"), name="a"), FakeBackend(fail(ServerError("no")), name="b")
    first.then(fail(BadRequest("no")))
    async with client(Route(first, on_break="restart"), Route(second, retry=ONCE)).stream("hi") as stream:
        error = await error_of(_read(stream), AllRoutesFailed)
    assert [type(one) for one in error.failures] == [ServerError, BadRequest]  # the last one of each route
    assert [type(one.error) for one in error.attempts] == [StreamInterrupted, ServerError, BadRequest]
    assert error.attempts[0].error.partial == "x"


async def test_the_deadline_is_not_extended_by_a_restart() -> None:
    backend = FakeBackend(stall("x"), hang())
    llm = client(Route(backend, on_break="restart", timeouts=Timeouts(between_tokens=2)), timeout=10)
    began = anyio.current_time()
    async with llm.stream("hi") as stream:
        await error_of(_read(stream), DeadlineExceeded)
    assert anyio.current_time() - began == pytest.approx(10)
    assert backend.opened == 2


async def _read(stream: object) -> None:
    async for _ in stream:  # type: ignore[attr-defined]
        pass


async def test_what_a_backend_hands_over_at_once_is_one_commit() -> None:
    async with client(FakeBackend(say("a", "b", joined=True))).stream("hi") as stream:
        assert [type(event) async for event in stream] == [TextDelta, TextDelta, Done]


def test_a_fake_without_a_wire_says_so() -> None:
    with pytest.raises(ConfigError):
        FakeBackend(error_line("x"))  # type: ignore[arg-type]
