"""`ChatStream`: the events of an answer in their order, its end, and every way of leaving it."""

from __future__ import annotations

import anyio
import pytest

from resilient_llm import Bulkhead, ChatReply, Done, ReasoningDelta, Route, StreamInterrupted, TextDelta, ToolCall
from resilient_llm.errors import ClientClosed, ConfigError, EmptyReply, ServerError, StreamStalled, Truncated
from resilient_llm.testing import FakeBackend, cut, ends, fail, hang, say, slow_close, stall

from .kit import assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio


@pytest.mark.invariant(31)
async def test_the_events_come_in_order_and_the_last_one_is_done() -> None:
    call = ToolCall("get_weather", {"city": "Paris"}, "c1")
    backend = FakeBackend(say("hel", "lo", reasoning=["think"], tool_calls=[call]))
    async with client(backend).stream("hi") as stream:
        events = [event async for event in stream]
    assert [type(event) for event in events] == [ReasoningDelta, TextDelta, TextDelta, ToolCall, Done]
    assert stream.reply.text == "hello"
    assert stream.reply.reasoning == "think"
    assert stream.reply.tool_calls == (call,)
    assert stream.reply.finish_reason == "tool_calls"


async def test_events_arrive_as_they_come_and_not_at_the_end() -> None:
    async with client(FakeBackend(say(*"abc", first=2, gap=3))).stream("hi") as stream:
        began = anyio.current_time()
        times = [round(anyio.current_time() - began, 6) async for _ in stream.text()]
    assert times == [0, 3, 6]


async def test_a_stream_and_a_chat_give_the_same_reply() -> None:
    def backend() -> FakeBackend:
        return FakeBackend(say("hel", "lo", reasoning=["hm"], finish="length", first=1, gap=1))

    async with client(backend()).stream("hi") as stream:
        async for _ in stream:
            pass
    reply = await client(backend()).chat("hi")
    assert isinstance(stream.reply, ChatReply)
    assert stream.reply == reply
    assert reply.degraded == ("cut_at_length",)


async def test_the_reply_is_there_only_after_the_last_event() -> None:
    stream = client(FakeBackend(say("a", "b"))).stream("hi")
    assert stream.partial == ""
    assert stream.route is None
    async with stream:
        assert stream.route == "fake"
        await anext(stream)
        assert stream.partial == "a"
        with pytest.raises(ConfigError, match=r"stream\.partial"):
            _ = stream.reply
        async for _ in stream:
            pass
        assert stream.reply.text == stream.partial == "ab"
    assert stream.reply.text == "ab"


async def test_after_its_end_a_stream_gives_nothing_more() -> None:
    async with client(FakeBackend(say("a"))).stream("hi") as stream:
        assert [type(event) async for event in stream] == [TextDelta, Done]
        assert [event async for event in stream] == []
    assert [event async for event in stream] == []


async def test_everything_is_given_back_with_the_last_event_and_not_with_the_block() -> None:
    backend = FakeBackend(say("a"))
    llm = client(Route(backend, bulkhead=Bulkhead(1)))
    async with llm.stream("hi") as stream:
        assert backend.active == llm.snapshot()["fake"]["bulkhead"].inflight == 1
        async for _ in stream:
            pass
        assert_nothing_held(llm, backend)
        assert (await llm.chat("another while the block is open")).text == "a"


@pytest.mark.invariant(32)
@pytest.mark.parametrize("read", [0, 1, 2])
async def test_leaving_the_block_early_hangs_up(read: int) -> None:
    backend = FakeBackend(say(*"abcdef", gap=1))
    llm = client(Route(backend, bulkhead=Bulkhead(1)))
    async with llm.stream("hi") as stream:
        for _ in range(read):
            await anext(stream)
    assert_nothing_held(llm, backend)
    assert [event async for event in stream] == []
    assert stream.partial == "abcdef"[: max(read, 1)]  # the first event had arrived with the entering
    assert llm.snapshot()["fake"]["breaker"].failures == 0


async def test_an_error_in_the_block_hangs_up_and_stays_what_it_is() -> None:
    backend = FakeBackend(say(*"abcdef", gap=1))
    llm = client(backend)
    with pytest.raises(ZeroDivisionError):
        async with llm.stream("hi") as stream:
            await anext(stream)
            raise ZeroDivisionError
    assert_nothing_held(llm, backend)


