"""A way from `httpx2.AsyncClient` to an `OllamaModel` in the same process, in which no time passes that nobody waits.

Rules of the file: the clock is the loop's, asyncio's or trio's, real or virtual; of all that wait, one sleeps until the
model's next event and the others until they are told, so that a token costs two switches however many wait; who stops
waiting hangs up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio
import httpx2

from resilient_llm.testing._script import Action, Chunk, Drop, End, Head

if TYPE_CHECKING:
    from resilient_llm.testing._host.job import Exchange
    from resilient_llm.testing._host.server import OllamaModel

ROUNDING = 1e-9  # seconds that a loop may wake before the time it was told


class InProcess(httpx2.AsyncBaseTransport):
    """Requests of one event loop to a model; see `OllamaModel.transport`."""

    def __init__(self, model: OllamaModel, grain: float) -> None:
        self._model, self._grain = model, grain
        self._waiting: dict[Exchange, anyio.Event] = {}
        self._leader: anyio.Event | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends it, and waits for the head of the answer."""
        content = await request.aread()
        self._advance()
        exchange = self._model.send(request.method, request.url.path, content)
        if self._leader is not None:
            self._leader.set()  # something may be due sooner now
        body = _Body(self, exchange)
        try:
            action = await self.read(exchange)
        except BaseException:
            await body.aclose()
            raise
        if exchange.truth.error == "refused":
            raise httpx2.ConnectError("nobody listens", request=request)
        if not isinstance(action, Head):
            raise httpx2.ReadError("the connection was reset", request=request)
        return httpx2.Response(action.status, headers=list(action.headers), stream=body, request=request)

    async def read(self, exchange: Exchange) -> Action:
        """The next that comes."""
        self._advance()
        while not exchange.out:
            await self._wait(exchange)
            self._advance()
        return exchange.out.popleft()

    def hang_up(self, exchange: Exchange) -> None:
        """Nobody reads this any more."""
        self._model.hang_up(exchange)
        if self._leader is not None:
            self._leader.set()

    def _advance(self) -> None:
        self._model.advance(anyio.current_time() + ROUNDING)
        for exchange, event in self._waiting.items():
            if exchange.out:
                event.set()

    async def _wait(self, exchange: Exchange) -> None:
        event = anyio.Event()
        if self._leader is not None:
            self._waiting[exchange] = event
            try:
                await event.wait()
            finally:
                del self._waiting[exchange]
            return
        self._leader = event
        due, now = self._model.next, anyio.current_time()
        try:
            with anyio.move_on_after(None if due is None else max(due - now, self._grain)):
                await event.wait()
        finally:
            self._leader = None
            for other in self._waiting.values():  # one of them leads now
                other.set()
                break


class _Body(httpx2.AsyncByteStream):
    """What follows the head."""

    def __init__(self, transport: InProcess, exchange: Exchange) -> None:
        self._transport, self._exchange = transport, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        out = self._exchange.out
        while True:
            action = await self._transport.read(self._exchange)
            if isinstance(action, Chunk):
                data = [action.data]
                while out and isinstance(out[0], Chunk):  # what has come together is read together
                    data.append(out.popleft().data)  # type: ignore[union-attr]  # it is a chunk
                yield b"".join(data)
            elif isinstance(action, End):
                return
            elif isinstance(action, Drop):
                raise httpx2.RemoteProtocolError("peer closed connection without sending complete message body")

    async def aclose(self) -> None:
        self._transport.hang_up(self._exchange)
