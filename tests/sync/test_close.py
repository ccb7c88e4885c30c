"""Closing waits, once is enough, and nobody who is in a call then waits for ever."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm import Client, Ollama
from resilient_llm.errors import ClientClosed
from resilient_llm.testing import FakeBackend, FakeOllama, hang, say, stall

CALLS = {
    "chat": lambda llm: llm.chat("hi"),
    "parse": lambda llm: llm.parse("hi", int),
    "embed": lambda llm: llm.embed("hi"),
    "stream": lambda llm: llm.stream("hi").__enter__(),
    "models": lambda llm: llm.models(),
    "warm_up": lambda llm: llm.warm_up(),
    "with": lambda llm: llm.__enter__(),
}


def loops() -> int:
    return sum(thread.name == "resilient_llm" for thread in threading.enumerate())


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_calls_after_it_are_refused(what: str, used: bool) -> None:
    llm = Client(FakeBackend())
    if used:
        llm.chat("hi")
    llm.close()
    with pytest.raises(ClientClosed, match="make a new one"):
        CALLS[what](llm)


def test_it_has_ended_thread_and_connections_when_it_returns() -> None:
    with FakeOllama() as server:
        llm = Client(Ollama("llama3.2", base_url=server.url))
        llm.chat("hi")
        assert loops() == 1
        llm.close()
        assert loops() == 0
        llm.close()
        llm.close()


def test_blocks_may_stand_within_each_other() -> None:
    with Client(FakeBackend()) as outer, Client(FakeBackend()) as inner:
        assert outer.chat("hi").text == inner.chat("hi").text
    with pytest.raises(ClientClosed), outer:
        pass
    with Client(FakeBackend()) as llm:
        with llm:
            llm.chat("hi")
        with pytest.raises(ClientClosed):
            llm.chat("hi")


def test_the_exception_of_a_block_is_not_replaced() -> None:
    with pytest.raises(ZeroDivisionError), Client(FakeBackend()) as llm:
        llm.chat("hi")
        _ = 1 / 0
    assert loops() == 0


def read(llm: Client) -> None:
    with llm.stream("hi") as stream:
        list(stream)


@pytest.mark.parametrize(
    ("call", "step"),
    [
        pytest.param(lambda llm: llm.chat("hi"), hang(), id="chat"),
        pytest.param(lambda llm: llm.stream("hi").__enter__(), hang(), id="entering a stream"),
        pytest.param(read, stall("hel"), id="reading a stream"),
    ],
)
def test_a_call_of_another_thread_ends_with_a_typed_error(worker, call: Any, step: Any) -> None:
    with FakeOllama(step) as server:
        llm = Client(Ollama("llama3.2", base_url=server.url))
        running, queued = worker(call, llm), worker(call, llm)
        server.wait_for(lambda: len(server.chats) == 1)
        began = time.monotonic()
        llm.close()
        assert time.monotonic() - began < 1
        for one in (running, queued):
            with pytest.raises(ClientClosed, match="during this call"):
                one.result(1)
        server.wait_for(lambda: server.chats[0].ended == "disconnected")
        assert len(server.chats) == 1
        assert loops() == 0


def test_a_stream_that_is_open_meanwhile_ends_with_a_typed_error() -> None:
    llm = Client(FakeBackend(stall("hel")))
    with llm.stream("hi") as stream:
        assert next(stream).text == "hel"
        llm.close()
        with pytest.raises(ClientClosed):
            next(stream)
        assert list(stream) == []


def test_threads_that_begin_calls_while_it_closes_all_come_back(worker) -> None:
    for _ in range(10):
        llm = Client(FakeBackend(say("hello")))

        def ask(llm: Client = llm) -> None:
            while True:
                llm.chat("hi")

        threads = [worker(ask) for _ in range(8)]
        time.sleep(0.01)
        llm.close()
        for thread in threads:
            with pytest.raises(ClientClosed):
                thread.result()


def test_a_plan_that_blocks_the_loop_does_not_hold_it_up_for_ever(worker) -> None:
    entered, leave = threading.Event(), threading.Event()

    def plan(request: object, routes: Any) -> Any:
        entered.set()
        leave.wait(20)
        return routes

    llm = Client(FakeBackend(), plan=plan)
    waiting = worker(llm.chat, "hi")
    assert entered.wait(5)
    try:
        worker(llm.close).result(6)
    finally:
        leave.set()
    with pytest.raises(ClientClosed):
        waiting.result()


def test_a_client_that_nobody_holds_any_more_ends_its_thread() -> None:
    llm = Client(FakeBackend())
    llm.chat("hi")
    assert loops() == 1
    del llm
    gc.collect()
    wait_until(lambda: loops() == 0)


def test_a_client_that_the_collector_finds_on_its_own_thread_ends_that_too() -> None:
    llm = Client(FakeBackend())
    llm.chat("hi")
    portal = llm._portal
    llm.itself = llm  # a circle, which only the garbage collector opens
    gc.disable()
    try:
        del llm
        portal.soon(gc.collect)
        wait_until(lambda: loops() == 0)
        assert loops() == 0
    finally:
        gc.enable()


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 2
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()
