"""`http_client=`: what the user's own client brings along neither breaks a request of ours nor escapes untyped.

What the same client does with answers is in `test_answers`, its pool, its loop and its life in `tests/engine`.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from resilient_llm import AsyncClient, Client, ConfigError, LLMError, Ollama, Retry, Route, StreamInterrupted
from resilient_llm.errors import (
    AuthFailed,
    BadRequest,
    ConnectFailed,
    ConnectTimeout,
    FirstTokenTimeout,
    Malformed,
    NoEligibleRoute,
    Overloaded,
    RateLimited,
    StreamStalled,
)
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, FakeServer, cut, error_line, say, status

from .conftest import KEY, MODEL, UPSTREAM, Provider, backend_to

pytestmark = [pytest.mark.anyio, UPSTREAM]
LIBRARIES = pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
PROMPT = "the prompt is a secret too"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def fake(provider: Provider, *script: Any) -> FakeServer:
    return FakeOllama(*script) if provider == "ollama" else FakeOpenAI(*script)


@LIBRARIES
async def test_defaults_of_the_users_client_do_not_lead_a_request_astray(library: Any, provider: Provider) -> None:
    theirs = {
        "base_url": "http://127.0.0.1:9/elsewhere",
        "headers": {"Authorization": "Bearer theirs", "Accept-Encoding": "br", "Content-Type": "a/b", "X-Team": "a"},
        "auth": ("their", "password"),
        "params": {"api-version": "2"},
        "cookies": {"session": "1"},
    }
    with fake(provider, say("hello")) as server:
        async with library.AsyncClient(**theirs) as http:
            llm = AsyncClient(backend_to(provider, server.url, http_client=http))
            assert (await llm.chat("hi")).text == "hello"
        (sent,) = server.chats
    ours = ("authorization", "accept-encoding", "content-type", "host")
    host = server.url.split("/")[2]
    assert [sent.headers[name] for name in ours] == [f"Bearer {KEY}", "identity", "application/json", host]
    assert (sent.headers["x-team"], sent.headers["cookie"]) == ("a", "session=1")


@LIBRARIES
async def test_where_we_have_no_key_the_clients_own_authentication_is_used(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    with FakeOllama(say("hello")) as server:
        async with library.AsyncClient(auth=("user", "password")) as http:
            assert (await AsyncClient(Ollama(MODEL, base_url=server.url, http_client=http)).chat("hi")).text == "hello"
        assert server.chats[0].headers["authorization"].startswith("Basic ")


class Failing:
    """A transport that fails as one of the library's may: before the answer, or within it."""

    def __init__(self, library: ModuleType, error: Exception, *, begun: bool) -> None:
        self._library, self._error, self._begun = library, error, begun

    def transport(self) -> Any:
        async def handle(request: Any) -> Any:
            if not self._begun:
                raise self._error
            return self._library.Response(200, content=self._body())

        return self._library.MockTransport(handle)

    async def _body(self) -> AsyncIterator[bytes]:
        yield b'data: {"model":"m","choices":[{"delta":{"content":"hel"}}]}\n\n'
        raise self._error


FAILURES: dict[str, tuple[type[LLMError], type[LLMError]]] = {  # before the answer, within it
    "ConnectTimeout": (ConnectTimeout, StreamInterrupted),
    "PoolTimeout": (Overloaded, StreamInterrupted),
    "ReadTimeout": (FirstTokenTimeout, StreamStalled),
    "WriteTimeout": (ConnectFailed, StreamInterrupted),
    "ConnectError": (ConnectFailed, StreamInterrupted),
    "ReadError": (ConnectFailed, StreamInterrupted),
    "WriteError": (ConnectFailed, StreamInterrupted),
    "CloseError": (ConnectFailed, StreamInterrupted),
    "ProxyError": (ConnectFailed, StreamInterrupted),
    "RemoteProtocolError": (Malformed, StreamInterrupted),
    "LocalProtocolError": (BadRequest, LLMError),
    "UnsupportedProtocol": (ConfigError, LLMError),
    "DecodingError": (Malformed, StreamInterrupted),
    "TooManyRedirects": (ConnectFailed, StreamInterrupted),
}


