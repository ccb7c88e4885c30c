"""One connection of a fake server: h11 for the framing, an asyncio transport for the socket, actions for the rest.

Rules of the file: one write of ours is one write on the socket, so that tests may count on the bytes; what a client
sends while it is being answered is kept for the next request; a client that leaves, by FIN or RST, ends its exchange
at once, as it does in Go's and uvicorn's servers.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any, Literal, Protocol, cast

import h11

from resilient_llm.testing._script import (
    Action,
    Call,
    Chunk,
    Drop,
    End,
    Head,
    Pace,
    Plan,
    Raw,
    Ready,
    Recorded,
    Step,
    Wait,
    reason,
)

Ended = Literal["complete", "cut", "disconnected", "closed"]
_RST = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close() resets the connection


class Host(Protocol):
    """The server behind a connection.

    Attributes:
        listening: it takes new connections, so this one may stay open for the next request.
    """

    @property
    def listening(self) -> bool: ...

    def connected(self, connection: Connection) -> None:
        """A connection was accepted."""
        ...

    def lost(self, connection: Connection) -> None:
        """A connection is gone, and its exchange is over."""
        ...

    def began(self, call: Call) -> tuple[Recorded, Plan, Step]:
        """A request is here: how to answer it."""
        ...

    def finished(self, record: Recorded, how: Ended) -> None:
        """The answer to it is over."""
        ...

    def crashed(self, error: BaseException) -> None:
        """A step of the script raised; it is the test that has to hear of it."""
        ...


class Connection(asyncio.Protocol):
    """Reads requests and answers them, one after the other, until either side has had enough."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._http = h11.Connection(h11.SERVER)
        self._transport = cast("asyncio.Transport", None)  # asyncio gives it before anything else
        self._task = cast("asyncio.Task[None]", None)
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._pending = b""
        self._pace = 0.0
        self._end: Ended = "disconnected"
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts to serve."""
        self._transport = cast("asyncio.Transport", transport)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._task.add_done_callback(self._done)
        self._host.connected(self)

    def data_received(self, data: bytes) -> None:
        """Keeps what came for whoever reads next."""
        self._http.receive_data(data)
        self._news.set()

    def eof_received(self) -> None:
        """The client has closed, at least its half: nobody waits for an answer any more."""
        self._task.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        del exc
        self._task.cancel()
        self._writable.set()
        self._host.lost(self)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    def leave(self) -> None:
        """Closes the connection unless it is answering."""
        if not self.busy:
            self._transport.close()

    def kill(self, *, reset: bool) -> None:
        """Closes the connection now, whatever it does."""
        self._end = "closed"
        self._close(reset=reset)
        self._task.cancel()

    def _close(self, *, reset: bool) -> None:
        raw = self._transport.get_extra_info("socket")
        if reset and raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self._transport.abort()

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._host.crashed(error)

    async def _serve(self) -> None:
        try:
            while (call := await self._receive()) is not None:
                self.busy = True
                await self._exchange(call)
                self.busy = False
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError:  # what came is not HTTP: there is no one to answer
            pass
        finally:
            self._transport.close()

    async def _receive(self) -> Call | None:
        """The next request, whole; `None` if the client has none."""
        request: h11.Request | None = None
        content = b""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self._transport.write(
                        self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                    )
                self._news.clear()
                await self._news.wait()
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                return _call(request, content)
            else:
                return None

    async def _exchange(self, call: Call) -> None:
        record, plan, step = self._host.began(call)
        self._end = "disconnected"
        try:
            await self._perform(step.actions(plan.answer), plan, call.method)
        finally:
            if plan.over is not None:
                plan.over()
            self._host.finished(record, self._end)

    async def _perform(self, actions: Iterable[Action], plan: Plan, method: str) -> None:
        self._pace = 0.0
        bodiless = method == "HEAD"
        for action in actions:
            match action:
                case Head(status):
                    bodiless = bodiless or status in (204, 304)
                    self._pending += self._http.send(self._head(action)) or b""
                case Chunk(data):
                    await self._write(self._http.send(h11.Data(data=b"" if bodiless else data)) or b"")
                case End():
                    await self._write(self._http.send(h11.EndOfMessage()) or b"")
                    self._end = "complete"
                case Raw(data):
                    await self._write(data)
                case Wait(seconds):
                    await _pause(seconds)
                case Pace(seconds):
                    self._pace = seconds
                case Ready():
                    await plan.answer.ready()
                case Drop(reset):
                    self._end = "cut"
                    if reset:
                        self._close(reset=True)
                    else:
                        self._transport.close()

    def _head(self, head: Head) -> h11.Response:
        close = () if self._host.listening else (("Connection", "close"),)
        headers = [*head.headers, ("Date", formatdate(usegmt=True)), *close]
        return h11.Response(status_code=head.status, reason=reason(head.status), headers=headers)

    async def _write(self, data: bytes) -> None:
        data, self._pending = self._pending + data, b""
        for piece in [data] if not self._pace else [bytes((byte,)) for byte in data]:
            if piece:
                self._transport.write(piece)
            await _pause(self._pace)
            await self._writable.wait()


async def _pause(seconds: float) -> None:
    """Sleeps; forever if infinite. Without a time it only lets others run, which endless steps rely on."""
    if math.isinf(seconds):
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(seconds)


def _call(request: h11.Request, content: bytes) -> Call:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
    path = request.target.decode("latin-1").partition("?")[0]
    return Call(request.method.decode("latin-1"), path, headers, _json(content), time.monotonic(), not content)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None
