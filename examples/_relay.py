"""A cable to the local server that can be cut, blocked and slowed down.

The demo breaks the cable, not the server: so the faults are the same for a simulated server and for a real one, and to
the client they are the real thing. A process that was killed looks like this from outside: open connections are reset,
new ones are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: closing sends a RST
PIECE = 16  # bytes that pass at once over a slow cable, or over one that is about to break


class Relay:
    """Passes bytes between a port of its own and a server.

    Attributes:
        sent: bytes that the server got so far.
    """

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        self._server = (address.hostname, address.port)
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._blocked = False
        self._rate = self._left = math.inf
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def cut_after(self, size: int) -> None:
        """The server dies when it has said `size` more bytes."""
        self._left = size

    def block(self) -> None:
        """Connections are accepted, and nothing passes."""
        self._blocked = True

    def slow(self, rate: float) -> None:
        """The server's bytes dribble, `rate` of them a second."""
        self._rate = rate

    def cut(self) -> None:
        """Resets what is connected, and refuses what wants to connect."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for client in self._connections.values():
            with contextlib.suppress(OSError):  # it has just left by itself
                client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.transport.abort()

    async def mend(self) -> None:
        """The cable is as new, on the same port."""
        self._blocked = False
        self._rate = self._left = math.inf
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accepted, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    def _accepted(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, client))
        self._connections[task] = client
        task.add_done_callback(self._connections.pop)

    async def _connect(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """One connection, until either side leaves it."""
        with contextlib.closing(client), contextlib.suppress(OSError):
            answers, server = await asyncio.open_connection(*self._server)
            with contextlib.closing(server):
                ways = [asyncio.create_task(self._up(reader, server)), asyncio.create_task(self._down(answers, client))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self._blocked:
                self.sent += len(data)
                server.write(data)

    async def _down(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await answers.read(65536):  # a fast model may have said all of it by now
            while data:
                size = len(data) if self._rate == self._left == math.inf else PIECE
                piece, data = data[:size], data[size:]
                self._left -= len(piece)
                if self._left < 0:
                    return self.cut()
                if not self._blocked:
                    client.write(piece)
                    await asyncio.sleep(len(piece) / self._rate)
        return None

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        await asyncio.gather(*self._connections)
