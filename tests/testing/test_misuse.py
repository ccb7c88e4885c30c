"""The fake servers survive whoever misuses them: a clear error or nothing at all, and never a thread or a socket left.

That nothing is left is what the fixture in `tests/conftest.py` checks after every test.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from resilient_llm import ConfigError
from resilient_llm.errors import ServerError
from resilient_llm.testing import FakeOllama, FakeOpenAI, FakeServer, fail, hang, refuse, say, status
from resilient_llm.testing import _thread as thread_module

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "stream": False}


@pytest.fixture(params=[FakeOllama, FakeOpenAI])
def kind(request: pytest.FixtureRequest) -> type[FakeOllama | FakeOpenAI]:
    return request.param  # type: ignore[no-any-return]


def url_of(server: FakeServer) -> str:
    path = "/api/chat" if isinstance(server, FakeOllama) else "/chat/completions"
    return server.url + path


def ask(server: FakeServer) -> str:
    body = httpx2.post(url_of(server), json=CHAT, timeout=5).json()
    message = body["message"] if "message" in body else body["choices"][0]["message"]
    return str(message["content"])


def test_closing_twice_and_before_the_start_does_nothing(kind: Any) -> None:
    server = kind(say("a"))
    server.close()
    server.start()
    assert ask(server) == "a"
    server.close()
    server.close()


def test_starting_twice_is_refused_and_leaves_the_first_alone(kind: Any) -> None:
    with kind(say("a")) as server:
        url = server.url
        for again in (server.start, server.__enter__):
            with pytest.raises(RuntimeError, match=r"running already; close\(\) it first"):
                again()
        assert (server.url, ask(server)) == (url, "a")


def test_it_may_be_started_again_and_its_script_goes_on(kind: Any) -> None:
    server = kind(say("1"), say("2"), say("3"))
    heard = []
    for _ in range(3):
        with server:
            heard.append(ask(server))
    assert heard == ["1", "2", "3"]
    assert len(server.chats) == 3


def test_a_script_that_is_used_up_repeats_its_last_step_for_ever(kind: Any) -> None:
    with kind(say("1"), say("2")) as server:
        assert [ask(server) for _ in range(5)] == ["1", "2", "2", "2", "2"]


@pytest.mark.parametrize("verb", ["kill", "restart", "stop_listening", "listen_again"])
def test_what_needs_a_running_server_says_so(kind: Any, verb: str) -> None:
    server = kind()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"not running; start\(\) it first"):
            getattr(server, verb)()
        server.start()
        server.close()


def test_what_was_done_may_be_done_again(kind: Any) -> None:
    with kind(say("a")) as server:
        for verb in (
            server.stop_listening, server.stop_listening, server.kill, server.kill, server.listen_again,
            server.listen_again, server.restart, server.restart,
        ):  # fmt: skip
            verb()
        assert ask(server) == "a"


def test_many_may_close_it_at_once(kind: Any) -> None:
    server = kind(hang()).start()
    errors: list[BaseException] = []

    def close() -> None:
        try:
            server.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=close) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(5)
    assert errors == []


def test_steps_may_be_added_before_during_and_after(kind: Any) -> None:
    server = kind()
    server.then(say("1"))
    with server:
        server.then(say("2"))
        assert [ask(server), ask(server)] == ["1", "2"]
    server.then(say("3"))
    with server:
        assert ask(server) == "3"


@pytest.mark.parametrize("step", [fail(ServerError()), "hello", None, say])
def test_what_is_no_step_of_a_server_is_refused_at_once(kind: Any, step: Any) -> None:
    with pytest.raises(ConfigError, match=r"step 2, \w+.*only a FakeBackend can raise"):
        kind(say("a"), step)
    with kind(say("a")) as server:
        with pytest.raises(ConfigError, match="step 2, "):
            server.then(say("b"), step)
        assert [ask(server), ask(server)] == ["a", "a"]  # not even the good step was added


def test_a_step_that_calls_its_own_server_does_not_wait_for_itself(kind: Any) -> None:
    class Suicidal:
        def actions(self, answer: object) -> Iterator[Any]:
            server.kill()
            return iter(())

    server = kind(Suicidal()).start()
    began = time.monotonic()
    with pytest.raises(httpx2.TransportError):
        ask(server)
    with pytest.raises(RuntimeError, match="could not carry out its script") as caught:
        server.close()
    assert "cannot call the server that plays it" in str(caught.value.__cause__)
    assert time.monotonic() - began < thread_module.PATIENCE


def test_a_step_that_blocks_is_told_of(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, free = threading.Event(), threading.Event()

    class Blocking:
        def actions(self, answer: object) -> Iterator[Any]:
            entered.set()
            free.wait(5)
            return iter(())

    server = kind(Blocking()).start()
    client = threading.Thread(target=lambda: _swallow(lambda: ask(server)))
    client.start()
    assert entered.wait(5)
    monkeypatch.setattr(thread_module, "PATIENCE", 0.05)
    with pytest.raises(RuntimeError, match="a step of the script blocks it"):
        server.close()
    free.set()
    client.join(5)


def _swallow(call: Callable[[], object]) -> None:
    with contextlib.suppress(httpx2.TransportError):
        call()


def test_a_start_that_fails_leaves_a_server_that_can_be_started(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = kind(say("a"))

    def no_port() -> None:
        raise OSError("no port is free")

    with monkeypatch.context() as patched:
        patched.setattr(server._sockets, "bind", no_port)
        with pytest.raises(OSError, match="no port is free"):
            server.start()
    with server:
        assert ask(server) == "a"


def test_a_queue_for_a_load_does_not_outlive_its_process() -> None:
    server = FakeOllama(say("a"), load=0.05)
    for _ in range(2):
        with server:
            callers = [threading.Thread(target=ask, args=(server,)) for _ in range(3)]
            for one in callers:
                one.start()
            for one in callers:
                one.join(5)
    assert server.loads.completed == 2


def test_a_connection_that_is_just_being_accepted_is_killed_with_the_others(kind: Any) -> None:
    with kind(say("a")) as server:
        port = int(urlsplit(server.url).port or 0)
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
                server.kill()
                with contextlib.suppress(ConnectionResetError):
                    assert one.recv(1) == b""
            server.listen_again()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b"\xff", b'{"model": 5}', b'{"messages": 1}'])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/show"])
def test_ollama_answers_any_body(path: str, content: bytes) -> None:
    with FakeOllama() as server:
        assert httpx2.post(server.url + path, content=content).status_code in (400, 404)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b"\xff", b'{"messages": 1, "stream_options": 2}'])
@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings"])
def test_openai_answers_any_body(path: str, content: bytes) -> None:
    with FakeOpenAI() as server:
        assert httpx2.post(server.url + path, content=content).status_code == 400


def test_refusing_and_killing_leave_the_port_to_the_server(kind: Any) -> None:
    with kind(refuse(), status(503)) as server:
        for _ in range(3):
            with pytest.raises(httpx2.ConnectError):
                ask(server)
            server.kill()
        server.restart()
        assert httpx2.post(url_of(server), json=CHAT).status_code == 503
