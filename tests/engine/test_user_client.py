"""The user's own HTTP client: its pool, its loop and its life are the user's, and what they do to a call is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from resilient_llm import AsyncClient, OpenAICompatible, Retry, Route
from resilient_llm.errors import ClientClosed, Malformed, Overloaded, RateLimited, ServerError
from resilient_llm.testing import FakeOpenAI, redirect, say, stall

from .kit import REAL, Ask, error_of, loop_options

# httpx2 leaves a generator of its own to the collector, which closes it; only trio has a word for that.
UPSTREAM = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
pytestmark = [pytest.mark.anyio, UPSTREAM]
LIBRARIES = pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])


@asynccontextmanager
async def over(library: Any, server: FakeOpenAI, **options: Any) -> AsyncIterator[tuple[AsyncClient, Any]]:
    """A client of ours over one of that library."""
    async with library.AsyncClient(**options) as http:
        backend = OpenAICompatible("m", base_url=server.url, api_key="k", http_client=http)
        yield AsyncClient(Route(backend, retry=Retry(attempts=1))), http


@REAL
@LIBRARIES
async def test_a_full_pool_is_nobodys_fault_and_opens_no_breaker(library: Any, ask: Ask) -> None:
    with FakeOpenAI(stall("a")) as server:
        limits, timeout = library.Limits(max_connections=1), library.Timeout(5, pool=0.02)
        async with over(library, server, limits=limits, timeout=timeout) as (llm, _):
            async with llm.stream("hi") as stream:
                await anext(stream)
                for _ in range(6):
                    error = await error_of(ask(llm, timeout=5), Overloaded)
                    assert error.fault is None
                    assert "pool is full" in error.message
            assert llm.snapshot()["compatible:m"]["breaker"].state == "closed"


@REAL
@LIBRARIES
async def test_the_limits_of_a_call_hold_and_not_those_of_the_client(library: Any, ask: Ask) -> None:
    with FakeOpenAI(say("yes", first=0.1)) as server:
        async with over(library, server, timeout=library.Timeout(0.05)) as (llm, _):
            assert (await ask(llm, timeout=5)).text == "yes"


@REAL
@LIBRARIES
async def test_a_redirect_is_not_followed_although_the_client_would(library: Any, ask: Ask) -> None:
    with FakeOpenAI(say("stolen")) as target, FakeOpenAI(redirect(f"{target.url}/chat/completions")) as server:
        async with over(library, server, follow_redirects=True) as (llm, _):
            assert (await error_of(ask(llm))).status == 307
        assert target.connections == 0


@REAL
@LIBRARIES
async def test_a_client_that_was_closed_says_so(library: Any, ask: Ask) -> None:
    with FakeOpenAI(say("yes")) as server:
        async with over(library, server) as (llm, http):
            await http.aclose()
            error = await error_of(ask(llm), ClientClosed)
            assert "http_client" in error.message


@REAL
@LIBRARIES
async def test_our_client_never_closes_the_users(library: Any, ask: Ask) -> None:
    with FakeOpenAI(say("yes")) as server:
        async with over(library, server) as (llm, http):
            async with llm:
                await ask(llm)
            assert not http.is_closed


@pytest.mark.parametrize("anyio_backend", ["none"])
@LIBRARIES
def test_a_second_loop_has_a_typed_error(library: Any, anyio_backend: object) -> None:
    with FakeOpenAI(say("yes")) as server:
        http = library.AsyncClient()
        llm = AsyncClient(OpenAICompatible("m", base_url=server.url, api_key="k", http_client=http))

        async def first() -> None:
            assert (await llm.chat("hi")).text == "yes"
            await http.aclose()

        async def second() -> None:
            error = await error_of(llm.chat("hi"), ClientClosed)
            assert "event loop" in error.message

        backend, options = loop_options("asyncio")
        anyio.run(first, backend=backend, backend_options=options)
        anyio.run(second, backend=backend, backend_options=options)


class Broken(httpx2.AsyncBaseTransport):
    """A transport of the user's with an error of the user's."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("my proxy ate it")


@REAL
async def test_a_transport_of_the_users_is_used_and_its_failure_is_typed(ask: Ask) -> None:
    async with httpx2.AsyncClient(transport=Broken()) as http:
        backend = OpenAICompatible("m", base_url="http://nowhere.invalid", api_key="k", http_client=http)
        llm = AsyncClient(Route(backend, retry=Retry(attempts=1)))
        error = await error_of(ask(llm))
        assert "my proxy ate it" in error.message
        assert error.fault == "backend"
        assert not isinstance(error, ServerError)


class Refusing(httpx2.AsyncBaseTransport):
    """A server that refuses with a body that cannot be read."""

    def __init__(self, encoding: str, pieces: list[bytes | Exception]) -> None:
        self._headers, self._pieces = {"retry-after": "7", "content-encoding": encoding}, pieces

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(429, headers=self._headers, stream=Pieces(self._pieces))


class Pieces(httpx2.AsyncByteStream):
    """A body, or what breaks it."""

    def __init__(self, pieces: list[bytes | Exception]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


@pytest.mark.parametrize(
    "transport",
    [
        Refusing("identity", [b'{"error": {"mess', httpx2.ReadError("gone")]),
        Refusing("gzip", [b"no gzip"]),
        Refusing("br", [b"what nobody asked for"]),
    ],
    ids=["it breaks off", "it is not what it says", "it is compressed in a way that we do not know"],
)
async def test_a_refusal_is_one_although_its_body_cannot_be_read(transport: Refusing, ask: Ask) -> None:
    async with httpx2.AsyncClient(transport=transport) as http:
        backend = OpenAICompatible("m", base_url="http://nowhere.invalid", api_key="k", http_client=http)
        error = await error_of(ask(AsyncClient(Route(backend, retry=Retry(attempts=1)))), RateLimited)
        assert (error.status, error.retry_after) == (429, 7)


async def test_what_a_library_says_at_length_is_shortened(ask: Ask) -> None:
    """h11 repeats a line of a header that is none, which may be as long as all of them."""
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(babble)) as http:
        backend = OpenAICompatible("m", base_url="http://nowhere.invalid", api_key="k", http_client=http)
        error = await error_of(ask(AsyncClient(Route(backend, retry=Retry(attempts=1)))), Malformed)
        assert "illegal header line" in error.message
        assert len(error.message) < 400


def babble(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.RemoteProtocolError(f"illegal header line: {bytearray(60_000)!r}", request=request)
