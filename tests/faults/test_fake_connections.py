"""The fake servers as peers: who leaves and comes back, what is recorded of it, and that closing leaves nothing."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from resilient_llm.testing import (
    FakeOllama,
    endless_headers,
    hang,
    refuse,
    say,
    slow_close,
    stall,
    status,
)

from .peer import PATIENCE, QUIET, WEATHER, Kind, Peer, asks, chat, peer, texts


def test_refuse_stands_until_the_server_listens_again(kind: Kind) -> None:
    with kind(say("1"), refuse(), say("2")) as server:
        with peer(server) as one, peer(server) as idle:
            server.wait_for(lambda: server.connections == 2)
            _, headers = asks(server, one).head()
            assert texts(one.chunks()) == ["1"]
            assert headers["Connection"] == "close"  # so that no client tries this connection again
            assert (one.rest(), idle.rest()) == (b"", b"")
        with pytest.raises(ConnectionRefusedError):
            Peer(server)
        server.listen_again()
        with peer(server) as one:
            asks(server, one).head()
            assert texts(one.chunks()) == ["2"]


def test_refuse_may_be_the_first_step_and_come_later(kind: Kind) -> None:
    with kind(refuse()) as server:
        with pytest.raises(ConnectionRefusedError):
            Peer(server)
        server.listen_again()
        server.then(refuse())
        with pytest.raises(ConnectionRefusedError):
            Peer(server)


def test_no_piece_waits_for_others_to_fill_a_packet(kind: Kind) -> None:
    """Else each answer but the first on a connection takes 40 ms more, which is how long a peer may put off its ACK."""
    with kind(say("a", "b")) as server, peer(server) as one:
        for _ in range(2):
            asks(server, one).head()
            one.chunks()
        (connection,) = server._sockets.open
        raw = connection._transport.get_extra_info("socket")
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_stop_listening_lets_an_answer_finish(kind: Kind) -> None:
    with kind(slow_close("a", seconds=QUIET * 2)) as server, peer(server) as one:
        asks(server, one).head()
        server.stop_listening()
        assert texts(one.chunks()) == ["a"]
        with pytest.raises(ConnectionRefusedError):
            Peer(server)


def test_kill_resets_answers_and_restart_listens_on_the_same_port(kind: Kind) -> None:
    with kind(stall("a"), say("b")) as server:
        url = server.url
        with peer(server) as one:
            asks(server, one).head()
            server.kill()
            with pytest.raises(ConnectionResetError):
                one.rest()
        assert server.chats[0].ended == "closed"
        with pytest.raises(ConnectionRefusedError):
            Peer(server)
        server.restart()
        assert server.url == url
        with peer(server) as one:
            asks(server, one).head()
            assert texts(one.chunks()) == ["b"]


def test_a_client_that_leaves_is_recorded_at_once(kind: Kind) -> None:
    with kind(stall("a")) as server:
        with peer(server) as one:
            asks(server, one).head()
            assert server.active == 1
        server.wait_idle(PATIENCE)
        (record,) = server.chats
    assert record.ended == "disconnected"
    assert record.finished is not None
    assert record.finished >= record.started


def test_a_client_that_resets_is_recorded_too(kind: Kind) -> None:
    with kind(hang()) as server:
        one = Peer(server)
        asks(server, one)
        server.wait_for(lambda: server.active == 1)
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.socket.close()
        server.wait_idle(PATIENCE)
        assert server.chats[0].ended == "disconnected"


def test_a_request_sent_during_an_answer_is_answered_after_it(kind: Kind) -> None:
    with kind(say("1", first=QUIET), say("2")) as server, peer(server) as one:
        asks(server, one)
        asks(server, one).head()
        assert texts(one.chunks()) == ["1"]
        one.head()
        assert texts(one.chunks()) == ["2"]


def test_expect_100_continue_is_granted() -> None:
    with FakeOllama(say("a")) as server, peer(server) as one:
        data = json.dumps(chat()).encode()
        head = f"POST /api/chat HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(data)}\r\n\r\n"
        one.socket.sendall(head.encode())
        assert one.head()[0].startswith("HTTP/1.1 100")
        one.socket.sendall(data)
        assert one.head()[0] == "HTTP/1.1 200 OK"


def test_what_is_not_http_is_hung_up_on(kind: Kind) -> None:
    with kind() as server, peer(server) as one:
        one.socket.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert one.rest() == b""
        assert server.requests == []


def test_requests_are_recorded_without_showing_texts_or_keys() -> None:
    with FakeOllama(say("a secret answer")) as server, peer(server) as one:
        one.send("/api/chat", chat("a secret prompt"), headers="Authorization: Bearer secret\r\n").head()
        one.chunks()
        server.wait_idle()
        (record,) = server.requests
        shown = repr(record) + repr(server) + repr(say("secret", tool_calls=(WEATHER,))) + repr(status(500, "secret"))
        assert (record.method, record.path, record.ended) == ("POST", "/api/chat", "complete")
        assert record.headers["authorization"] == "Bearer secret"
        assert record.json["messages"][0]["content"] == "a secret prompt"
        assert repr(server) == f"FakeOllama({server.url}, 1 requests)"
    assert "secret" not in shown


def test_wait_for_raises_when_it_waits_in_vain() -> None:
    with FakeOllama() as server, pytest.raises(TimeoutError, match=r"not within 0\.01 s"):
        server.wait_for(lambda: server.active == 1, timeout=0.01)


@pytest.mark.parametrize("step", [say("a"), stall("a"), hang(), say("a", "b", gap=math.inf), endless_headers()])
def test_close_is_prompt_and_leaves_no_thread_and_no_socket(kind: Kind, step: object) -> None:
    before = threading.active_count()
    server = kind(step).start()
    with peer(server) as one, peer(server) as idle:
        asks(server, one)
        server.wait_for(lambda: len(server.chats) == 1)
        started = time.monotonic()
        server.close()
        assert time.monotonic() - started < 0.5  # it takes a few milliseconds; the rest is for a busy machine
        with contextlib.suppress(ConnectionResetError):
            one.rest()
            idle.rest()
        with pytest.raises(ConnectionRefusedError):
            Peer(server)
    assert threading.active_count() == before
    assert server.active == 0
    server.close()


def test_a_server_may_be_started_again_but_not_twice(kind: Kind) -> None:
    server = kind(say("a"))
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = server.url
    with pytest.raises(RuntimeError, match="not running"):
        server.kill()
    with server, pytest.raises(RuntimeError, match="already"):
        server.start()
    with server, peer(server) as one:
        asks(server, one).head()
        assert texts(one.chunks()) == ["a"]


def test_a_step_that_raises_is_heard_of() -> None:
    class Wrong:
        def actions(self, answer: object) -> Iterator[object]:
            raise ZeroDivisionError("in a step")

    server = FakeOllama(Wrong()).start()
    with peer(server) as one:
        assert asks(server, one).rest() == b""
    with pytest.raises(RuntimeError, match="could not carry out") as caught:
        server.close()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_missing_h11_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h11", None)
    with pytest.raises(ImportError, match=r"pip install 'resilient-llm\[testing\]'"):
        FakeOllama()


def test_nothing_is_left_for_the_garbage_collector() -> None:
    code = (
        f"import gc, logging, sys; sys.path[:0] = {sys.path!r}\n"
        "logging.getLogger('asyncio').setLevel(logging.ERROR)\n"  # that a busy machine is slow is no error
        "from resilient_llm.testing import FakeOllama\n"
        "import socket\n"
        "server = FakeOllama().start(); server.kill(); server.restart(); server.stop_listening()\n"
        "server.listen_again(); one = socket.create_connection(('127.0.0.1', int(server.url.rsplit(':', 1)[1])))\n"
        "server.close(); one.close(); del server; gc.collect()\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
