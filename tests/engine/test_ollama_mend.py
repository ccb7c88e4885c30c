"""A wedged runner: found by one token, mended step by step, and never at the cost of an answer that is coming."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread
import pytest

from resilient_llm import AsyncClient, CircuitBreaker, ConfigError, Ollama, Retry, Route, Timeouts
from resilient_llm.backends import _ollama_mend as mend
from resilient_llm.errors import ConnectFailed, FirstTokenTimeout, ServerError
from resilient_llm.telemetry import _semconv as names
from resilient_llm.testing import FakeBackend, FakeOllama, fail, hang, refuse, say, status

from .kit import REAL, error_of

pytestmark = [pytest.mark.anyio, REAL]
QUICK = Timeouts(load=20, first_token=0.3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder of seconds instead of minutes."""
    for name, seconds in {"TOKEN": 0.5, "OWN": 2.0, "GONE": 2.0, "RESTART": 2.0, "LOOK": 0.05}.items():
        monkeypatch.setattr(mend, name, seconds)


def route(server: FakeOllama, hook: Callable[[Ollama], object] | None = None) -> Route:
    backend = Ollama("llama3.2", base_url=server.url, on_wedged=hook)
    return Route(backend, timeouts=QUICK, retry=Retry(attempts=1), breaker=CircuitBreaker(cooldown=30))


async def wedge(llm: AsyncClient) -> None:
    """Two first tokens that do not come open the breaker."""
    for _ in range(2):
        await error_of(llm.chat("hi"), FirstTokenTimeout)


async def eventually(state: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not state():
            await anyio.sleep(0.02)


def loads(server: FakeOllama) -> int:
    return server.loads.completed


def told(log: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in one.getMessage() for one in log.records)


async def test_a_runner_that_hangs_is_unloaded_and_loaded_and_calls_go_elsewhere_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "resilient_llm")
    with FakeOllama(hang(), hang(), hang(), say("a"), say("yes")) as server:
        async with AsyncClient(route(server), FakeBackend(say("far"), name="far")) as llm:
            for _ in range(3):
                assert (await llm.chat("hi")).text == "far"
            await eventually(lambda: told(caplog, "gives tokens again, after it was loaded anew"))
            assert loads(server) == 2
            assert llm.snapshot()["ollama:llama3.2"]["model"]["in_memory"] is True
        unloads = [one for one in server.requests if one.kind == "load" and one.json.get("keep_alive") == 0]
        assert len(unloads) == 1
        canaries = [one for one in server.chats if one.json["options"]["num_predict"] == 1]
        assert len(canaries) == 2  # before and after
    lines = [vars(one) for one in caplog.records if names.REMEDY in vars(one)]
    assert [(one["levelname"], one[names.REQUEST_MODEL], one[names.REMEDY]) for one in lines] == [
        ("WARNING", "llama3.2", "asking"), ("WARNING", "llama3.2", "loading")
    ]  # fmt: skip
    assert told(caplog, "is wedged")


async def test_if_that_does_not_help_the_hook_is_called_with_the_backend_and_its_work_is_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "resilient_llm")
    called: list[tuple[str, bool]] = []
    with FakeOllama(hang()) as server:

        def restart(backend: Ollama) -> None:
            called.append((backend.model, threading.current_thread() is threading.main_thread()))
            server.then(say("a"))

        async with AsyncClient(route(server, restart)) as llm:
            await wedge(llm)
            await eventually(lambda: told(caplog, "gives tokens again, after on_wedged"))
    assert called == [("llama3.2", False)]  # a restart may take its time: not on the event loop


async def test_a_hook_may_be_async_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "resilient_llm")

    async def restart(backend: Ollama) -> None:
        raise OSError("systemctl: not found")

    with FakeOllama(hang()) as server:
        async with AsyncClient(route(server, restart)) as llm:
            await wedge(llm)
            await eventually(lambda: told(caplog, "on_wedged raised OSError"))


