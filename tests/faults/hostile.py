"""A server that answers its first request for a completion with any bytes at all, and every later one properly.

It holds no more than one piece of what it sends, so that the memory of a test is that of the client.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, repeat
from typing import Self

Pieces = Callable[[], Iterable[bytes]]
PIECE = 65536
HEALTHY = "healthy"
_SSE = {"model": "m", "choices": [{"index": 0, "delta": {"content": HEALTHY}, "finish_reason": "stop"}]}
_LINE = {"model": "m", "message": {"role": "assistant", "content": HEALTHY}, "done": True, "done_reason": "stop"}
_RUNNING = {"models": [{"name": "m:latest", "model": "m:latest", "digest": "d", "context_length": 4096}]}


def head(status: int = 200, *lines: str) -> bytes:
    """The head of an answer whose body ends with the connection."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", *lines, "")).encode("latin-1")


def whole(body: bytes, status: int = 200, *lines: str) -> Pieces:
    """One answer with this body, after which the server hangs up."""
    return lambda: (head(status, f"Content-Length: {len(body)}", "Connection: close", *lines), body)


def events(*chunks: bytes) -> Pieces:
    """A stream of these events."""
    return lambda: (head(200, "Content-Type: text/event-stream"), *(b"data: " + chunk + b"\n\n" for chunk in chunks))


def endless(begin: bytes, piece: bytes, size: int | None = None) -> Pieces:
    """`begin`, then `piece` again and again, for ever or up to a size."""
    return lambda: chain((begin,), repeat(piece) if size is None else repeat(piece, size // len(piece)))


class Hostile:
    """The server, between `with`.

    Attributes:
        requests: the head and body of each request for a completion, as they came.
        sent: bytes of the hostile answer that left.
    """

    def __init__(self, answer: Pieces) -> None:
        self._answer, self._first = answer, True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._peers: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.requests: list[bytes] = []
        self.sent = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def again(self) -> None:
        """The next request gets the hostile answer once more."""
        self._first = True

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self._peers.append(peer)
                self._begin(lambda peer=peer: self._serve(peer))

    def _serve(self, peer: socket.socket) -> None:
        with peer, suppress(OSError, EOFError):
            while True:
                request = _read(peer)
                if b" /api/ps " in request or b" /api/version " in request:
                    peer.sendall(_reply(json.dumps(_RUNNING | {"version": "0.33.0"}).encode()))
                    continue
                self.requests.append(request)
                hostile, self._first = self._first, False
                for piece in self._answer() if hostile else (_healthy(request),):
                    peer.sendall(piece)
                    self.sent += len(piece)
                if hostile:
                    return


def _read(peer: socket.socket) -> bytes:
    """One request: its head and, as long as it says, its body."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += _more(peer)
    top, _, body = got.partition(b"\r\n\r\n")
    size = next((int(line[15:]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < size:
        body += _more(peer)
    return top + b"\r\n\r\n" + body


def _more(peer: socket.socket) -> bytes:
    data = peer.recv(PIECE)
    if not data:
        raise EOFError
    return data


def _healthy(request: bytes) -> bytes:
    native = b" /api/" in request.partition(b"\r\n")[0]
    line = json.dumps(_LINE).encode() + b"\n"
    return _reply(line if native else b"data: " + json.dumps(_SSE).encode() + b"\n\ndata: [DONE]\n\n")


def _reply(body: bytes) -> bytes:
    return head(200, f"Content-Length: {len(body)}") + body
