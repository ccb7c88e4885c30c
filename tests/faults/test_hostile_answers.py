"""Answers made to harm: each is a typed error within bounds of time and memory, and the client goes on.

Every one comes over real sockets, to our own connections and to a user's client, in OpenAI's language and in Ollama's;
and whatever is told of it (error, log, traceback with its locals) holds neither the key nor the prompt.
"""

from __future__ import annotations

import gzip
import json
import logging
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from resilient_llm import AsyncClient, LLMError, Ollama, OpenAICompatible, Retry, Route
from resilient_llm.errors import (
    BackendFailed,
    BadRequest,
    DeadlineExceeded,
    FirstTokenTimeout,
    Malformed,
    OutputInvalid,
    ServerError,
    StreamInterrupted,
)

from .hostile import HEALTHY, PIECE, Hostile, Pieces, endless, events, head, whole

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Async generator 'httpcore2:ResourceWarning"),  # httpx2's own, on trio
]
KEY, PROMPT = "sesame-key-0123456789", "sesame-prompt"
MEGABYTE = 1 << 20
ROOM = 80 * MEGABYTE  # what one answer may take: a line of 8, a body of 16, a piece inflated to 16, and copies of them
TIME = 15.0  # seconds, on a machine that does other things too; most take milliseconds
DEADLINE = 0.4  # of the call where the answer never ends
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BLANK = b"\n" * PIECE
ALIVE = b": keep-alive\n\n" * 1000
TOOL = b'{"model":"m","choices":[{"index":0,"delta":{"tool_calls":[%s]},"finish_reason":"tool_calls"}]}'
CALL = b'{"index":0,"id":"a","function":{"name":%s,"arguments":%s}}'

MANY = b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}\n\n'


def call(name: str, arguments: str) -> bytes:
    """An event with a tool call."""
    return TOOL % (CALL % (json.dumps(name).encode(), json.dumps(arguments).encode()))


