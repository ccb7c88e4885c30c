"""The fake servers on the wire: every fault does what its name says, byte for byte."""

from __future__ import annotations

import json

import httpx2
import pytest

from resilient_llm.testing import (
    FakeOllama,
    FakeOpenAI,
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
    reset,
    say,
    slow_close,
    split_utf8,
    stall,
    status,
)

from .peer import PATIENCE, Kind, answer, asks, chat, peer, texts


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
