"""HTTP, and the only file that knows an HTTP library.

Our own connections are those of httpcore2, the transport under httpx2: one pool per running loop and zone limit, made
when it is first needed, without a limit on connections, because the admission queue is the only queue. There is no
environment proxy, no redirect and no cookie in it, and a peer outside the zone limit is hung up on before a byte is
sent. A user's `http_client=` needs no library here: see `_user_client`.

Rules of the file: no exception of an HTTP library leaves it; a key or a body is never in a `repr`; time is the watch's.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from resilient_llm._detached import running_loop
from resilient_llm._errors import NoEligibleRoute
from resilient_llm._types import Zone
from resilient_llm._watch import Watch
from resilient_llm._zones import beyond, zone_of
from resilient_llm.backends._endpoint import Endpoint

if TYPE_CHECKING:
    import httpcore2  # else imported with the first backend: it is a third of what importing the package would cost

KEEP_ALIVE = 4.0  # seconds an idle connection is kept: llama.cpp closes them after 5 s, and a race costs an attempt
IDLE = 100  # idle connections kept per pool
_WATCH: ContextVar[Watch] = ContextVar("resilient_llm.watch")


@dataclass(slots=True, repr=False)
class Answer:
    """The head of an HTTP answer, and its body to be read. `extensions` are those of the library that brought it."""

    status: int
    raw_headers: list[tuple[bytes, bytes]]
    body: AsyncIterable[bytes]
    extensions: Mapping[str, Any]

    def headers(self) -> dict[str, str]:
        """By lower-case name; of several the last."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.raw_headers}

    def disconnect(self) -> None:
        """Ends the connection, if it carries this answer alone; its pool finds that out before it is used again."""
        stream = self.extensions.get("network_stream")
        if stream is not None and self.extensions.get("http_version") == b"HTTP/1.1":
            line = stream.get_extra_info("socket")
            if line is not None:
                with suppress(OSError):  # the peer was faster
                    line.shutdown(socket.SHUT_RDWR)

    def __repr__(self) -> str:
        return f"Answer({self.status})"


def told_to(trace: Any, method: bytes, url: str) -> Sequence[tuple[bytes, bytes]]:
    """Tells the trace of an attempt what is sent; gives the headers that it wants sent along."""
    trace.method, trace.url = method.decode(), url
    return trace.headers  # type: ignore[no-any-return]  # telemetry stands on a floor above


class Transport(Protocol):
    """Sends one request and gives the head of its answer.

    Attributes:
        origin: where to.
        secrets: its keys.
        theirs: it is the user's, with hooks, authentication and transports that may raise anything.
    """

    origin: str
    secrets: tuple[str, ...]
    theirs: bool

    async def send(self, method: bytes, path: str, body: bytes, watch: Watch) -> Answer:
        """Raises whatever the HTTP library raises; `exchange.py` classifies it."""
        ...

    async def aclose(self) -> None:
        """Closes the connections of the running loop."""
        ...


