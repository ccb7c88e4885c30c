"""Over TLS: how every hosted service is spoken to. A front on the loopback takes the TLS off before a fake server."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from resilient_llm import AsyncClient, OpenAICompatible
from resilient_llm.errors import ConnectFailed
from resilient_llm.testing import FakeOpenAI, say

pytestmark = pytest.mark.anyio
CERTIFICATE = Path(__file__).parent.parent / "data" / "tls" / "loopback.pem"  # of 127.0.0.1, by nobody, until 2126


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def pass_on(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
    for end in (source, to):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def serve_one(inside: socket.socket, port: int) -> None:
    with inside, socket.create_connection(("127.0.0.1", port)) as behind:
        back = threading.Thread(target=pass_on, args=(behind, inside))
        back.start()
        pass_on(inside, behind)
        back.join()


def answer(listener: socket.socket, port: int, threads: list[threading.Thread]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            try:
                inside = context.wrap_socket(plain, server_side=True)
            except OSError:
                plain.close()  # the client does not trust it
                continue
            threads.append(threading.Thread(target=serve_one, args=(inside, port)))
            threads[-1].start()


@contextmanager
def front(server: FakeOpenAI) -> Iterator[str]:
    """The address of the server over TLS."""
    port, threads = urlsplit(server.url).port, list[threading.Thread]()
    assert port is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = threading.Thread(target=answer, args=(listener, port, threads))
        first.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)
    for thread in (first, *threads):
        thread.join(5)
        assert not thread.is_alive()


async def test_a_handshake_is_part_of_connecting_and_its_connection_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with FakeOpenAI(say("hel", "lo"), api_key="sk-test") as server, front(server) as url:
        async with AsyncClient(OpenAICompatible("gpt-5-mini", base_url=url, api_key="sk-test")) as llm:
            first, second = await llm.chat("hi"), await llm.chat("hi")
            async with llm.stream("hi") as stream:
                assert "".join([text async for text in stream.text()]) == "hello"
    assert first.text == second.text == "hello"
    assert first.attempts[0].connect is not None
    assert second.attempts[0].connect is None
    timings = first.timings
    assert timings.total == pytest.approx(timings.connect + (timings.first_token or 0) + timings.stream, abs=0.01)


async def test_a_certificate_that_nobody_vouches_for_is_no_hiccup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with FakeOpenAI(say("hello"), api_key="sk-test") as server, front(server) as url:
        async with AsyncClient(OpenAICompatible("gpt-5-mini", base_url=url, api_key="sk-test")) as llm:
            with pytest.raises(ConnectFailed, match=r"certificate verify failed.*SSL_CERT_FILE") as caught:
                await llm.chat("hi")
    assert len(caught.value.attempts) == 1
    assert server.requests == []
