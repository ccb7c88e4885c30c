"""A wedged runner: found by one token, mended step by step, and never at the cost of an answer that is coming.

In virtual time, with the real limits, against a whole Ollama whose log tells what really reached it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from resilient_llm import AsyncClient, Bulkhead, CircuitBreaker, ConfigError, Ollama, Retry, Route, Timeouts
from resilient_llm.backends import _ollama_mend as mend
from resilient_llm.errors import BackendFailed, CircuitOpen, ConnectFailed, FirstTokenTimeout, StreamStalled
from resilient_llm.telemetry import _semconv as names
from resilient_llm.testing import (
    FakeBackend,
    FakeOllama,
    Fault,
    Machine,
    Pulled,
    Settings,
    fail,
    hang,
    say,
)

from .box import Box, ollama
from .kit import REAL, client, error_of

pytestmark = pytest.mark.anyio
NAME = "ollama:llama3.2"
COOLDOWN = 5.0
WORDS = [f"{at} " for at in range(1000)]


def route(host: Box, *, hook: Callable[[Ollama], object] | None = None, **more: Any) -> Route:
    backend = ollama(host, on_wedged=hook)
    given = {"retry": Retry(attempts=1), "timeouts": Timeouts(first_token=8), "bulkhead": Bulkhead(2), **more}
    return Route(backend, **given)


async def wedge(llm: AsyncClient, host: Box) -> None:
    """The runner stands still, and two first tokens that do not come open the breaker."""
    await llm.warm_up()
    host.stop("llama3.2")
    for _ in range(2):
        await error_of(llm.chat("hi"), FirstTokenTimeout)


def state(llm: AsyncClient) -> dict[str, Any]:
    return llm.snapshot()[NAME]


def mending(llm: AsyncClient) -> str | None:
    step: str | None = state(llm)["model"]["mending"]
    return step


async def until(true: Callable[[], bool], seconds: float = 900) -> None:
    with anyio.fail_after(seconds):
        while not true():
            await anyio.sleep(0.1)


def told(log: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in one.getMessage() for one in log.records)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "resilient_llm")


@pytest.mark.parametrize("load", [1, 250], ids=["loads in a second", "loads in four minutes"])
async def test_a_runner_that_hangs_is_unloaded_and_loaded_and_calls_go_elsewhere_meanwhile(
    load: int, caplog: pytest.LogCaptureFixture
) -> None:
    host = Box(Pulled(size=2 * 10**9), machine=Machine(cached=2e9 / load))
    async with client(route(host), FakeBackend(say("far"), name="far")) as llm:
        await llm.warm_up()
        host.stop("llama3.2")
        for _ in range(2):
            assert (await llm.chat("hi")).text == "far"  # 8 s each
        before = len(host.chats)
        await anyio.sleep(0.5)
        while not told(caplog, "gives tokens again, after it was loaded anew"):
            began = anyio.current_time()
            assert (await llm.chat("hi")).text == "far"
            assert anyio.current_time() - began < 0.01  # refused here, at once
            await anyio.sleep(1)
        assert len(host.chats) == before + 2  # the canary before, and the one after
        assert [(one.why, one.outcome) for one in host.loads] == [("cold", "completed")] * 2
        assert (await llm.chat("hi")).text == "You said: hi"
        assert state(llm)["breaker"].state == "closed"  # one of its two probes was the canary
    lines = [vars(one) for one in caplog.records if names.REMEDY in vars(one)]
    assert [(one["levelname"], one[names.REQUEST_MODEL], one[names.REMEDY]) for one in lines] == [
        ("WARNING", "llama3.2", "asking"), ("WARNING", "llama3.2", "loading")
    ]  # fmt: skip
    assert told(caplog, "is wedged: no first token within 20 s")


@pytest.mark.invariant(5)
async def test_at_half_open_the_canary_is_the_one_request() -> None:
    """A thousand calls come while it is under way and while the model is mended: none of them reaches the server."""
    host = Box()
    async with client(route(host, bulkhead=Bulkhead(64))) as llm:
        await wedge(llm, host)
        await anyio.sleep(COOLDOWN)
        await until(lambda: mending(llm) == "asking", 1)
        before = len(host.chats)
        for number in range(100):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(error_of, llm.chat("hi"), CircuitOpen)
            if number == 50:
                assert mending(llm) == "asking"
            await anyio.sleep(0.2)
        assert len(host.chats) == before
        assert state(llm)["breaker"].state == "half-open"


async def test_a_call_that_is_faster_is_the_probe_and_the_canary_waits() -> None:
    host = Box()
    async with client(route(host, bulkhead=Bulkhead(64))) as llm:
        await wedge(llm, host)
        await anyio.sleep(COOLDOWN - 1e-6)
        host.resume("llama3.2")
        async with anyio.create_task_group() as group:
            await anyio.sleep(2e-6)
            for _ in range(10):
                group.start_soon(_quietly, llm)
        await anyio.sleep(60)
        assert (mending(llm), len(host.loads)) == (None, 1)
        assert host.together == 1


async def _quietly(llm: AsyncClient) -> None:
    with anyio.move_on_after(30):
        try:
            await llm.chat("hi")
        except CircuitOpen:
            return


async def test_the_canary_waits_for_a_slot_like_a_call() -> None:
    host = Box(Pulled(says=lambda _: WORDS, decode=10), settings=Settings(num_parallel=2))
    one_slot = Bulkhead(1)
    async with client(route(host, bulkhead=one_slot)) as llm, client(route(host, bulkhead=one_slot)) as other:
        await llm.warm_up()
        async with other.stream("tell") as stream:
            await anext(stream)
            llm._legs[0].breaker.admit(0).slow(0)
            llm._legs[0].breaker.admit(0).slow(0)
            await anyio.sleep(2 * COOLDOWN)
            assert (len(host.chats), mending(llm)) == (1, None)
        await until(lambda: len(host.chats) == 2, 1)


async def test_a_stream_that_stalls_is_silence_too() -> None:
    host = Box(Pulled(says=lambda _: WORDS))
    async with client(route(host)) as llm:
        await llm.warm_up()
        for _ in range(2):
            async with llm.stream("tell") as stream:
                await anext(stream)
                host.stop("llama3.2")
                with pytest.raises(StreamStalled):
                    async for _ in stream:
                        pass
            if state(llm)["breaker"].state == "closed":
                host.resume("llama3.2")
        assert state(llm)["breaker"].state == "open"
        await until(lambda: len(host.loads) == 2, 120)
        await until(lambda: mending(llm) is None)
        assert (await llm.chat("hi")).text.startswith("0 1 2")


async def test_a_slot_that_the_server_lost_is_got_back(caplog: pytest.LogCaptureFixture) -> None:
    host = Box(Pulled(says=lambda _: WORDS), faults=[Fault("loses its slot", times=1)])
    async with client(route(host)) as llm:
        async with llm.stream("tell") as stream:
            await anext(stream)
        for _ in range(2):
            await error_of(llm.chat("tell"), FirstTokenTimeout)
        await until(lambda: told(caplog, "gives tokens again, after it was loaded anew"), 60)
        assert (await llm.chat("tell")).text.startswith("0 1 2")


async def test_who_has_it_loaded_again_at_once_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """It stays while another program is answered, then a third one has it loaded: at no look it is seen gone."""
    model = Pulled(size=10**6, says=lambda _: WORDS, decode=2)
    host = Box(
        model, machine=Machine(vram=0), settings=Settings(num_parallel=4), faults=[Fault("hang", since=10, until=45)]
    )
    theirs = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "shift": False}
    async with client(route(host)) as llm:
        await llm.warm_up()
        answered = host.send("POST", "/api/chat", theirs)
        await anyio.sleep(10)
        for _ in range(2):
            await error_of(llm.chat("hi"), FirstTokenTimeout)
        await until(lambda: mending(llm) == "unloading")
        began = anyio.current_time()
        await anyio.sleep(0.1)
        host.hang_up(answered)
        host.also(host.now + 0.1, "/api/chat", theirs)
        await until(lambda: told(caplog, "gives tokens again, after it was loaded anew"), 100)
        assert anyio.current_time() - began < 10  # most of it for a prompt on a slow processor
        assert len(host.loads) == 2


class SlowToTell(httpx2.AsyncBaseTransport):
    """What is in memory is told late."""

    def __init__(self, host: Box) -> None:
        self._inner = host.transport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/api/ps":
            await anyio.sleep(0.45)
        return await self._inner.handle_async_request(request)


async def test_a_look_that_comes_late_does_not_load_what_is_just_put_out(caplog: pytest.LogCaptureFixture) -> None:
    """The attempt that is looked after is over by the time at which the server has told: nobody wants the model."""
    host = Box(machine=Machine(vram=0))
    backend = Ollama("llama3.2", http_client=httpx2.AsyncClient(transport=SlowToTell(host)))
    async with client(Route(backend, timeouts=Timeouts(first_token=8), retry=Retry(attempts=1))) as llm:
        await wedge(llm, host)
        await until(lambda: mending(llm) == "unloading")
        await anyio.sleep(0.5)  # a look that was under way has its answer
        assert len(host.loads) == 1
        await until(lambda: told(caplog, "gives tokens again, after it was loaded anew"))
        assert [(one.why, one.outcome) for one in host.loads] == [("cold", "completed")] * 2


async def test_calls_that_are_as_silent_are_ended_when_it_is_proven(caplog: pytest.LogCaptureFixture) -> None:
    host = Box(settings=Settings(num_parallel=4), faults=[Fault("stalls", since=10, until=50)])
    backend = route(host).backend
    patient = Route(backend, timeouts=Timeouts(first_token=900), retry=Retry(attempts=1), bulkhead=Bulkhead(4))
    async with client(patient, FakeBackend(say("far"), name="far")) as llm:
        first = client(Route(backend, timeouts=Timeouts(first_token=8), retry=Retry(attempts=1)))
        await llm.warm_up()
        await anyio.sleep(10)
        replies = list[tuple[str, float]]()

        async def ask() -> None:
            replies.append(((await llm.chat("hi")).text, anyio.current_time()))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
            for _ in range(2):
                await error_of(first.chat("hi"), FirstTokenTimeout)
            await until(lambda: told(caplog, "is wedged"))
            proven = anyio.current_time()
        assert [text for text, _ in replies] == ["far"] * 3
        assert max(at for _, at in replies) < proven + 0.1
        await until(lambda: told(caplog, "gives tokens again, after it was loaded anew"), 30)


async def test_if_that_does_not_help_the_hook_is_called_with_the_backend_and_its_work_is_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[str] = []
    host = Box(faults=[Fault("hang", since=10, until=500)])  # the whole server takes requests and answers none

    async def restart(backend: Ollama) -> None:
        called.append(backend.model)
        await anyio.sleep(500 - anyio.current_time())

    async with client(route(host, hook=restart)) as llm:
        await llm.warm_up()
        await anyio.sleep(10)
        for _ in range(2):
            await error_of(llm.chat("hi"), FirstTokenTimeout)
        await until(lambda: told(caplog, "gives tokens again, after on_wedged"))
        assert called == ["llama3.2"]
        assert (await llm.chat("hi")).text == "You said: hi"


async def test_a_hook_may_fail_and_is_called_at_most_once_in_two_minutes(caplog: pytest.LogCaptureFixture) -> None:
    called: list[float] = []
    host = Box(faults=[Fault("hang", since=10)])

    async def restart(backend: Ollama) -> None:
        called.append(anyio.current_time())
        raise OSError("systemctl: not found")

    async with client(route(host, hook=restart)) as llm:
        await llm.warm_up()
        await anyio.sleep(10)
        while anyio.current_time() < 1000:
            await error_of(llm.chat("hi"))
            await anyio.sleep(0.7)
    assert told(caplog, "on_wedged raised OSError")
    assert 2 <= len(called) <= 8
    assert min(b - a for a, b in pairwise(called)) >= 120


async def test_without_a_hook_it_is_said_that_nobody_restarts_the_server(caplog: pytest.LogCaptureFixture) -> None:
    host = Box(faults=[Fault("hang", since=10)])
    async with client(route(host)) as llm:
        await llm.warm_up()
        await anyio.sleep(10)
        for _ in range(2):
            await error_of(llm.chat("hi"), FirstTokenTimeout)
        await until(lambda: told(caplog, "see Ollama(on_wedged=…)"))
        assert state(llm)["breaker"].state == "open"


async def test_a_runner_that_gives_its_token_is_left_alone() -> None:
    host = Box()
    async with client(route(host)) as llm:
        await wedge(llm, host)
        host.resume("llama3.2")
        await anyio.sleep(2 * COOLDOWN)
        assert (mending(llm), len(host.chats), len(host.loads)) == (None, 3, 1)


async def test_nothing_is_unloaded_while_an_answer_of_ours_is_coming(caplog: pytest.LogCaptureFixture) -> None:
    host = Box(Pulled(says=lambda _: WORDS, decode=2))  # one slot, and an answer of eight minutes
    backend = route(host).backend
    async with client(Route(backend)) as llm, client(Route(backend, timeouts=Timeouts(first_token=8))) as hung:
        async with llm.stream("hi") as stream:
            await anext(stream)

            async def read() -> None:
                async for _ in stream:
                    pass

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                for _ in range(2):
                    await error_of(hung.chat("hi"), FirstTokenTimeout)
                await until(lambda: told(caplog, "it stays in memory"))
            assert len(stream.reply.text) > 1000
        assert len(host.loads) == 1


async def test_a_server_that_is_down_by_then_is_not_wedged() -> None:
    called: list[Ollama] = []
    host = Box()
    async with client(route(host, hook=called.append)) as llm:
        await wedge(llm, host)
        host.inject(Fault("reset"))
        await anyio.sleep(COOLDOWN + 1)
        assert host.log[-1].fault == "reset"
        assert (mending(llm), state(llm)["breaker"].state, called, len(host.loads)) == (None, "open", [], 1)


@pytest.mark.parametrize("fault", ["error line", "reset", "crashes"])
async def test_a_server_that_says_what_is_wrong_is_not_even_suspected(fault: str) -> None:
    host = Box(faults=[Fault(fault, since=10)])
    async with client(route(host)) as llm:
        await llm.warm_up()
        await anyio.sleep(10)
        for _ in range(5):
            await error_of(llm.chat("hi"), BackendFailed)
        assert state(llm)["breaker"].state == "open"
        seen = len(host.log)
        await anyio.sleep(300)
        assert len(host.log) == seen


# -- on sockets, with a ladder of seconds instead of minutes


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"TOKEN": 0.3, "OWN": 2.0, "GONE": 2.0, "RESTART": 2.0, "LOOK": 0.05}.items():
        monkeypatch.setattr(mend, name, seconds)


def on_socket(server: FakeOllama, hook: Callable[[Ollama], object] | None = None) -> Route:
    backend = Ollama("llama3.2", base_url=server.url, on_wedged=hook)
    breaker = CircuitBreaker(cooldown=0.2)
    return Route(backend, timeouts=Timeouts(first_token=0.3), retry=Retry(attempts=1), breaker=breaker)


@REAL
@pytest.mark.usefixtures("quick")
async def test_a_hook_that_is_not_async_has_a_thread_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    called: list[tuple[str, bool]] = []
    with FakeOllama(hang()) as server:

        def restart(backend: Ollama) -> None:
            called.append((backend.model, threading.current_thread() is threading.main_thread()))
            server.then(say("a"))

        async with AsyncClient(on_socket(server, restart)) as llm:
            for _ in range(2):
                await error_of(llm.chat("hi"), FirstTokenTimeout)
            await until(lambda: told(caplog, "gives tokens again, after on_wedged"), 30)
    assert called == [("llama3.2", False)]  # a restart may take its time: not on the event loop


@REAL
async def test_closing_the_client_ends_the_ladder() -> None:
    with FakeOllama(hang()) as server:
        async with AsyncClient(on_socket(server)) as llm:
            for _ in range(2):
                await error_of(llm.chat("hi"), FirstTokenTimeout)
            await until(lambda: len(server.chats) == 3, 30)
            breaker = state(llm)["breaker"]
            assert breaker.state == "half-open"
        await anyio.to_thread.run_sync(partial(server.wait_idle))


@REAL
async def test_a_health_check_asks_for_a_token_and_not_for_metadata() -> None:
    with FakeOllama(say("a"), hang()) as server:
        async with AsyncClient(on_socket(server), FakeBackend(fail(ConnectFailed("down")), name="far")) as llm:
            health = await llm.health()
            assert list(health) == [NAME, "far"]
            assert health[NAME] is None
            assert isinstance(health["far"], ConnectFailed)
            assert server.chats[-1].json["options"]["num_predict"] == 1
            assert isinstance((await llm.health())[NAME], FirstTokenTimeout)


async def test_a_route_that_is_busy_with_our_own_answers_is_as_well_as_they_are() -> None:
    host = Box(Pulled(says=lambda _: WORDS, decode=10))
    async with client(route(host, bulkhead=Bulkhead(1))) as llm, llm.stream("hi") as stream:
        await anext(stream)
        assert (await llm.health(timeout=3)) == {NAME: None}
        assert len(host.chats) == 1


async def test_a_hook_is_a_function() -> None:
    with pytest.raises(ConfigError, match="on_wedged"):
        Ollama("m", on_wedged="systemctl restart ollama")  # type: ignore[arg-type]
