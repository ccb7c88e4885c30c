"""The sockets of a fake server: one port that listens, refuses or resets, and the connections that came through it.

Rules of the file: everything but `bind` happens in the server's thread; the port stays ours until `close`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilient_llm.testing._http import Connection


class Sockets:
    """The listener and its connections.

    Attributes:
        port: 0 until `bind`.
        open: the connections that are open now.
    """

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._bound: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self.port = 0
        self.open: set[Connection] = set()

    @property
    def listening(self) -> bool:
        """New connections are taken."""
        return self._listener is not None

    def bind(self) -> None:
        """Takes a free port, on which nobody listens yet."""
        self._bound = _bound(0)
        self.port = self._bound.getsockname()[1]

    async def listen(self) -> None:
        """Takes connections from now on."""
        if self._listener is None and self._bound is not None:
            self._listener = await asyncio.get_running_loop().create_server(self._make, sock=self._bound)

    def deafen(self) -> None:
        """Refuses connections from now on, and closes those that are not in an exchange."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._bound = _bound(self.port)  # a socket that is bound and does not listen keeps the port and refuses
        for connection in tuple(self.open):
            connection.leave()

    async def hang_up(self, *, reset: bool) -> None:
        """Refuses connections and closes all that are open, with RST or FIN."""
        self.deafen()
        for _ in range(2):  # asyncio takes two turns from accepting a connection to telling us of it
            await asyncio.sleep(0)
        while self.open:
            for connection in tuple(self.open):
                connection.kill(reset=reset)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Closes everything."""
        await self.hang_up(reset=False)
        if self._bound is not None:
            self._bound.close()


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere the option lets others take the port; here it only outlives old connections
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
