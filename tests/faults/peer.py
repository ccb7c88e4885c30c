"""A client that is nothing but a socket, and what the tests of the fake servers ask with it."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2

from resilient_llm import ToolCall
from resilient_llm.testing import (
    FakeOllama,
    FakeOpenAI,
    FakeServer,
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


Kind = type[FakeOllama] | type[FakeOpenAI]