class _Network:
    """Opens connections: says when the attempt is connecting, and hangs up on a peer outside the zone limit."""

    def __init__(self, limit: Zone | None, tls: bool) -> None:
        import httpcore2

        self._inner = httpcore2.AnyIOBackend()
        self._limit, self._tls = limit, tls
        self.sockets: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> _Handshake | _Stream:
        watch = _WATCH.get()
        before = watch.phase
        watch.enter("connect")
        stream = await self._inner.connect_tcp(host, port, *args, **kwargs)
        raw = stream.get_extra_info("socket")
        self.sockets.add(getattr(raw, "_sock", raw))
        if self._limit is not None:
            peer = zone_of(str(stream.get_extra_info("server_addr")[0]))
            if beyond(peer, self._limit):
                await stream.aclose()
                raise NoEligibleRoute(
                    f"the peer is in zone {peer!r}; local_only allows {self._limit!r}; nothing was sent",
                    falls_back=True,
                )
        if self._tls:
            return _Handshake(stream, watch, before)
        watch.enter(before)
        return _Stream(stream)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Handshake:
    """A connection before its TLS handshake, which is part of connecting. After it, this object is gone."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream, watch: Watch, before: Any) -> None:
        self._inner, self._watch, self._before = inner, watch, before

    async def start_tls(self, *args: Any, **kwargs: Any) -> _Stream:
        try:
            secured = await self._inner.start_tls(*args, **kwargs)
        except BaseException:  # a cancelled handshake is closed by nobody else; on plain TCP that waits for nothing
            with anyio.CancelScope(shield=True):
                await self._inner.aclose()
            raise
        self._watch.enter(self._before)
        return _Stream(secured)


class _Stream:
    """An open connection, on which the head of a request and its body leave together.

    httpcore2 writes one after the other, which is a system call, a packet and a turn of the event loop more: a tenth
    of what a short call costs.
    """

    __slots__ = ("_head", "_inner")

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner
        self._head = b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not self._head:
            self._head = buffer
            return
        joined, self._head = self._head + buffer, b""
        await self._inner.write(joined, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._head:
            await self.write(b"", timeout)  # a request without a body
        return await self._inner.read(max_bytes, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


@dataclass(slots=True)
class _Pools:
    """The pools of one loop, by zone limit, and the generator that closes them when the loop ends."""

    by_limit: dict[Zone | None, tuple[httpcore2.AsyncConnectionPool, _Network]]
    life: AsyncGenerator[None, None]

    def close_raw(self) -> None:
        """Closes the sockets of a loop that is gone: nothing can be awaited on it any more."""
        for _, network in self.by_limit.values():
            for sock in list(network.sockets):
                if isinstance(sock, socket.socket):
                    sock.close()


class OwnTransport:
    """Our own connections to one endpoint, on every loop that uses it."""

    theirs = False

    def __init__(self, endpoint: Endpoint) -> None:
        import httpcore2  # noqa: F401  # now, because in the first call it would hold up the event loop

        self._endpoint, self.origin, self.secrets = endpoint, endpoint.origin, endpoint.secrets
        self._urls: dict[str, httpcore2.URL] = {}
        self._loops: dict[Any, _Pools] = {}

    async def send(self, method: bytes, path: str, body: bytes, watch: Watch) -> Answer:
        """Sends it over a pool that was checked for the watch's zone limit."""
        import httpcore2

        pools = self._loops.get(running_loop())
        if pools is None:
            pools = await self._begin()
        found = pools.by_limit.get(watch.zone)
        pool = found[0] if found is not None else self._pool(pools, watch.zone)
        at = self._endpoint
        url = self._urls.get(path)
        if url is None:
            url = httpcore2.URL(scheme=at.scheme, host=at.host, port=at.port, target=at.prefix + path)
            self._urls[path] = url
        headers = [*at.headers, *watch.headers, (b"Content-Length", b"%d" % len(body))]
        if watch.trace is not None:
            headers += told_to(watch.trace, method, at.url + path)
        token = _WATCH.set(watch)
        try:
            answer = await pool.handle_async_request(httpcore2.Request(method, url, headers=headers, content=body))
        finally:
            _WATCH.reset(token)
        assert isinstance(answer.stream, AsyncIterable)
        return Answer(answer.status, answer.headers, answer.stream, answer.extensions)

    async def _begin(self) -> _Pools:
        """The first use on this loop. A generator that waits at its `yield` is closed by the loop when it ends."""
        loop = running_loop()
        for other in [one for one in self._loops if isinstance(one, asyncio.AbstractEventLoop) and one.is_closed()]:
            self._loops.pop(other).close_raw()
        pools = self._loops[loop] = _Pools({}, self._live(loop))
        await anext(pools.life)
        return pools

    async def _live(self, loop: Any) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            pools = self._loops.pop(loop, None)
            if pools is not None:
                for pool, _ in pools.by_limit.values():
                    await pool.aclose()

    def _pool(self, pools: _Pools, limit: Zone | None) -> httpcore2.AsyncConnectionPool:
        import httpcore2

        tls = self._endpoint.scheme == "https"
        network = _Network(limit, tls)
        pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpcore2.default_ssl_context() if tls else None,
            max_connections=None,
            max_keepalive_connections=IDLE,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=network,  # type: ignore[arg-type]  # it has all the verbs; to inherit would import
        )
        pools.by_limit[limit] = (pool, network)
        return pool

    async def aclose(self) -> None:
        """Closes what this loop has open. A later use begins anew."""
        pools = self._loops.get(running_loop())
        if pools is not None:
            await pools.life.aclose()