async def test_without_a_hook_it_is_said_that_nobody_restarts_the_server(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "resilient_llm")
    with FakeOllama(hang()) as server:
        async with AsyncClient(route(server)) as llm:
            await wedge(llm)
            await eventually(lambda: told(caplog, "see Ollama(on_wedged=…)"))


async def test_a_runner_that_gives_its_token_is_left_alone() -> None:
    with FakeOllama(hang(), hang(), say("a")) as server:
        async with AsyncClient(route(server)) as llm:
            await wedge(llm)
            await eventually(lambda: len(server.chats) == 3)
            await eventually(lambda: llm.snapshot()["ollama:llama3.2"]["model"]["mending"] is None)
            assert loads(server) == 1


async def test_nothing_is_unloaded_while_an_answer_of_ours_is_coming(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "resilient_llm")
    with FakeOllama(say(*["word "] * 200, gap=0.05), hang()) as server:
        slow = Route(
            Ollama("llama3.2", base_url=server.url), timeouts=Timeouts(first_token=0.3), retry=Retry(attempts=1)
        )
        other = Route(slow.backend, timeouts=QUICK, retry=Retry(attempts=1), name="other")
        async with AsyncClient(slow) as llm, AsyncClient(other) as hung:
            async with llm.stream("hi") as stream:
                await anext(stream)
                await wedge(hung)
                await eventually(lambda: told(caplog, "it stays in memory"))
                await anext(stream)
            assert loads(server) == 1


async def test_a_server_that_is_down_is_not_wedged() -> None:
    called: list[Ollama] = []
    with FakeOllama(refuse()) as server:
        backend = Ollama("llama3.2", base_url=server.url, on_wedged=called.append)
        async with AsyncClient(Route(backend, breaker=CircuitBreaker(failures=1), retry=Retry(attempts=1))) as llm:
            await error_of(llm.chat("hi"), ConnectFailed)
            await anyio.sleep(0.2)
            assert llm.snapshot()["ollama:llama3.2"]["model"]["mending"] is None
    assert not called


async def test_a_server_that_says_what_is_wrong_is_not_wedged() -> None:
    with FakeOllama(status(500)) as server:
        async with AsyncClient(route(server)) as llm:
            for _ in range(5):
                await error_of(llm.chat("hi"), ServerError)
            await eventually(lambda: len(server.chats) == 6)
            await eventually(lambda: llm.snapshot()["ollama:llama3.2"]["model"]["mending"] is None)
            assert loads(server) == 1


async def test_closing_the_client_ends_the_ladder() -> None:
    with FakeOllama(hang()) as server:
        async with AsyncClient(route(server)) as llm:
            await wedge(llm)
            await eventually(lambda: len(server.chats) == 3)
        await anyio.to_thread.run_sync(partial(server.wait_idle))


async def test_a_health_check_asks_for_a_token_and_not_for_metadata() -> None:
    with FakeOllama(say("a"), hang()) as server:
        async with AsyncClient(route(server), FakeBackend(fail(ConnectFailed("down")), name="far")) as llm:
            health = await llm.health()
            assert list(health) == ["ollama:llama3.2", "far"]
            assert health["ollama:llama3.2"] is None
            assert isinstance(health["far"], ConnectFailed)
            assert server.chats[-1].json["options"]["num_predict"] == 1
            assert isinstance((await llm.health())["ollama:llama3.2"], FirstTokenTimeout)


async def test_a_route_that_is_busy_with_our_own_answers_is_as_well_as_they_are() -> None:
    with FakeOllama(say(*["word "] * 100, gap=0.05)) as server:
        async with AsyncClient(route(server)) as llm, llm.stream("hi") as stream:
            await anext(stream)
            assert (await llm.health(timeout=0.3)) == {"ollama:llama3.2": None}
            assert len(server.chats) == 1


async def test_a_hook_is_a_function() -> None:
    with pytest.raises(ConfigError, match="on_wedged"):
        Ollama("m", on_wedged="systemctl restart ollama")  # type: ignore[arg-type]
