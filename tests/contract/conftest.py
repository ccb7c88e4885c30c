"""Four ways to the same scripts: our own connections, a user's httpx2 or httpx client, and httpx mocked by respx."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import anyio.to_thread
import httpx
import httpx2
import pytest
import respx

from resilient_llm import AsyncClient, Ollama, OpenAICompatible, Retry, Route
from resilient_llm.backends.base import Backend
from resilient_llm.testing import FakeOllama, FakeOpenAI, FakeServer, Step

from .mocked import URL, Mocked

Way = Literal["own", "httpx2", "httpx", "respx"]
Provider = Literal["ollama", "openai"]
KEY = "sk-contract-secret"
MODEL = "llama3.2"

# A stream that is left early leaves generators of httpx and httpx2 to the collector; trio has a word for that.
UPSTREAM = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")


@dataclass(frozen=True, slots=True)
class Rig:
    """A client with one route that makes one attempt, and what the server saw of it.

    Attributes:
        chats: how many requests for an answer there were.
        left: returns when the server knows that the client has left.
    """

    llm: AsyncClient
    chats: Callable[[], int]
    left: Callable[[], Any]


class Setup(Protocol):
    def __call__(self, *script: Step, **route: Any) -> AbstractAsyncContextManager[Rig]: ...


def backend_to(provider: Provider, url: str, **options: Any) -> Backend:
    if provider == "ollama":
        return Ollama(MODEL, base_url=url, api_key=KEY, **options)
    return OpenAICompatible(MODEL, base_url=url, api_key=KEY, **options)


@pytest.fixture(params=["ollama", "openai"])
def provider(request: pytest.FixtureRequest) -> Provider:
    name: Provider = request.param
    return name


# Each library, each loop, and respx, which stands for httpx on asyncio: not all of the eight pairs.
ROADS = [("asyncio", "own"), ("trio", "own"), ("asyncio", "httpx2"), ("trio", "httpx"), ("asyncio", "respx")]


@pytest.fixture(params=ROADS, ids="-".join)
def road(request: pytest.FixtureRequest) -> tuple[str, Way]:
    pair: tuple[str, Way] = request.param
    return pair


@pytest.fixture
def anyio_backend(road: tuple[str, Way]) -> str:
    return road[0]


@pytest.fixture
def way(road: tuple[str, Way]) -> Way:
    return road[1]


@pytest.fixture
def rig(provider: Provider, way: Way) -> Setup:
    """Sets up a server with that script, and a client on the way that the test runs over."""

    @asynccontextmanager
    async def make(*script: Step, **route: Any) -> AsyncIterator[Rig]:
        fake: FakeServer = FakeOllama(*script) if provider == "ollama" else FakeOpenAI(*script)
        retry = Retry(attempts=1)
        if way == "respx":
            mocked = Mocked(fake)
            with respx.mock as mock:
                mock.route(host="fake.test").mock(side_effect=mocked)
                url = URL if provider == "ollama" else f"{URL}/v1"
                async with httpx.AsyncClient() as http:
                    backend = backend_to(provider, url, http_client=http)
                    async with AsyncClient(Route(backend, retry=retry, **route)) as llm:

                        async def closed() -> None:
                            with anyio.fail_after(2):
                                await mocked.bodies[-1].closed.wait()

                        yield Rig(llm, lambda: mocked.chats, closed)
            return
        http_client = {"own": lambda: None, "httpx2": httpx2.AsyncClient, "httpx": httpx.AsyncClient}[way]()

        async def gone() -> None:
            await anyio.to_thread.run_sync(fake.wait_idle)
            assert fake.chats[-1].ended == "disconnected"

        with fake:
            backend = backend_to(provider, fake.url, http_client=http_client)
            try:
                async with AsyncClient(Route(backend, retry=retry, **route)) as llm:
                    yield Rig(llm, lambda: len(fake.chats), gone)
                assert http_client is None or not http_client.is_closed  # it is the user's
            finally:
                if http_client is not None:
                    await http_client.aclose()

    return make
