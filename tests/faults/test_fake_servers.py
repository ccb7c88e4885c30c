"""The fake servers on the wire: every step does what its name says, byte for byte, and closing leaves nothing."""

from __future__ import annotations

import base64
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
from urllib.parse import urlsplit

import httpx2
import pytest

from resilient_llm import ToolCall, Usage
from resilient_llm.testing import (
    FakeOllama,
    FakeOpenAI,
    FakeServer,
    comments,
    cut,
    dribble,
    endless_headers,
    ends,
    error_line,
    hang,
    huge_line,
    malformed,
    raw,
    redirect,
    refuse,
    reset,
    say,
    slow_close,
    split_utf8,
    stall,
    status,
)

PATIENCE = 5.0  # what must happen does within milliseconds; this only ends a test that has failed
QUIET = 0.05  # how long a test listens to be sure of a silence
WEATHER = ToolCall("get_weather", {"city": "Paris", "days": 3}, "call_7")


class Peer:
    """A client that is nothing but a socket."""

    def __init__(self, server: FakeServer) -> None:
        port = urlsplit(server.url).port
        assert port is not None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def send(self, path: str, body: object, *, method: str = "POST", headers: str = "") -> Peer:
        data = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: fake\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)
        return self

    def until(self, end: bytes) -> bytes:
        got = b""
        while not got.endswith(end):
            data = self.socket.recv(1)
            assert data, f"the connection ended before {end!r}"
            got += data
        return got

    def rest(self) -> bytes:
        got = b""
        while data := self.socket.recv(65536):
            got += data
        return got

    def head(self) -> tuple[str, dict[str, str]]:
        first, *lines = self.until(b"\r\n\r\n").decode().split("\r\n")[:-2]
        return first, dict(line.split(": ", 1) for line in lines)

    def chunk(self) -> bytes:
        size = int(self.until(b"\r\n"), 16)
        data = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return data

    def chunks(self) -> list[bytes]:
        """The chunks up to the terminating one."""
        return list(iter(self.chunk, b""))

    def exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            data = self.socket.recv(size - len(got))
            assert data, "the connection ended too early"
            got += data
        return got

    def is_quiet(self) -> bool:
        """Nothing comes, and the connection stays open."""
        self.socket.settimeout(QUIET)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b"never"
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)


@contextlib.contextmanager
def peer(server: FakeServer) -> Iterator[Peer]:
    one = Peer(server)
    with one.socket:
        yield one


def chat(text: str = "why", **more: object) -> dict[str, object]:
    return {"model": "llama3.2", "messages": [{"role": "user", "content": text}], **more}


def asks(server: FakeServer, one: Peer, **more: object) -> Peer:
    """Asks for a stream in the language of the server."""
    path = "/api/chat" if isinstance(server, FakeOllama) else "/v1/chat/completions"
    return one.send(path, chat(stream=True, **more))


def answer(server: FakeServer, path: str, body: object, **more: str) -> tuple[int, dict[str, object]]:
    response = httpx2.post(f"http://127.0.0.1:{urlsplit(server.url).port}{path}", json=body, headers=more)
    return response.status_code, response.json()


def texts(chunks: list[bytes]) -> list[str]:
    """What the events of either server say, one by one."""
    found = []
    for chunk in chunks:
        data = chunk.removeprefix(b"data: ")
        if data.startswith(b"{"):
            event = json.loads(data)
            choice = (event.get("choices") or [{}])[0]
            found.append((event.get("message") or choice.get("delta") or {}).get("content"))
    return [text for text in found if text]


@pytest.fixture(params=[FakeOllama, FakeOpenAI])
def kind(request: pytest.FixtureRequest) -> type[FakeOllama | FakeOpenAI]:
    return request.param


Kind = type[FakeOllama] | type[FakeOpenAI]


# -- ordinary answers


