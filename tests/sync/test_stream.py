"""The stream of `Client`: every event once and in order, never far ahead of its reader, and an end that is told.

`ChatStream` is the same without threads and has its own tests; here is what the queue between them could lose.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from resilient_llm import (
    Client,
    ConfigError,
    Done,
    Ollama,
    Restarted,
    Retry,
    Route,
    StreamInterrupted,
    TextDelta,
    Timeouts,
    ToolCall,
)
from resilient_llm._portal import Errand
from resilient_llm.errors import ClientClosed, ConnectFailed, StreamStalled
from resilient_llm.testing import FakeBackend, FakeOllama, cut, fail, say, stall

QUEUE = 64  # events that may wait for their reader


class Counting:
    """A backend that gives `total` numbered pieces without a pause and counts what was read from it."""

    name = "counting"

    def __init__(self, total: int) -> None:
        self.total, self.read, self.closed = total, 0, False

    def open(self, request: object, watch: object, *, stream: bool = True) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Any]:
        self.read += 1
        return [TextDelta(f"{self.read} ")] if self.read <= self.total else [Done()]


def settled(value: Any, *, still: float = 0.1) -> Any:
    """What `value()` is when it has not changed for a while."""
    end = time.monotonic() + 10
    last, since = value(), time.monotonic()
    while time.monotonic() - since < still:
        assert time.monotonic() < end, "it goes on changing"
        time.sleep(0.005)
        if (now := value()) != last:
            last, since = now, time.monotonic()
    return last


def test_every_event_comes_once_and_in_order_through_a_queue_that_is_often_full() -> None:
    backend = Counting(2000)
    with Client(backend) as llm, llm.stream("count") as stream:
        numbers = []
        for text in stream.text():
            numbers.append(int(text))
            if len(numbers) % 500 == 0:
                settled(lambda: backend.read, still=0.02)
        assert numbers == list(range(1, 2001))
        assert stream.reply.text == "".join(f"{number} " for number in numbers)


def test_the_reading_stops_when_the_queue_is_full_and_goes_on_when_there_is_room() -> None:
    backend = Counting(1000)
    with Client(backend) as llm, llm.stream("count") as stream:
        taken = 0
        for more in (0, 40, 200):
            for _ in range(more):
                next(stream)
            taken += more
            ahead = settled(lambda: backend.read) - taken
            assert QUEUE // 2 <= ahead <= QUEUE + 1  # one is read before the queue is found to be full


class Flood:
    """A step of a fake server: pieces of 32 kB, counted as they are sent."""

    def __init__(self, pieces: int) -> None:
        self.pieces, self.sent = pieces, 0

    def actions(self, answer: Any) -> Iterator[Any]:
        def counted(actions: Iterable[Any]) -> Iterator[Any]:
            for action in actions:
                self.sent += 1
                yield action

        return counted(say(*["x" * 32768] * self.pieces).actions(answer))


def test_a_reader_that_is_slow_makes_the_server_wait() -> None:
    flood = Flood(2000)  # 64 MB: far more than what the buffers of both sockets hold
    with FakeOllama(flood) as server, Client(Ollama("llama3.2", base_url=server.url)) as llm:
        with llm.stream("hi") as stream:
            next(stream)
            assert settled(lambda: flood.sent, still=0.3) < 1000
        server.wait_for(lambda: server.chats[0].ended == "disconnected")


def test_the_gap_limit_does_not_count_while_the_queue_is_full() -> None:
    backend = Counting(300)
    route = Route(backend, timeouts=Timeouts(between_tokens=0.2))
    with Client(route) as llm, llm.stream("count") as stream:
        next(stream)
        settled(lambda: backend.read)
        time.sleep(0.5)
        assert sum(1 for _ in stream.text()) == 299


def test_leaving_early_hangs_up_and_hands_nothing_over_any_more() -> None:
    with FakeOllama(stall("a", "b", "c")) as server, Client(Ollama("llama3.2", base_url=server.url)) as llm:
        with llm.stream("hi") as stream:
            assert next(stream).text == "a"
            while stream.partial != "abc":
                time.sleep(0.001)
        assert list(stream) == []
        assert stream.partial == "abc"
        server.wait_for(lambda: server.chats[0].ended == "disconnected")
        assert llm.snapshot()["ollama:llama3.2"]["bulkhead"].inflight == 0
        stream.close()


def test_an_exception_in_the_block_hangs_up_and_stays_what_it_is() -> None:
    with FakeOllama(stall("a"), say("fine")) as server, Client(Ollama("llama3.2", base_url=server.url)) as llm:
        with pytest.raises(ZeroDivisionError), llm.stream("hi") as stream:
            _ = 1 / (len(next(stream).text) - 1)
        server.wait_for(lambda: server.chats[0].ended == "disconnected")
        assert llm.chat("hi").text == "fine"


def test_a_stream_that_is_dropped_warns_and_hangs_up() -> None:
    with FakeOllama(stall("a"), say("fine")) as server, Client(Ollama("llama3.2", base_url=server.url)) as llm:
        stream = llm.stream("hi").__enter__()
        next(stream)
        with pytest.warns(ResourceWarning, match=r"Stream\(open, 1 chars.*use with"):
            del stream
        server.wait_for(lambda: server.chats[0].ended == "disconnected")
        assert llm.chat("hi").text == "fine"


def test_the_warning_tells_of_the_stream_as_it_was_dropped_however_fast_it_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = FakeBackend(stall("a"))
    cancel = Errand.cancel

    def ended_at_once(errand: Errand[Any], why: str) -> None:
        cancel(errand, why)
        settled(lambda: backend.active)

    with Client(backend) as llm:
        stream = llm.stream("hi").__enter__()
        next(stream)
        monkeypatch.setattr(Errand, "cancel", ended_at_once)
        with pytest.warns(ResourceWarning, match=r"Stream\(open, 1 chars.*use with"):
            del stream
        assert backend.active == 0


def test_it_hangs_up_also_where_warnings_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[type[BaseException]] = []  # not the exception, which would keep itself, and the stream, for ever
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))
    backend = FakeBackend(stall("a"))
    with Client(backend) as llm, warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = llm.stream("hi").__enter__()
        del stream
        settled(lambda: backend.active)
        assert backend.active == 0
    assert shown == [ResourceWarning]


def test_a_stream_that_has_ended_or_was_never_entered_is_dropped_in_silence() -> None:
    with Client(FakeBackend(say("a"))) as llm, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        llm.stream("hi")
        with llm.stream("hi") as stream:
            list(stream)
        del stream
        stream = llm.stream("hi").__enter__()
        list(stream)
        del stream
        assert [one for one in told if issubclass(one.category, ResourceWarning)] == []


def test_after_its_end_it_is_empty() -> None:
    with Client(FakeBackend(say("a", "b"))) as llm, llm.stream("hi") as stream:
        assert [type(event) for event in stream] == [TextDelta, TextDelta, Done]
        assert next(stream, None) is None
        assert list(stream.text()) == []


def test_the_reply_is_there_after_the_last_event_and_not_before() -> None:
    """Also when the answer has long arrived: else it would depend on who is faster."""
    backend = FakeBackend(say("a", "b"))
    with Client(backend) as llm, llm.stream("hi") as stream:
        while backend.active:
            time.sleep(0.001)
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"stream\.partial"):
                _ = stream.reply
            next(stream)
        with pytest.raises(ConfigError):
            _ = stream.reply
        assert isinstance(next(stream), Done)
        assert (stream.reply.text, stream.route) == ("ab", "fake")


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        pytest.param(cut("hel", "lo"), StreamInterrupted, id="cut"),
        pytest.param(stall("hel", "lo"), StreamStalled, id="stall"),
        pytest.param(fail(ConnectFailed("gone"), after=("hel", "lo")), StreamInterrupted, id="failed"),
    ],
)
def test_what_breaks_in_mid_answer_is_raised_after_all_that_came_before_it(step: Any, kind: type[Exception]) -> None:
    backend = FakeBackend(step)
    with Client(Route(backend, timeouts=Timeouts(between_tokens=0.2))) as llm, llm.stream("hi") as stream:
        while backend.active:
            time.sleep(0.001)
        got = []
        with pytest.raises(kind) as caught:
            got.extend(stream.text())
            pytest.fail("it ended like a whole answer")
        with pytest.raises(ConfigError):
            _ = stream.reply
        assert list(stream) == []
    assert caught.value.partial == "hello"


def test_who_reads_strings_alone_gets_no_text_twice_but_the_error() -> None:
    first, second = FakeBackend(cut("the ", "wh"), name="a"), FakeBackend(say("the ", "whole"), name="b")
    got: list[str] = []
    with Client(Route(first, on_break="restart"), second) as llm:
        with pytest.raises(StreamInterrupted) as caught, llm.stream("hi") as stream:
            for text in stream.text():
                got.append(text)
        assert (got, caught.value.partial) == (["the ", "wh"], "the wh")
        assert first.active == second.active == 0


def test_what_goes_wrong_on_entering_is_raised_there_and_holds_nothing() -> None:
    backend = FakeBackend(fail(ConnectFailed("no")), say("fine"), local=True)
    with Client(Route(backend, retry=Retry(attempts=1))) as llm:
        stream = llm.stream("hi")
        with pytest.raises(ConnectFailed), stream:
            pytest.fail("it was entered")
        assert list(stream) == []
        assert backend.active == 0
        assert llm.chat("hi").text == "fine"


def test_it_is_entered_once_and_before_it_is_read() -> None:
    with Client(FakeBackend(say("a"))) as llm:
        stream = llm.stream("hi")
        with pytest.raises(ConfigError, match="enter it first"):
            next(stream)
        with stream:
            with pytest.raises(ConfigError, match="entered before"):
                stream.__enter__()
            assert list(stream.text()) == ["a"]
        with pytest.raises(ConfigError, match="entered before"):
            stream.__enter__()


def test_a_refused_argument_is_told_before_anything_is_sent() -> None:
    backend = FakeBackend()
    with Client(backend) as llm, pytest.raises(ConfigError, match="temperature"):
        llm.stream("hi", temperature=9)
    assert backend.requests == []


def test_one_thread_enters_another_reads_and_a_third_closes(worker) -> None:
    backend = FakeBackend(stall("a", "b"))
    with Client(backend) as llm:
        stream = worker(llm.stream("hi").__enter__).result()
        assert worker(lambda: [next(stream).text, next(stream).text]).result() == ["a", "b"]
        worker(stream.close).result()
        assert backend.active == 0


def test_threads_that_read_together_get_each_event_once_and_all_see_the_end(worker) -> None:
    with Client(Counting(1000)) as llm, llm.stream("count") as stream:
        readers = [worker(lambda: list(stream.text())) for _ in range(4)]
        read = [int(text) for reader in readers for text in reader.result()]
    assert sorted(read) == list(range(1, 1001))


def test_a_thread_that_waits_for_an_event_while_another_closes_is_told(worker) -> None:
    with Client(FakeBackend(stall("a"))) as llm, llm.stream("hi") as stream:
        next(stream)
        reader = worker(next, stream)
        time.sleep(0.05)  # until it waits; if it does not yet, it finds the stream closed
        stream.close()
        with pytest.raises(ClientClosed, match="closed while it was read"):
            reader.result(1)


def test_a_restarted_answer_comes_with_its_mark() -> None:
    first = Route(FakeBackend(cut("hel"), name="first"), on_break="restart")
    with Client(first, FakeBackend(say("good", "bye"), name="second")) as llm, llm.stream("hi") as stream:
        events = list(stream)
        assert [getattr(event, "text", type(event).__name__) for event in events] == [
            "hel", "Restarted", "good", "bye", "Done",
        ]  # fmt: skip
        restarted = events[1]
        assert isinstance(restarted, Restarted)
        assert restarted.route == "second"
        assert stream.reply.text == "goodbye"
        assert "restarted" in stream.reply.degraded


def test_tool_calls_come_through_whole() -> None:
    call = ToolCall("get_weather", {"city": "Paris"}, "call_1")
    with Client(FakeBackend(say(tool_calls=[call]))) as llm, llm.stream("hi") as stream:
        assert next(stream) == call


def test_many_streams_at_once_keep_apart() -> None:
    with Client(FakeBackend(slots=20)) as llm:
        barrier = threading.Barrier(20)
        answers: dict[int, str] = {}

        def read(number: int) -> None:
            barrier.wait(5)
            with llm.stream(f"number {number}") as stream:
                answers[number] = "".join(stream.text())

        threads = [threading.Thread(target=read, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert answers == {number: f"You said: number {number}" for number in range(20)}


def test_a_client_that_is_only_held_by_its_stream_lives_as_long() -> None:
    with Client(FakeBackend(say("a", "b"))).stream("hi") as stream:
        assert list(stream.text()) == ["a", "b"]


def test_its_repr_shows_no_text() -> None:
    with Client(FakeBackend(say("secret"))) as llm, llm.stream("hi") as stream:
        list(stream)
        assert repr(stream) == "Stream(over, 6 chars, fake)"