async def test_a_stream_can_be_closed_by_hand_and_twice() -> None:
    backend = FakeBackend(say(*"abc", gap=1))
    llm = client(backend)
    stream = await llm.stream("hi").__aenter__()
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    assert_nothing_held(llm, backend)


async def test_a_stream_is_entered_before_it_is_read() -> None:
    backend = FakeBackend(say("a"))
    stream = client(backend).stream("hi")
    with pytest.raises(ConfigError, match="async with"):
        await anext(stream)
    await stream.aclose()
    assert backend.requests == []


async def test_a_stream_is_entered_once() -> None:
    stream = client(FakeBackend(say("a"))).stream("hi")
    async with stream:
        pass
    with pytest.raises(ConfigError, match="entered before"):
        async with stream:
            pass


async def test_a_stream_of_a_client_that_was_closed_meanwhile_cannot_be_entered() -> None:
    backend = FakeBackend(say("a"))
    llm = client(backend)
    stream = llm.stream("hi")
    await llm.aclose()
    await error_of(stream.__aenter__(), ClientClosed)
    assert backend.opened == 0


BREAKS = [
    (stall("a", "b"), StreamStalled),
    (cut("a", "b"), StreamInterrupted),
    (ends("a", "b"), Truncated),
    (fail(ServerError("out of memory"), after=["a", "b"]), StreamInterrupted),
]


@pytest.mark.parametrize(("step", "kind"), BREAKS)
async def test_what_breaks_after_the_first_event_keeps_what_had_arrived(step: object, kind: type) -> None:
    backend = FakeBackend(step)  # type: ignore[arg-type]
    llm = client(backend, FakeBackend(say("other"), name="b"))
    texts: list[str] = []
    async with llm.stream("hi") as stream:
        with pytest.raises(kind) as caught:
            async for text in stream.text():
                texts.append(text)
        assert [event async for event in stream] == []
    assert texts == ["a", "b"]
    assert caught.value.partial == stream.partial == "ab"
    assert caught.value.route == "fake"
    assert [type(one.error) for one in caught.value.attempts] == [kind]
    assert_nothing_held(llm, backend)
    with pytest.raises(ConfigError):
        _ = stream.reply


async def test_an_answer_that_is_whole_does_not_wait_for_a_slow_close() -> None:
    backend = FakeBackend(slow_close("a", "b", seconds=100))
    async with client(backend).stream("hi") as stream:
        async for _ in stream:
            pass
    assert stream.reply.text == "ab"
    assert stream.reply.timings.total < 0.1


async def test_an_answer_of_nothing_is_an_error() -> None:
    backend = FakeBackend(say())
    empty = await error_of(client(backend).stream("hi").__aenter__(), EmptyReply)
    assert len(empty.attempts) == len(backend.requests) == 2
    assert backend.active == 0


@pytest.mark.invariant(31)
async def test_two_streams_at_once_do_not_mix() -> None:
    llm = client(FakeBackend(say(*"aaaa", gap=2), say(*"bbbb", gap=2)))
    async with llm.stream("1") as one, llm.stream("2") as two:
        got = [(await anext(one), await anext(two)) for _ in range(4)]
    assert [repr(pair) for pair in got] == ["(TextDelta(1 chars), TextDelta(1 chars))"] * 4
    assert (one.partial, two.partial) == ("aaaa", "bbbb")


async def test_a_stream_may_be_read_in_another_task_than_the_one_that_entered_it() -> None:
    backend = FakeBackend(say(*"abc", gap=1))
    llm = client(backend)
    texts: list[str] = []
    async with llm.stream("hi") as stream:

        async def read() -> None:
            texts.extend([text async for text in stream.text()])

        async with anyio.create_task_group() as group:
            group.start_soon(read)
    assert texts == ["a", "b", "c"]
    assert_nothing_held(llm, backend)


async def test_a_read_that_was_cancelled_ends_the_stream() -> None:
    backend = FakeBackend(say(*"abc", gap=5))
    llm = client(backend)
    async with llm.stream("hi") as stream:
        await anext(stream)
        with anyio.move_on_after(1) as scope:
            await anext(stream)
        assert scope.cancelled_caught
        assert_nothing_held(llm, backend)
        assert [event async for event in stream] == []


async def test_a_stream_that_hangs_before_its_first_event_goes_elsewhere_on_entering() -> None:
    async with client(FakeBackend(hang()), FakeBackend(say("yes"), name="b")).stream("hi", timeout=8) as stream:
        assert [text async for text in stream.text()] == ["yes"]
    assert [one.route for one in stream.reply.attempts] == ["fake", "b"]