def test_ollama_streams_a_line_and_a_chunk_for_each_token() -> None:
    with FakeOllama(say("hel", "lo <b> ü", usage=Usage(7, 2))) as server, peer(server) as one:
        one.send("/api/chat", chat())
        first, headers = one.head()
        chunks = one.chunks()
    assert first == "HTTP/1.1 200 OK"
    assert headers["Content-Type"] == "application/x-ndjson"
    assert headers["Transfer-Encoding"] == "chunked"
    assert all(chunk.endswith(b"}\n") and chunk.count(b"\n") == 1 for chunk in chunks)
    assert "lo \\u003cb\\u003e ü".encode() in chunks[1]  # Go escapes what is special in HTML and leaves the rest
    lines = [json.loads(chunk) for chunk in chunks]
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "hel"},
        {"role": "assistant", "content": "lo <b> ü"},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in lines] == [False, False, True]
    last = lines[-1]
    assert (last["model"], last["done_reason"]) == ("llama3.2", "stop")
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 2)
    parts = last["load_duration"] + last.get("prompt_eval_duration", 0) + last["eval_duration"]
    assert parts == last["total_duration"]
    assert set(lines[0]) == {"model", "created_at", "message", "done"}


def test_headers_wait_for_the_first_token(kind: Kind) -> None:
    with kind(say("late", first=QUIET), say("never", first=math.inf)) as server, peer(server) as one:
        started = time.monotonic()
        asks(server, one).head()
        assert time.monotonic() - started >= QUIET
        assert texts(one.chunks()) == ["late"]
        assert asks(server, one).is_quiet()


def test_gap_is_between_tokens(kind: Kind) -> None:
    with kind(say("a", "b", gap=QUIET), say("a", "never", gap=math.inf)) as server, peer(server) as one:
        started = time.monotonic()
        asks(server, one).head()
        assert texts(one.chunks()) == ["a", "b"]
        assert time.monotonic() - started >= QUIET
        asks(server, one).head()
        one.chunk()
        while not one.is_quiet():
            one.chunk()
        assert server.active == 1


def test_omitempty_leaves_zero_figures_out() -> None:
    with FakeOllama(say(usage=Usage(0, 0))) as server, peer(server) as one:
        one.send("/api/chat", chat())
        one.head()
        (last,) = map(json.loads, one.chunks())
    assert not {"prompt_eval_count", "eval_count"} & set(last)


def test_joined_answer_is_one_chunk(kind: Kind) -> None:
    with kind(say("a", "b", joined=True)) as server, peer(server) as one:
        asks(server, one)
        one.head()
        (chunk,) = one.chunks()
    assert chunk.count(b"\n") >= 3


def test_ollama_thinks_then_calls_tools_whole() -> None:
    with FakeOllama(say("ok", reasoning=("hm",), tool_calls=(WEATHER,))) as server, peer(server) as one:
        one.send("/api/chat", chat())
        one.head()
        messages = [json.loads(chunk)["message"] for chunk in one.chunks()]
    assert messages[0] == {"role": "assistant", "content": "", "thinking": "hm"}
    function = {"index": 0, "name": "get_weather", "arguments": {"city": "Paris", "days": 3}}
    assert messages[2]["tool_calls"] == [{"id": "call_7", "function": function}]


