"""One client for many threads, in a running event loop, and on the one thread where it cannot work: its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from resilient_llm import Bulkhead, CircuitBreaker, Client, ConfigError, Ollama, Retry, Route
from resilient_llm.errors import ServerError
from resilient_llm.testing import FakeBackend, FakeOllama, Recorded, fail, hang, say

THREADS, CALLS, SLOTS = 50, 4, 8


def most_at_once(requests: list[Recorded]) -> int:
    edges = [(one.started, 1) for one in requests] + [(one.finished, -1) for one in requests]
    now = most = 0
    for _, change in sorted(edges):
        now += change
        most = max(most, now)
    return most


def test_fifty_threads_get_each_its_own_answers_through_eight_slots() -> None:
    with (
        FakeOllama() as server,
        Client(Route(Ollama("llama3.2", base_url=server.url), bulkhead=Bulkhead(SLOTS))) as llm,
    ):

        def ask(thread: int) -> list[str]:
            return [llm.chat(f"{thread}-{call}").text for call in range(CALLS)]

        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(ask, range(THREADS)))
        assert answers == [[f"You said: {thread}-{call}" for call in range(CALLS)] for thread in range(THREADS)]
        assert len(server.chats) == THREADS * CALLS
        assert most_at_once(server.chats) <= SLOTS
        bulkhead = llm.snapshot()["ollama:llama3.2"]["bulkhead"]
        assert (bulkhead.inflight, bulkhead.queued) == (0, 0)
        assert sum(thread.name == "resilient_llm" for thread in threading.enumerate()) == 1


def test_threads_that_make_the_first_call_at_once_share_one_loop() -> None:
    backend, barrier = FakeBackend(), threading.Barrier(16)
    with Client(backend) as llm:

        def ask(number: int) -> str:
            barrier.wait(5)
            return llm.chat(str(number)).text

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, range(16))) == [f"You said: {number}" for number in range(16)]
        assert sum(thread.name == "resilient_llm" for thread in threading.enumerate()) == 1


def on_its_own_thread(llm: Client) -> dict[str, Callable[[], Any]]:
    return {
        "chat": lambda: llm.chat("hi"),
        "stream": lambda: llm.stream("hi").__enter__(),
        "embed": lambda: llm.embed("hi"),
        "models": llm.models,
        "warm_up": llm.warm_up,
        "close": llm.close,
    }


@pytest.mark.parametrize("what", ["chat", "stream", "embed", "models", "warm_up", "close"])
def test_a_plan_that_waits_for_its_own_loop_is_told_so(worker, what: str) -> None:
    def plan(request: object, routes: Any) -> Any:
        on_its_own_thread(llm)[what]()
        return routes

    with Client(FakeBackend(), plan=plan) as llm, pytest.raises(ConfigError, match="AsyncClient"):
        worker(llm.chat, "hi").result()


def test_a_plan_that_reads_an_open_stream_is_told_so(worker) -> None:
    def plan(request: Any, routes: Any) -> Any:
        if request.messages[0].content == "second":
            next(stream)
        return routes

    with Client(FakeBackend(say(*"x" * 200)), plan=plan) as llm, llm.stream("first") as stream:
        with pytest.raises(ConfigError, match="AsyncClient"):
            worker(llm.chat, "second").result()
        assert len(list(stream)) == 201


def test_a_listener_of_a_breaker_that_calls_the_client_is_told_so(worker) -> None:
    told: list[BaseException] = []

    def opened(change: object) -> None:
        try:
            llm.chat("hi")
        except ConfigError as error:
            told.append(error)

    breaker = CircuitBreaker(failures=1)
    breaker.on_change.append(opened)
    route = Route(FakeBackend(fail(ServerError("down"))), breaker=breaker, retry=Retry(attempts=1))
    with Client(route) as llm, pytest.raises(ServerError):
        worker(llm.chat, "hi").result()
    assert len(told) == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_plan_that_wants_the_program_to_end_does_not_end_the_loop_under_others(
    worker, error: type[BaseException]
) -> None:
    def plan(request: Any, routes: Any) -> Any:
        if request.messages[0].content == "exit":
            raise error
        return routes

    with Client(FakeBackend(), plan=plan) as llm:
        with pytest.raises(error):
            worker(llm.chat, "exit").result()
        assert worker(llm.chat, "hi").result().text == "You said: hi"


@pytest.mark.parametrize(
    "run", [asyncio.run, lambda main: anyio.run(lambda: main, backend="trio")], ids=["asyncio", "trio"]
)
def test_it_works_where_an_event_loop_is_running_as_in_a_notebook(run: Callable[[Any], Any]) -> None:
    with FakeOllama(say("hel", "lo")) as server, Client(Ollama("llama3.2", base_url=server.url)) as llm:

        async def cell() -> list[str]:
            with llm.stream("hi") as stream:
                pieces = list(stream.text())
            return [llm.chat("hi").text, *pieces]

        assert run(cell()) == ["hello", "hel", "lo"]


def test_calls_of_two_clients_may_wait_for_each_other(worker) -> None:
    """A plan runs on its client's loop; another client has another loop."""
    inner = Client(FakeBackend(say("inner")))
    asked: list[str] = []

    def plan(request: object, routes: Any) -> Any:
        asked.append(inner.chat("which route?").text)
        return routes

    with inner, Client(FakeBackend(hang(), say("outer")), plan=plan) as outer:
        waiting = worker(lambda: outer.chat("hi", timeout=0.2))
        with pytest.raises(TimeoutError):
            waiting.result()
        assert worker(outer.chat, "hi").result().text == "outer"
    assert asked == ["inner", "inner"]