def bomb(kind: str, text: bytes = b"\n", size: int = 200 * MEGABYTE) -> bytes:
    """A little that becomes a lot."""
    state = zlib.compressobj(9, zlib.DEFLATED, {"gzip": 31, "deflate": 15}[kind])
    block = text * (MEGABYTE // len(text))
    return b"".join([*(state.compress(block) for _ in range(size // MEGABYTE)), state.flush()])


BOMB = bomb("gzip")
ENCODED = "Content-Encoding: gzip"
OPEN = head(200, "Content-Type: text/event-stream")
Kinds = type[LLMError] | tuple[type[LLMError], ...]


@dataclass(frozen=True)
class Attack:
    """What is sent, and the errors that it may become."""

    answer: Pieces
    becomes: Kinds
    native: Kinds | None = None  # where Ollama's language makes another of it


ATTACKS = {
    "gzip bomb": Attack(whole(BOMB, 200, ENCODED), Malformed),
    "deflate bomb": Attack(whole(bomb("deflate"), 200, "Content-Encoding: deflate"), Malformed),
    "gzip bomb as an error": Attack(whole(BOMB, 500, ENCODED), (Malformed, ServerError)),
    "gzip bomb of signs of life": Attack(whole(bomb("gzip", b": keep-alive\n\n"), 200, ENCODED), Malformed),
    "gzip within gzip": Attack(whole(gzip.compress(BOMB), 200, "Content-Encoding: gzip, gzip"), Malformed),
    "gzip that is none": Attack(whole(b"plain", 200, ENCODED), Malformed),
    "encoding that we have not": Attack(whole(b"plain", 200, "Content-Encoding: zstd"), Malformed),
    "line of 50 MB": Attack(endless(OPEN + b"data: ", b"x" * PIECE, 50 * MEGABYTE), Malformed),
    "body of 50 MB in one piece": Attack(
        endless(head() + b'{"model":"m","x":"', b"x" * PIECE, 50 * MEGABYTE), Malformed
    ),
    "event of 50 MB in many lines": Attack(
        endless(OPEN, b"data: " + b"x" * 1000 + b"\n", 50 * MEGABYTE), Malformed
    ),
    "error of 50 MB": Attack(endless(head(500), b"x" * PIECE, 50 * MEGABYTE), ServerError),
    "error without end": Attack(endless(head(503), b"x" * PIECE), BackendFailed),
    "headers without end": Attack(endless(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 1000 + b"\r\n"), Malformed),
    "one header of 50 MB": Attack(endless(b"HTTP/1.1 200 OK\r\nX-More: ", b"x" * PIECE, 50 * MEGABYTE), Malformed),
    "status line without end": Attack(endless(b"HTTP/1.1 200 ", b"x" * PIECE, 50 * MEGABYTE), Malformed),
    "interim answers without end": Attack(
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (DeadlineExceeded, FirstTokenTimeout)
    ),
    "blank lines without end": Attack(endless(head(), BLANK), (DeadlineExceeded, FirstTokenTimeout)),
    "signs of life without end": Attack(endless(OPEN, ALIVE), (DeadlineExceeded, FirstTokenTimeout), Malformed),
    "nested 100,000 deep": Attack(events(DEEP), Malformed),
    "nested 100,000 deep in one piece": Attack(whole(DEEP), Malformed),
    "nested 100,000 deep as an error": Attack(whole(b'{"error":' + DEEP + b"}", 400), BadRequest),
    "nested 100,000 deep in a tool call": Attack(events(call("f", DEEP.decode())), OutputInvalid, Malformed),
    "NaN in a tool call": Attack(events(call("f", '{"x": NaN}')), OutputInvalid, Malformed),
    "Infinity in a tool call": Attack(events(call("f", '{"x": -Infinity}')), OutputInvalid, Malformed),
    "1e999 in a tool call": Attack(events(call("f", '{"x": 1e999}')), OutputInvalid, Malformed),
    "key twice in a tool call": Attack(events(call("rm", '{"path": "a", "path": "/"}')), OutputInvalid, Malformed),
    "control characters in the name of a tool": Attack(events(call("f\x1b[2J\r\n", "{}")), OutputInvalid, Malformed),
    "tens of thousands of tool calls": Attack(endless(OPEN, MANY * 100, 8 * MEGABYTE), StreamInterrupted, Malformed),
    "NaN where an answer should be": Attack(events(b"NaN"), Malformed),
    "body shorter than its length": Attack(lambda: (head(200, "Content-Length: 99999"), b"data: {}"), BackendFailed),
    "body longer than its length": Attack(lambda: (head(200, "Content-Length: 2"), b"{}" * 1000), BackendFailed),
    "two lengths": Attack(lambda: (head(200, "Content-Length: 2", "Content-Length: 3"), b"{}"), Malformed),
    "length below nothing": Attack(lambda: (head(200, "Content-Length: -1"), b"{}"), Malformed),
    "chunk of a size that is none": Attack(lambda: (head(200, "Transfer-Encoding: chunked"), b"zz\r\n"), BackendFailed),
    "chunk larger than the world": Attack(
        lambda: (head(200, "Transfer-Encoding: chunked"), b"f" * 30 + b"\r\n" + b"x"), BackendFailed
    ),
    "no HTTP at all": Attack(lambda: (b"\x16\x03\x01\x00\x00 hello\r\n\r\n",), BackendFailed),
    "line end in a header": Attack(lambda: (b"HTTP/1.1 200 OK\r\nX-Id: a\rSet-Cookie: b\r\n\r\n",), BackendFailed),
}  # fmt: skip


@asynccontextmanager
async def client_of(way: str, url: str) -> AsyncIterator[AsyncClient]:
    """A client with one route to that server, which makes one attempt."""
    http = httpx2.AsyncClient(follow_redirects=True) if way == "httpx2" else None
    options: dict[str, Any] = {"base_url": url, "api_key": KEY, "http_client": http}
    backend = Ollama("m", **options) if way == "ollama" else OpenAICompatible("m", **options)
    try:
        async with AsyncClient(Route(backend, retry=Retry(attempts=1))) as llm:
            yield llm
    finally:
        if http is not None:
            await http.aclose()


def shown(error: BaseException) -> str:
    """What a crash reporter would send: errors, causes, and the locals of all frames but those of the tests."""
    seen: dict[int, str] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            stack = traceback.TracebackException.from_exception(one, capture_locals=True).stack
            told = [str(frame.locals) for frame in stack if "/tests/" not in frame.filename]
            seen[id(one)] = "\n".join((str(one), repr(one), repr(one.args), *told))
            waiting += [one.__cause__, one.__context__]
    return "\n".join(seen.values())


@pytest.mark.parametrize("way", ["own", "httpx2", "ollama"])
@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_a_typed_error_and_the_client_goes_on(
    name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    attack = ATTACKS[name]
    caplog.set_level(logging.DEBUG)
    with Hostile(attack.answer) as server:
        async with client_of(way, server.url) as llm:
            began = time.monotonic()
            becomes = attack.native if way == "ollama" and attack.native else attack.becomes
            lasts = "without end" in name and becomes is not Malformed  # which is found out at once
            with pytest.raises(becomes) as caught:
                await llm.chat(PROMPT, timeout=DEADLINE if lasts else 2 * TIME)
            assert time.monotonic() - began < TIME
            assert len(str(caught.value)) < 1000
            assert all(line.isprintable() for line in str(caught.value).splitlines())
            assert "sesame" not in shown(caught.value)
            assert "sesame" not in caplog.text
            assert (await llm.chat("again", timeout=TIME)).text == HEALTHY


@pytest.mark.parametrize("way", ["own", "httpx2"])
async def test_what_goes_on_behind_the_end_of_an_answer_is_not_the_next_answer(way: str) -> None:
    forged = b'data: {"choices":[{"index":0,"delta":{"content":"forged"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    behind = head(200, f"Content-Length: {len(forged)}") + forged
    done = threading.Event()

    def answer() -> Iterator[bytes]:
        yield head(200, "Content-Length: 2") + b"{}" + behind
        done.wait(TIME)  # and the connection stays open

    with Hostile(answer) as server:
        async with client_of(way, server.url) as llm:
            with pytest.raises(Malformed):
                await llm.chat(PROMPT, timeout=TIME)
            assert (await llm.chat("again", timeout=TIME)).text == HEALTHY
        done.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", [name for name in ATTACKS if "MB" in name or "bomb" in name or "deep" in name])
async def test_an_attack_is_held_within_bounds_of_memory(name: str) -> None:
    with Hostile(ATTACKS[name].answer) as server:
        async with client_of("own", server.url) as llm:
            tracemalloc.start()
            try:
                with pytest.raises(LLMError):
                    await llm.chat(PROMPT, timeout=4 * TIME)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < ROOM
            if name.endswith("of 50 MB"):
                assert server.sent < 40 * MEGABYTE  # we hung up before it was through


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("way", ["own", "httpx2", "ollama"])
async def test_a_redirect_takes_the_key_nowhere(way: str, code: int) -> None:
    with Hostile(whole(b"")) as elsewhere:
        to = elsewhere.url.replace("127.0.0.1", "localhost") + "/v1/chat/completions"
        with Hostile(whole(b"", code, f"Location: {to}")) as server:
            async with client_of(way, server.url) as llm:
                with pytest.raises(BadRequest, match="redirects are not followed") as caught:
                    await llm.chat(PROMPT, timeout=TIME)
                assert caught.value.status == code
                assert (await llm.chat("again", timeout=TIME)).text == HEALTHY
        assert elsewhere.requests == []


ECHO = b"no: " + KEY.encode()
LONG = b"x" * 285 + KEY.encode()  # a message is shortened in the midst of it
ECHOES = [
    whole(b'{"error":{"message":"%s","code":"%s","param":"%s"}}' % (ECHO, KEY.encode(), KEY.encode()), 400),
    whole(b'{"error":"%s"}' % LONG, 500),
    whole(b'{"error":"%s"}' % ECHO.upper(), 401),
    whole(ECHO, 503, f"X-Request-Id: {KEY}"),
    whole(b'{"error":{"message":"%s"}}' % ECHO),
    events(b'{"error":{"message":"%s"}}' % ECHO),
    events(b'{"error":{"message":"%s"}}' % LONG),
]


@pytest.mark.parametrize("number", range(len(ECHOES)))
@pytest.mark.parametrize("way", ["own", "httpx2", "ollama"])
async def test_a_key_that_a_server_says_back_is_not_told_on(number: int, way: str) -> None:
    with Hostile(ECHOES[number]) as server:
        async with client_of(way, server.url) as llm:
            with pytest.raises(LLMError) as caught:
                await llm.chat(PROMPT, timeout=TIME)
            assert "sesame" not in shown(caught.value).lower()
            assert "sesame" not in str(caught.value.request_id)
            if way == "own":
                server.again()
                with pytest.raises(LLMError) as caught:
                    await llm.models()
                assert "sesame" not in shown(caught.value).lower()


METADATA = [DEEP, b'{"data":' + DEEP + b"}", b"[1e999]", b'{"data":[7]}', b"<html>", b"\xff\xfe", b""]


@pytest.mark.parametrize("body", METADATA, ids=lambda body: repr(body[:20]))
@pytest.mark.parametrize("code", [200, 500])
async def test_a_list_of_models_that_is_none_is_a_typed_error(body: bytes, code: int) -> None:
    with Hostile(whole(body, code)) as server:
        async with client_of("own", server.url) as llm:
            with pytest.raises((Malformed, ServerError, StreamInterrupted)) as caught:
                await llm.models()
            assert "sesame" not in shown(caught.value)
            assert (await llm.chat("again", timeout=TIME)).text == HEALTHY


async def test_a_model_whose_name_is_none_is_not_listed() -> None:
    names = ["m", "a\r\nSet-Cookie: b", "\x1b[2J", "x" * 10_000, 7, None, float("nan")]
    body = json.dumps({"data": [{"id": name} for name in names]}).encode()
    with Hostile(whole(body)) as server:
        async with client_of("own", server.url) as llm:
            listed = [found.name for models in (await llm.models()).values() for found in models]
            assert listed == ["m"]


VECTORS = [b"[[1e999]]", b"[[NaN]]", b"[" + DEEP + b"]", b'["x"]', b"[[]]", b"[[1.0],[1.0]]"]


@pytest.mark.parametrize("vectors", VECTORS, ids=lambda body: repr(body[:20]))
@pytest.mark.parametrize("way", ["own", "ollama"])
@pytest.mark.filterwarnings("ignore:m both chats and embeds")  # it does, to show that the connection is whole
async def test_vectors_that_are_none_are_a_typed_error(way: str, vectors: bytes) -> None:
    data = b",".join(b'{"index":0,"embedding":' + row + b"}" for row in vectors[1:-1].split(b"],") if row)
    body = b'{"model":"m","embeddings":%s,"data":[%s]}' % (vectors, data)
    with Hostile(whole(body)) as server:
        async with client_of(way, server.url) as llm:
            with pytest.raises(Malformed):
                await llm.embed(["sesame"], timeout=TIME)
            assert (await llm.chat("again", timeout=TIME)).text == HEALTHY


async def test_what_goes_into_a_body_does_not_come_out_as_a_header() -> None:
    with Hostile(whole(b"")) as server:
        async with client_of("own", server.url) as llm:
            evil = "x\r\nX-Evil: yes\r\n\r\nPOST /evil HTTP/1.1"
            with pytest.raises(LLMError):
                await llm.chat(evil, extra={"metadata": {evil: evil}, "user": evil}, stop=[evil], timeout=TIME)
    (request,) = server.requests
    assert b"x-evil" not in request.partition(b"\r\n\r\n")[0].lower()
    assert request.count(b"\r\n\r\n") == 1


async def test_an_answer_that_was_given_up_says_what_had_come() -> None:
    said = b'{"model":"m","choices":[{"index":0,"delta":{"content":"sesame-answer"}}]}'
    with Hostile(events(said, DEEP)) as server:
        async with client_of("own", server.url) as llm:
            with pytest.raises(StreamInterrupted) as caught:
                async with llm.stream(PROMPT, timeout=TIME) as stream:
                    async for _ in stream.text():
                        pass
            assert caught.value.partial in ("", "sesame-answer")  # both may come with one read
            assert "sesame" not in shown(caught.value)