def test_openai_streams_role_text_finish_usage_done() -> None:
    with FakeOpenAI(say("hel", "lo")) as server, peer(server) as one:
        asks(server, one, stream_options={"include_usage": True})
        _, headers = one.head()
        *chunks, usage, done = one.chunks()
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["x-request-id"].startswith("req_")
    events = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "hel"},
        {"content": "lo"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
    assert {event["usage"] for event in events} == {None}
    last = json.loads(usage.removeprefix(b"data: "))
    assert last["choices"] == []
    assert {name: last["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
    }
    assert done == b"data: [DONE]\n\n"
    assert all(chunk.endswith(b"\n\n") and chunk.count(b"\n") == 2 for chunk in chunks)


def test_openai_sends_no_usage_unless_asked() -> None:
    with FakeOpenAI(say("a")) as server, peer(server) as one:
        asks(server, one)
        one.head()
        assert b"usage" not in b"".join(one.chunks())


def test_openai_sends_the_arguments_of_a_tool_in_pieces() -> None:
    with FakeOpenAI(say(reasoning=("hm",), tool_calls=(WEATHER,))) as server, peer(server) as one:
        asks(server, one)
        one.head()
        choices = [json.loads(chunk[6:])["choices"][0] for chunk in one.chunks()[:-1]]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[1] == {"reasoning_content": "hm"}
    first, *others = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (first["id"], first["function"]) == ("call_7", {"name": "get_weather", "arguments": ""})
    assert len(others) > 1
    assert json.loads("".join(piece["function"]["arguments"] for piece in others)) == WEATHER.arguments
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_answers_that_are_no_stream() -> None:
    step = say("hel", "lo", reasoning=("hm",), tool_calls=(WEATHER,), usage=Usage(5, 4))
    with FakeOllama(step) as ollama, FakeOpenAI(step) as openai:
        _, native = answer(ollama, "/api/chat", chat(stream=False))
        _, compatible = answer(openai, "/v1/chat/completions", chat())
    message = native["message"]
    assert (message["content"], message["thinking"], native["done"]) == ("hello", "hm", True)
    choice = compatible["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("hello", "tool_calls")
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == message["tool_calls"][0]["function"]["arguments"] == WEATHER.arguments
    assert compatible["usage"]["total_tokens"] == 9


def test_without_a_script_the_prompt_comes_back_within_the_limit(kind: Kind) -> None:
    limits = {"options": {"num_predict": 3}, "max_tokens": 3}
    with kind() as server, peer(server) as one:
        asks(server, one)
        one.head()
        assert texts(one.chunks()) == ["You", " said:", " why"]
        asks(server, one, **{**limits, "messages": [{"role": "user", "content": "a b c d"}]})
        one.head()
        chunks = one.chunks()
    assert texts(chunks) == ["You", " said:", " a"]
    assert b'"length"' in b"".join(chunks)


def test_generate_answers_in_its_own_field() -> None:
    with FakeOllama(say("a", "b")) as server:
        code, body = answer(server, "/api/generate", {"model": "llama3.2", "prompt": "hi", "stream": False})
    assert (code, body["response"], body["done_reason"]) == (200, "ab", "stop")
    assert "context" in body


# -- scripts


def test_steps_answer_in_turn_and_the_last_repeats(kind: Kind) -> None:
    with kind(say("1"), say("2")) as server, peer(server) as one:
        heard = []
        for _ in range(3):
            asks(server, one).head()
            heard += texts(one.chunks())
        server.then(say("3"))
        asks(server, one).head()
        heard += texts(one.chunks())
        assert server.connections == 1
    assert heard == ["1", "2", "2", "3"]


def test_metadata_takes_no_step() -> None:
    with FakeOllama(say("1"), say("2")) as server, peer(server) as one:
        httpx2.get(f"{server.url}/api/tags")
        answer(server, "/api/chat", {"model": "llama3.2", "messages": []})
        asks(server, one).head()
        assert texts(one.chunks()) == ["1"]
        assert [record.kind for record in server.requests] == ["other", "load", "chat"]
        assert len(server.chats) == 1


def test_delay_is_before_every_answer(kind: Kind) -> None:
    with kind(say("a"), delay=QUIET) as server, peer(server) as one:
        started = time.monotonic()
        for _ in range(2):
            asks(server, one).head()
            assert texts(one.chunks()) == ["a"]
        assert time.monotonic() - started >= 2 * QUIET


# -- faults


def test_silence_says_nothing_at_all(kind: Kind) -> None:
    with kind(hang()) as server, peer(server) as one:
        assert asks(server, one).is_quiet()
        assert server.active == 1


def test_silence_after_headers_sends_them_at_once(kind: Kind) -> None:
    with kind(hang(after_headers=True)) as server, peer(server) as one:
        first, _ = asks(server, one).head()
        assert first == "HTTP/1.1 200 OK"
        assert one.is_quiet()


def test_reset_comes_before_any_byte(kind: Kind) -> None:
    with kind(reset()) as server, peer(server) as one:
        with pytest.raises(ConnectionResetError):
            asks(server, one).rest()
        server.wait_idle()
        assert server.chats[0].ended == "cut"


def test_stall_keeps_the_connection_open_after_its_tokens(kind: Kind) -> None:
    with kind(stall("a")) as server, peer(server) as one:
        asks(server, one).head()
        while not texts([one.chunk()]):
            pass
        assert one.is_quiet()


def test_cut_ends_in_the_middle_of_a_chunk(kind: Kind) -> None:
    with kind(cut("a")) as server, peer(server) as one:
        body = asks(server, one).rest().partition(b"\r\n\r\n")[2]
        server.wait_idle()
        assert server.chats[0].ended == "cut"
    *_, size, torn = body.split(b"\r\n")
    assert len(torn) < int(size, 16)
    assert b"a" in body
    assert not body.endswith(b"0\r\n\r\n")


def test_cut_of_a_whole_body_is_shorter_than_its_length(kind: Kind) -> None:
    path = "/api/chat" if kind is FakeOllama else "/v1/chat/completions"
    with kind(cut("a")) as server, peer(server) as one:
        _, headers = one.send(path, chat(stream=False)).head()
        assert 0 < len(one.rest()) < int(headers["Content-Length"])


def test_ends_is_a_clean_end_without_the_last_event(kind: Kind) -> None:
    with kind(ends("a")) as server, peer(server) as one:
        asks(server, one).head()
        chunks = one.chunks()
    assert texts(chunks) == ["a"]
    assert b"[DONE]" not in chunks[-1]
    assert b'"done":true' not in chunks[-1]
    assert b'"stop"' not in chunks[-1]


def test_ends_without_a_stream_is_an_unfinished_200() -> None:
    with FakeOllama(ends("a")) as ollama, FakeOpenAI(ends("a")) as openai:
        code, native = answer(ollama, "/api/chat", chat(stream=False))
        _, compatible = answer(openai, "/v1/chat/completions", chat())
    assert (code, native["done"], "eval_count" in native) == (200, False, False)
    assert compatible["choices"][0]["finish_reason"] is None


def test_slow_close_is_a_whole_answer_that_does_not_end(kind: Kind) -> None:
    last = b'"done":true' if kind is FakeOllama else b"[DONE]"
    with kind(slow_close("a")) as server, peer(server) as one:
        asks(server, one).head()
        while last not in one.chunk():
            pass
        assert one.is_quiet()


def test_slow_close_ends_after_its_seconds(kind: Kind) -> None:
    with kind(slow_close("a", seconds=0.0)) as server, peer(server) as one:
        asks(server, one).head()
        assert texts(one.chunks()) == ["a"]


def test_error_line_comes_after_a_200_in_the_servers_own_words() -> None:
    with FakeOllama(error_line("unexpected EOF", after=("a",))) as ollama, peer(ollama) as one:
        first, _ = asks(ollama, one).head()
        *before, native = one.chunks()
    assert (first, texts(before)) == ("HTTP/1.1 200 OK", ["a"])
    assert native == b'{"error":"unexpected EOF"}\n'
    steps = (error_line({"error": {"code": 500}}, after=("a",)), error_line("boom"))
    with FakeOpenAI(*steps) as openai, peer(openai) as one:
        asks(openai, one).head()
        assert one.chunks()[-1] == b'data: {"error":{"code":500}}\n\n'
        asks(openai, one).head()
        assert json.loads(one.chunks()[-1][6:])["error"]["message"] == "boom"


def test_error_without_a_stream_has_its_status(kind: Kind) -> None:
    path = "/api/chat" if kind is FakeOllama else "/v1/chat/completions"
    with kind(error_line("boom")) as server:
        code, body = answer(server, path, chat(stream=False))
    assert code == 500
    assert "boom" in json.dumps(body)


def test_malformed_bytes_are_a_chunk_as_they_are(kind: Kind) -> None:
    with kind(malformed(b"\xff{oops", after=("a",))) as server, peer(server) as one:
        asks(server, one).head()
        *before, bad = one.chunks()
    assert (texts(before), bad) == (["a"], b"\xff{oops")


def test_split_utf8_cuts_inside_characters_and_loses_none(kind: Kind) -> None:
    with kind(split_utf8("né 語🙂!")) as server, peer(server) as one:
        asks(server, one).head()
        chunks = one.chunks()
    assert "né 語🙂!".encode() in b"".join(chunks)
    assert sum(chunk[-1] >= 0xC0 for chunk in chunks) == 3  # a chunk ends with a byte that only begins a character
    with pytest.raises(ValueError, match="outside ASCII"):
        split_utf8("plain")


@pytest.mark.parametrize("body", ["busy", {"error": "busy"}, b'{"error": "busy"}'])
def test_status_with_text_object_or_bytes(body: str | dict[str, str] | bytes) -> None:
    with FakeOllama(status(503, body, headers={"Retry-After": "7"})) as server:
        response = httpx2.post(f"{server.url}/api/chat", json=chat())
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert response.json() == {"error": "busy"}
    assert response.content == body or not isinstance(body, bytes)


def test_status_alone_is_its_phrase_in_the_envelope() -> None:
    with FakeOpenAI(status(429)) as server:
        code, body = answer(server, "/v1/chat/completions", chat())
    error = {"message": "Too Many Requests", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    assert (code, body) == (429, {"error": error})


def test_status_that_has_no_body() -> None:
    with FakeOllama(status(204)) as server:
        assert httpx2.post(f"{server.url}/api/chat", json=chat()).status_code == 204


def test_redirect_names_another_place(kind: Kind) -> None:
    with kind(redirect("http://127.0.0.2:9/x")) as server, peer(server) as one:
        first, headers = asks(server, one).head()
    assert first.startswith("HTTP/1.1 307 ")
    assert headers["Location"] == "http://127.0.0.2:9/x"


def test_raw_is_exactly_these_bytes(kind: Kind) -> None:
    with kind(raw(b"no http\r\n")) as server, peer(server) as one:
        assert asks(server, one).rest() == b"no http\r\n"


def test_comments_hold_no_payload(kind: Kind) -> None:
    with kind(comments(2, gap=0.0)) as server, peer(server) as one:
        asks(server, one).head()
        said = one.chunk() + one.chunk()
        assert one.is_quiet()
    assert said == (b"\n\n" if kind is FakeOllama else b": keep-alive\n\n" * 2)


def test_comments_may_come_before_an_answer(kind: Kind) -> None:
    with kind(comments(2, gap=0.0, then=say("a"))) as server, peer(server) as one:
        asks(server, one).head()
        assert texts(one.chunks()) == ["a"]


def test_endless_comments_leave_the_server_responsive(kind: Kind) -> None:
    with kind(comments(gap=0.0)) as server, peer(server) as one, peer(server) as other:
        asks(server, one).head()
        asks(server, other).head()
        assert one.chunk() == other.chunk()


def test_huge_line_is_one_token(kind: Kind) -> None:
    with kind(huge_line(300_000)) as server, peer(server) as one:
        asks(server, one).head()
        chunks = one.chunks()
    assert max(map(len, chunks)) == 65536
    lines = [line for line in b"".join(chunks).split(b"\n") if line]
    assert max(map(len, lines)) > 300_000


def test_endless_headers_end_with_the_client(kind: Kind) -> None:
    with kind(endless_headers()) as server:
        with peer(server) as one:
            got = asks(server, one).exactly(200_000)
        server.wait_idle(PATIENCE)
        assert server.chats[0].ended == "disconnected"
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n" not in got


def test_dribble_sends_single_bytes_of_any_step(kind: Kind) -> None:
    with (
        kind(dribble(0.0001, status(500, b"x", headers={"Content-Type": "text/plain"}))) as server,
        peer(server) as one,
    ):
        sizes = []
        asks(server, one)
        got = b""
        while not got.endswith(b"\r\n\r\nx"):
            data = one.socket.recv(4096)
            sizes.append(len(data))
            got += data
    assert got.startswith(b"HTTP/1.1 500 ")
    assert len(sizes) > len(got) / 4  # a busy machine may read a few at once


# -- connections


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


# -- what tests look at


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


# -- a life


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
        f"import gc, sys; sys.path[:0] = {sys.path!r}\n"
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


# -- Ollama


def test_a_cold_model_holds_the_headers_while_it_loads() -> None:
    with FakeOllama(say("a"), load=math.inf) as server, peer(server) as one:
        assert asks(server, one).is_quiet()
        assert (server.loads.started, server.loads.completed) == (1, 0)
        assert httpx2.get(f"{server.url}/api/ps").json() == {"models": []}


def test_a_load_is_told_by_the_answer_that_waited_for_it_only() -> None:
    with FakeOllama(say("a"), load=QUIET) as server:
        _, cold = answer(server, "/api/chat", chat(stream=False))
        _, warm = answer(server, "/api/chat", chat(stream=False))
        assert (server.loads.started, server.loads.completed) == (1, 1)
    assert cold["load_duration"] >= QUIET * 1e9 > warm["load_duration"] > 0


def test_a_load_ends_with_the_client_that_started_it_and_the_next_begins_anew() -> None:
    with FakeOllama(say("a"), load=math.inf) as server, peer(server) as second:
        with peer(server) as first:
            asks(server, first)
            server.wait_for(lambda: server.loads.started == 1)
            asks(server, second)
            server.wait_for(lambda: server.active == 2)
        server.wait_for(lambda: server.loads.started == 2)
        assert (server.loads.completed, server.active) == (0, 1)


def test_another_num_ctx_and_an_eviction_load_again() -> None:
    with FakeOllama(say("a")) as server:
        for size in (4096, 2048, 2048):
            answer(server, "/api/chat", chat(stream=False, options={"num_ctx": size}))
        assert server.loads.completed == 2
        server.evict()
        assert httpx2.get(f"{server.url}/api/ps").json() == {"models": []}
        answer(server, "/api/chat", chat(stream=False, options={"num_ctx": 2048}))
        assert server.loads.completed == 3
        server.restart()
        assert httpx2.get(f"{server.url}/api/ps").json() == {"models": []}


def test_loading_without_a_prompt() -> None:
    with FakeOllama() as server:
        _, load = answer(server, "/api/chat", {"model": "llama3.2", "messages": []})
        (running,) = httpx2.get(f"{server.url}/api/ps").json()["models"]
        _, unload = answer(server, "/api/chat", {"model": "llama3.2", "messages": [], "keep_alive": 0})
        assert httpx2.get(f"{server.url}/api/ps").json() == {"models": []}
        assert server.chats == []
    assert (load["done"], load["done_reason"], "total_duration" in load) == (True, "load", False)
    assert unload["done_reason"] == "unload"
    assert (running["name"], running["context_length"]) == ("llama3.2:latest", 4096)
    assert running["details"]["quantization_level"] == "Q4_K_M"
    assert len(running["digest"]) == 64
    assert running["size"] == running["size_vram"]


def test_a_model_that_spills_to_the_cpu_and_a_window_beyond_the_trained() -> None:
    with FakeOllama(gpu=0.5, trained=8192) as server:
        answer(server, "/api/chat", {"model": "llama3.2", "messages": [], "options": {"num_ctx": 999_999}})
        (running,) = httpx2.get(f"{server.url}/api/ps").json()["models"]
    assert running["size_vram"] * 2 == pytest.approx(running["size"], abs=1)
    assert running["context_length"] == 8192


def test_overflow_is_a_400_with_json_in_its_text() -> None:
    with FakeOllama(say("a"), window=10) as server:
        code, body = answer(server, "/api/chat", chat("x" * 41, truncate=False))
        assert server.chats == []
        fits, _ = answer(server, "/api/chat", chat("x" * 40, truncate=False, stream=False))
    inner = json.loads(body["error"])["error"]
    assert (code, fits) == (400, 200)
    assert (inner["n_prompt_tokens"], inner["n_ctx"], inner["type"]) == (11, 10, "exceed_context_size_error")
    assert inner["message"] == "request (11 tokens) exceeds the available context size (10 tokens), try increasing it"


def test_truncation_is_silent_but_for_the_count() -> None:
    history = [
        {"role": "system", "content": "s" * 40},
        *({"role": "user", "content": "u" * 400} for _ in range(5)),
    ]
    with FakeOllama(say("a"), window=256) as server:
        _, dropped = answer(server, "/api/chat", {"model": "llama3.2", "messages": history, "stream": False})
    assert dropped["prompt_eval_count"] == 10 + 2 * 100  # the system's message and the newest that fit
    with FakeOllama(say("a")) as server:
        _, halved = answer(server, "/api/chat", chat("x" * 4 * 12_000, stream=False))
    assert halved["prompt_eval_count"] == 2051  # ollama/ollama#17427


def test_an_unknown_model_has_two_texts() -> None:
    with FakeOllama() as server:
        native = answer(server, "/api/chat", {**chat(), "model": "nope"})
        show = answer(server, "/api/show", {"model": "nope"})
        embed = answer(server, "/api/embed", {"model": "nope", "input": "a"})
    assert native == show == (404, {"error": "model 'nope' not found"})
    assert embed == (404, {"error": 'model "nope" not found, try pulling it first'})


def test_wrong_requests_and_the_status_that_ollama_gives_them() -> None:
    with FakeOllama() as server:
        assert answer(server, "/api/chat", chat(options={"temperature": "hot"})) == (
            500,
            {"error": 'option "temperature" must be of type float32'},
        )
        assert answer(server, "/api/chat", chat(stream=False, options={"typo": "x"}))[0] == 200
        assert answer(server, "/api/chat", {"messages": []}) == (400, {"error": "model is required"})
        lost = httpx2.post(f"{server.url}/v2/chat")
        wrong = httpx2.get(f"{server.url}/api/chat")
    assert (lost.status_code, lost.text, lost.headers["content-type"]) == (404, "404 page not found", "text/plain")
    assert (wrong.status_code, wrong.text) == (405, "405 method not allowed")


def test_embeddings_are_deterministic_unit_vectors() -> None:
    with FakeOllama(dimensions=16) as server:
        _, body = answer(server, "/api/embed", {"model": "llama3.2", "input": ["a", "b", "a"]})
        _, small = answer(server, "/api/embed", {"model": "llama3.2", "input": "a", "dimensions": 4})
        too_long = answer(
            server,
            "/api/embed",
            {"model": "llama3.2", "input": "x" * 100, "truncate": False, "options": {"num_ctx": 4}},
        )
        assert [record.kind for record in server.requests] == ["embed", "embed", "other"]
    first, second, third = body["embeddings"]
    assert first == third != second
    assert len(first) == 16
    assert math.hypot(*first) == pytest.approx(1.0)
    assert body["prompt_eval_count"] == 3
    assert len(small["embeddings"][0]) == 4
    assert too_long == (400, {"error": "the input length exceeds the context length"})


def test_what_ollama_tells_of_itself() -> None:
    with FakeOllama(models=("a", "b:7b"), version="0.9.3", cloud=True) as server:
        assert httpx2.get(server.url).text == "Ollama is running"
        assert httpx2.head(server.url).status_code == 200
        assert httpx2.get(f"{server.url}/api/version").json() == {"version": "0.9.3"}
        names = [model["name"] for model in httpx2.get(f"{server.url}/api/tags").json()["models"]]
        _, show = answer(server, "/api/show", {"model": "a"})
    assert names == ["a:latest", "b:7b"]
    assert (show["remote_host"], show["remote_model"]) == ("https://ollama.com:443", "a")
    assert show["model_info"]["llama.context_length"] == 131072


def test_a_model_here_has_no_remote_host() -> None:
    with FakeOllama() as server:
        _, show = answer(server, "/api/show", {"model": "llama3.2"})
    assert not {"remote_host", "remote_model"} & set(show)


# -- OpenAI


def test_openai_asks_for_its_key() -> None:
    path = "/v1/chat/completions"
    with FakeOpenAI(say("a"), api_key="sk-1") as server:
        none, body = answer(server, path, chat())
        wrong, error = answer(server, path, chat(), Authorization="Bearer sk-2")
        right, _ = answer(server, path, chat(), Authorization="Bearer sk-1")
        assert len(server.chats) == 1
    assert (none, wrong, right) == (401, 401, 200)
    assert body["error"]["type"] == "invalid_request_error"
    assert error["error"]["code"] == "invalid_api_key"


def test_openai_overflow_has_both_numbers() -> None:
    with FakeOpenAI(window=10) as server:
        code, body = answer(server, "/v1/chat/completions", chat("x" * 41))
    assert (code, body["error"]["code"], body["error"]["param"]) == (400, "context_length_exceeded", "messages")
    assert "maximum context length is 10 tokens" in body["error"]["message"]
    assert "resulted in 11 tokens" in body["error"]["message"]


def test_openai_knows_its_models_if_they_are_named() -> None:
    with FakeOpenAI(models=("m",)) as server:
        missing, body = answer(server, "/v1/chat/completions", {**chat(), "model": "other"})
        assert [one["id"] for one in httpx2.get(f"{server.url}/models").json()["data"]] == ["m"]
    assert (missing, body["error"]["code"]) == (404, "model_not_found")


def test_openai_does_not_know_a_path() -> None:
    with FakeOpenAI() as server:
        code, body = answer(server, "/v1/nope", {})
    assert (code, body["error"]["message"]) == (404, "Invalid URL (POST /v1/nope)")


def test_openai_embeddings_as_numbers_and_as_base64() -> None:
    request = {"model": "e", "input": ["a", "b"]}
    with FakeOpenAI() as server:
        _, plain = answer(server, "/v1/embeddings", request)
        _, packed = answer(server, "/v1/embeddings", {**request, "encoding_format": "base64"})
    assert [one["index"] for one in plain["data"]] == [0, 1]
    for number, text in zip(plain["data"], packed["data"], strict=True):
        assert struct.unpack("<8f", base64.b64decode(text["embedding"])) == pytest.approx(number["embedding"])
        assert math.hypot(*number["embedding"]) == pytest.approx(1.0)
    assert plain["usage"] == {"prompt_tokens": 2, "total_tokens": 2}  # each text by itself, rounded up


def test_the_content_of_a_message_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    with FakeOpenAI() as server:
        _, body = answer(
            server, "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": parts}]}
        )
    assert body["choices"][0]["message"]["content"] == "You said: hello"