@LIBRARIES
@pytest.mark.parametrize("begun", [False, True], ids=["before", "within"])
@pytest.mark.parametrize("name", FAILURES)
async def test_every_failure_of_the_library_has_a_type(library: Any, name: str, begun: bool) -> None:
    failing = Failing(library, getattr(library, name)("their words"), begun=begun)
    async with library.AsyncClient(transport=failing.transport()) as http:
        backend = backend_to("openai", "http://fake.test/v1", http_client=http)
        llm = AsyncClient(Route(backend, retry=Retry(attempts=1)))
        with pytest.raises(FAILURES[name][begun]) as caught:
            await llm.chat("hi")
    assert len(caught.value.attempts) == 1
    if isinstance(caught.value, StreamInterrupted):
        assert caught.value.partial == "hel"
    if name == "PoolTimeout" and not begun:
        assert caught.value.fault is None


@pytest.mark.parametrize("library", [httpx2, httpx, None], ids=["httpx2", "httpx", "ours"])
async def test_why_there_is_no_connection_is_told_in_the_words_of_the_system(library: Any) -> None:
    with FakeOllama() as server:
        server.stop_listening()
        http = library.AsyncClient() if library is not None else None
        llm = AsyncClient(Route(Ollama("llama3.2", base_url=server.url, http_client=http), retry=Retry(attempts=1)))
        with pytest.raises(ConnectFailed) as caught:
            await llm.chat("hi")
        if http is not None:
            await http.aclose()
    assert caught.value.message == f"no connection to {server.url}: {os.strerror(errno.ECONNREFUSED)}"


async def test_a_name_with_several_addresses_tells_of_each_once() -> None:
    refused, unreachable = OSError(errno.ECONNREFUSED, "no"), OSError(errno.EHOSTUNREACH, "no")
    failed = OSError("All connection attempts failed")
    failed.__cause__ = ExceptionGroup("several", [refused, unreachable, refused])
    error = httpx2.ConnectError(str(failed))
    error.__cause__ = failed
    async with httpx2.AsyncClient(transport=Failing(httpx2, error, begun=False).transport()) as http:
        llm = AsyncClient(Route(backend_to("openai", "http://fake.test/v1", http_client=http), retry=Retry(attempts=1)))
        with pytest.raises(ConnectFailed) as caught:
            await llm.chat("hi")
    both = f"{os.strerror(errno.ECONNREFUSED)}, {os.strerror(errno.EHOSTUNREACH)}"
    assert caught.value.message == f"no connection to http://fake.test:80: {both}"


def raised(library: ModuleType) -> list[Exception]:
    """What hooks, authentications and transports of a user's may raise: the library's oddities, and bugs of his."""
    odd = [library.StreamClosed(), library.ResponseNotRead(), library.CookieConflict("c"), library.InvalidURL("u")]
    return [*odd, KeyError("token"), RuntimeError("weird"), UnicodeEncodeError("ascii", "a", 0, 1, "no")]


@LIBRARIES
@pytest.mark.parametrize("begun", [False, True], ids=["before", "within"])
async def test_whatever_the_users_client_raises_is_typed_and_the_next_route_answers(library: Any, begun: bool) -> None:
    for error in raised(library):
        async with library.AsyncClient(transport=Failing(library, error, begun=begun).transport()) as http:
            backend = backend_to("openai", "http://fake.test/v1", http_client=http)
            alone = AsyncClient(Route(backend, retry=Retry(attempts=1)))
            with pytest.raises(LLMError) as caught:
                await alone.chat(PROMPT)
            failed = caught.value
            if not isinstance(error, library.InvalidURL):  # that one is in the address
                assert isinstance(failed, StreamInterrupted if begun else ConnectFailed)
                assert f"the http_client raised {type(error).__name__}" in failed.message
                second = AsyncClient(Route(backend, retry=Retry(attempts=1)), FakeBackend(say("elsewhere")))
                assert (await second.chat(PROMPT)).text == "elsewhere"
            assert error.__traceback__ is None  # its frames hold the request
            stack = traceback.TracebackException.from_exception(failed, capture_locals=True).stack
            ours = [frame.locals for frame in stack if "/tests/" not in frame.filename]
            assert PROMPT not in str(ours)


