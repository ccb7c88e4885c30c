"""The sockets of a fake server: one port that listens, refuses or resets, and the connections that came through it.

It accepts by itself: an `asyncio.Server` that is closed between accepting a connection and telling of it loses it.

Rules of the file: everything happens in the server's thread; the port stays ours until `close`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilient_llm.testing._http import Connection

_BACKLOG = 1024  # connections that the kernel keeps for us; a test may open a thousand at once


class Sockets:
    """The listener and its connections.

    Attributes:
        port: 0 until `bind`.
        listening: new connections are taken.
        open: the connections that are open now.
    """

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._bound: socket.socket | None = None
        self._accepting: set[asyncio.Task[None]] = set()
        self.port = 0
        self.listening = False
        self.open: set[Connection] = set()

    def bind(self) -> None:
        """Takes a free port, on which nobody listens yet."""
        self._bound = _bound(0)
        self.port = self._bound.getsockname()[1]

    def listen(self) -> None:
        """Takes connections from now on."""
        if not self.listening and self._bound is not None:
            self._bound.listen(_BACKLOG)
            asyncio.get_running_loop().add_reader(self._bound, self._accept, self._bound)
            self.listening = True

    def _accept(self, bound: socket.socket) -> None:
        try:
            accepted, _ = bound.accept()
        except OSError:  # the client has gone again
            return
        accepted.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._attend(accepted))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _attend(self, accepted: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._make, accepted)

    def deafen(self) -> None:
        """Refuses connections from now on, and closes those that are not in an exchange."""
        if self.listening and self._bound is not None:
            self.listening = False
            asyncio.get_running_loop().remove_reader(self._bound)
            self._bound.close()
            self._bound = _bound(self.port)  # a socket that is bound and does not listen keeps the port and refuses
        for connection in tuple(self.open):
            connection.leave()

    async def hang_up(self, *, reset: bool) -> None:
        """Refuses connections and closes all that are open, with RST or FIN."""
        self.deafen()
        await asyncio.gather(*self._accepting)
        while self.open:
            for connection in tuple(self.open):
                connection.kill(reset=reset)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Closes everything."""
        await self.hang_up(reset=False)
        if self._bound is not None:
            self._bound.close()
            self._bound = None


def _bound(port: int) -> socket.socket:
    # Named, because only then asyncio sends each piece at once; else all but the first wait 40 ms for the peer's word.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setblocking(False)
    if os.name == "posix":  # elsewhere the option lets others take the port; here it only outlives old connections
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