@LIBRARIES
async def test_a_hook_that_reads_the_answer_or_judges_its_status_is_no_harm(library: Any, provider: Provider) -> None:
    async def read(response: Any) -> None:
        await response.aread()

    async def judge(response: Any) -> None:
        response.raise_for_status()

    for hooks in ([read], [judge], [read, judge]):
        with fake(provider, say("hel", "lo"), status(401, "no"), status(429, headers={"Retry-After": "7"})) as server:
            async with library.AsyncClient(event_hooks={"response": hooks}) as http:
                backend = backend_to(provider, server.url, http_client=http)
                llm = AsyncClient(Route(backend, retry=Retry(attempts=1)), timeout=5)
                assert (await llm.chat("hi")).text == "hello"
                with pytest.raises(AuthFailed) as refused:
                    await llm.chat("hi")
                assert refused.value.status == 401
                with pytest.raises(RateLimited) as throttled:
                    await llm.chat("hi")
                assert throttled.value.retry_after == 7


@LIBRARIES
async def test_a_proxy_of_the_users_is_asked_and_no_other(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is told the whole address, which nobody could look up."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with FakeOpenAI(status(403)) as proxy:
        async with library.AsyncClient(proxy=proxy.url.removesuffix("/v1")) as http:
            llm = AsyncClient(backend_to("openai", "http://nowhere.invalid/v1", http_client=http))
            with pytest.raises(LLMError):
                await llm.chat("hi")
        assert proxy.requests[0].path == "http://nowhere.invalid/v1/chat/completions"


BROKEN = {
    "refused": status(401, f"wrong key {KEY}"),
    "torn": cut("hel"),
    "in band": error_line("kaputt", after=("hel",)),
}


@LIBRARIES
@pytest.mark.parametrize("name", BROKEN)
async def test_no_error_and_no_traceback_with_locals_shows_the_key_or_the_prompt(
    library: Any, provider: Provider, name: str
) -> None:
    with fake(provider, BROKEN[name]) as server:
        async with library.AsyncClient() as http:
            backend = backend_to(provider, server.url, http_client=http)
            llm = AsyncClient(Route(backend, retry=Retry(attempts=1)))
            with pytest.raises(LLMError) as caught:
                await llm.chat(PROMPT)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "Traceback" in shown
    ours = shown[shown.index("_client.py") :]  # above it are the frames of this test, which may hold anything
    assert KEY not in ours
    assert PROMPT not in ours


@LIBRARIES
async def test_a_users_client_may_lead_anywhere_so_private_calls_stay_off_it(library: Any, provider: Provider) -> None:
    with fake(provider, say("hello")) as server:
        async with library.AsyncClient() as http:
            backend = backend_to(provider, server.url, http_client=http)
            with pytest.raises(NoEligibleRoute):
                await AsyncClient(backend).chat("hi", local_only=True)
            assert server.connections == 0
            trusted = AsyncClient(Route(backend, zone="machine"))
            assert (await trusted.chat("hi", local_only="machine")).text == "hello"


@LIBRARIES
async def test_one_client_serves_several_routes_and_several_of_our_clients(library: Any) -> None:
    with FakeOpenAI(status(500)) as broken, FakeOllama(say("hello")) as well:
        async with library.AsyncClient() as http:
            first = Route(backend_to("openai", broken.url, http_client=http), retry=Retry(attempts=1))
            second = backend_to("ollama", well.url, http_client=http)
            for _ in range(2):
                async with AsyncClient(first, second) as llm:
                    reply = await llm.chat("hi")
                assert (reply.text, reply.route) == ("hello", f"ollama:{MODEL}")


@pytest.mark.parametrize("given", [httpx.Client, httpx2.Client, object], ids=["httpx", "httpx2", "object"])
def test_what_is_no_async_client_is_told_when_the_backend_is_made(given: Any, provider: Provider) -> None:
    with pytest.raises(ConfigError, match="http_client"):
        backend_to(provider, "http://127.0.0.1:9", http_client=given())


@LIBRARIES
def test_the_client_without_await_uses_it_on_its_own_loop(library: Any) -> None:
    lines = b'data: {"choices":[{"delta":{"content":"hello"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    http = library.AsyncClient(transport=library.MockTransport(lambda _: library.Response(200, content=lines)))
    with Client(backend_to("openai", "http://fake.test/v1", http_client=http)) as llm:
        assert llm.chat("hi").text == "hello"
        with llm.stream("hi") as stream:
            assert "".join(stream.text()) == "hello"
    assert not http.is_closed
