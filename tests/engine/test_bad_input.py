"""What makes no sense has a typed error that names the field or the route, and leaves the client usable."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    ChatRequest,
    CircuitBreaker,
    ConfigError,
    Image,
    LLMError,
    Message,
    Ollama,
    OpenAICompatible,
    RateLimit,
    Retry,
    Route,
    Timeouts,
    Tool,
    ToolCall,
)
from resilient_llm.errors import AuthFailed, ClientClosed, Malformed
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, dribble, huge_line, malformed, raw, say, status

from .kit import REAL, Ask, client, error_of

pytestmark = pytest.mark.anyio
URL = "http://127.0.0.1:1"

MADE: list[tuple[Callable[[], Any], str]] = [
    (lambda: Ollama(""), "model: "),
    (lambda: Ollama("  "), "model: "),
    (lambda: Ollama("a\nb"), "model: "),
    (lambda: Ollama(None), "model: "),  # type: ignore[arg-type]
    (lambda: OpenAICompatible("", base_url=URL), "model: "),
    (lambda: OpenAICompatible(7, base_url=URL), "model: "),  # type: ignore[arg-type]
    (lambda: OpenAICompatible("m\r\nX-Evil: secret", base_url=URL), "model: "),
    (lambda: Ollama("m", base_url="ftp://host"), "base_url: "),
    (lambda: Ollama("m", base_url="http://host:99999"), "base_url: "),
    (lambda: Ollama("m", base_url="http://ho st"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url="not a url"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url="http://[::1"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url="http://host:port"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url="http://user:secret@host/v1"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url=f"{URL}/v1\r\nX-Other: secret"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url="http://ho\nst/v1"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url=f"{URL}/v 1"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url=f"{URL}/v\u00e9"), "base_url: "),
    (
        lambda: OpenAICompatible("m", base_url=f"{URL}/v1/chat/completions/"),
        "base_url: it ends before /chat/completions",
    ),
    (lambda: Ollama("m", base_url="http://ho\r\nst"), "base_url: "),
    (lambda: Ollama("m", base_url=f"{URL}/a\tb"), "base_url: "),
    (lambda: OpenAICompatible("m", base_url=URL, context_window=0), "context_window: "),
    (lambda: OpenAICompatible("m", base_url=URL, http_client=object()), "http_client: "),
    (lambda: OpenAICompatible("m", base_url=URL, headers={"X": "a\nb"}), "headers"),
    (lambda: OpenAICompatible("m", base_url=URL, headers={"X\r\nEvil": "secret"}), "headers: "),
    (lambda: OpenAICompatible("m", base_url=URL, headers={"Content-Length": "0"}), "headers: "),
    (lambda: Ollama("m", base_url=URL, headers={"Transfer-Encoding": "chunked"}), "headers: "),
    (lambda: OpenAICompatible("m", base_url=URL, api_key="a\nb"), "api_key: "),
    (lambda: Ollama("m", base_url=URL, api_key="secret\r\nX-Evil: yes"), "api_key: "),
    (lambda: Ollama("m", num_ctx=0), "num_ctx: "),
    (lambda: Ollama("m", num_ctx=True), "num_ctx: "),
    (lambda: Ollama("m", keep_alive="600"), "keep_alive: "),
    (lambda: Ollama("m", base_url=""), "base_url: "),
    (lambda: OpenAICompatible("m", base_url=""), "base_url: "),
    (lambda: Ollama("m", base_url=7), "base_url: "),  # type: ignore[arg-type]
    (lambda: OpenAICompatible("m", base_url=[URL]), "base_url: "),  # type: ignore[arg-type]
    (lambda: OpenAICompatible("m", base_url=URL, context_window="8k"), "context_window: "),  # type: ignore[arg-type]
    (lambda: OpenAICompatible("m", base_url=URL, headers=["X: 1"]), "headers: "),  # type: ignore[arg-type]
    (lambda: Ollama("m", headers={1: "a"}), "headers: "),  # type: ignore[dict-item]
    (lambda: OpenAICompatible("m", base_url=URL, extra="top_k=3"), "extra: "),  # type: ignore[arg-type]
    (lambda: OpenAICompatible("m", base_url=URL, name=3), "name: "),  # type: ignore[arg-type]
    (lambda: Ollama("m", think="a lot"), "think: "),  # type: ignore[arg-type]
    (lambda: Ollama("m", shift="no"), "shift: "),  # type: ignore[arg-type]
    (lambda: Ollama("m", keep_alive=10**400), "keep_alive: "),
    (AsyncClient, "routes: "),
    (lambda: AsyncClient("llama3.2"), "route: "),
    (lambda: AsyncClient("ollama:"), "route: "),
    (lambda: AsyncClient("nobody:model"), "route: "),
    (lambda: AsyncClient(""), "route: "),
    (lambda: AsyncClient(3), "backend: "),  # type: ignore[arg-type]
    (lambda: AsyncClient(None), "backend: "),  # type: ignore[arg-type]
    (lambda: AsyncClient(FakeBackend(), timeout=-1), "timeout: "),
    (lambda: AsyncClient(FakeBackend(), timeout=10**400), "timeout: "),
    (lambda: AsyncClient(FakeBackend(), clock=3), "clock: "),  # type: ignore[arg-type]
    (lambda: AsyncClient(FakeBackend(), rng=7), "rng: "),  # type: ignore[arg-type]
    (lambda: Timeouts(connect=10**400), "connect: "),
    (lambda: Bulkhead(10**400), "slots: "),
    (lambda: CircuitBreaker(cooldown=10**400), "cooldown: "),
    (lambda: RateLimit(10**400), "requests_per_minute: "),
    (lambda: Route(FakeBackend(), name=3), "name: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), streams="yes"), "streams: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), lacks=1), "lacks: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), price=1.0), "price: "),  # type: ignore[arg-type]
    (lambda: Image(), "image: "),
    (lambda: Route(FakeBackend(), zone="moon"), "zone: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), on_break="again"), "on_break: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), falls_back_on=(ValueError,)), "falls_back_on: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), falls_back_on=ValueError), "falls_back_on: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), falls_back_on="AuthFailed"), "falls_back_on: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), falls_back_on=3), "falls_back_on: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), timeouts=30), "timeouts: 30 is no Timeouts"),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), retry=3), "retry: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), retry=Retry), "retry: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), budget=3), "budget: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), breaker=5), "breaker: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), bulkhead=4), "bulkhead: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), rate=60), "rate: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), guard=4096), "guard: "),  # type: ignore[arg-type]
    (lambda: Route(FakeBackend(), sentinel=False), "sentinel: "),  # type: ignore[arg-type]
    (lambda: AsyncClient(FakeBackend(), plan=3), "plan: "),  # type: ignore[arg-type]
    (lambda: Message("user", "hi", privat=True), "message: there is no field 'privat'"),
    (lambda: Message(), "message: role: "),
    (lambda: Message("user", 7), "message: content: "),  # type: ignore[arg-type]
    (lambda: Message("user", images=[Image()]), "image: "),
    (lambda: Image(data="AAAA", url="https://x/y.png"), "image: "),
    (lambda: Image(data=7), "image: data: "),  # type: ignore[arg-type]
]


def test_what_falls_back_may_be_one_class_or_a_list_of_them() -> None:
    for given in (AuthFailed, [AuthFailed], {AuthFailed}, (AuthFailed,)):
        assert Route(FakeBackend(), falls_back_on=given).falls_back_on == (AuthFailed,)  # type: ignore[arg-type]
    assert hash(Route(FakeBackend(), falls_back_on=[AuthFailed], lacks=["tools"]))


def test_a_message_takes_its_own_dump_back() -> None:
    full = Message("assistant", "hi", images=[Image(data="AAAA")], tool_calls=[ToolCall("f", {"a": 1}, "b")])
    assert Message(**full.model_dump()) == Message.model_validate_json(full.model_dump_json()) == full


async def test_what_a_server_adds_to_its_own_message_is_passed_over(ask: Ask) -> None:
    backend = FakeBackend(say("yes"))
    mine = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "reasoning_content": "hm"}
    await ask(client(backend), [{"role": "user", "content": "hi", "id": 7}, mine, "and?"])
    sent = backend.requests[0]
    assert isinstance(sent, ChatRequest)
    assert [one.reasoning for one in sent.messages] == [None, "hm", None]


@pytest.mark.parametrize(("make", "field"), MADE)
def test_what_is_wrong_with_a_route_is_told_when_it_is_made(make: Callable[[], Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.message.startswith(field)
    assert isinstance(caught.value, ValueError)
    assert "secret" not in repr(caught.value)


def len_of(text: str) -> int:
    return len(text)


MESSAGES: list[tuple[Any, str]] = [
    ([], "messages: "),
    ((), "messages: "),
    (None, "messages: "),
    (7, "messages: "),
    ([None], "messages[0]: "),
    ([["hi"]], "messages[0]: "),
    ([{"role": "user", "content": "hi"}, {"role": "wizard", "content": "hi"}], "messages[1]: role: "),
    ([{"content": "hi"}], "messages[0]: role: "),
    ([{"role": "user", "content": 7}], "messages[0]: "),
    ([{"role": "user", "content": [{"type": "video"}]}], "messages[0]: "),
    ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "messages[0]: "),
    ([{"role": "assistant", "tool_calls": [7]}], "messages[0]: "),
    ([{"role": "assistant", "tool_calls": [{"function": {"name": 7}}]}], "messages[0]: tool_calls: "),
    ([{"role": "assistant", "tool_calls": [{"id": ["a"], "function": {"name": "f"}}]}], "messages[0]: tool_calls: "),
    ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 7}}]}], "messages[0]: tool_calls: "),
    ({"role": "user", "content": [{"type": "image_url", "image_url": 7}]}, "messages[0]: images.0"),
    ({1: 2}, "messages[0]: "),
    ({"role": "user", "content": {"a": 1}}, "messages[0]: "),
]
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"timeout": 0}, "timeout: "),
    ({"timeout": "5"}, "timeout: "),
    ({"timeout": 10**400}, "timeout: "),
    ({"max_tokens": 0}, "max_tokens: "),
    ({"max_tokens": 10**400}, "max_tokens: "),
    ({"max_tokens": "many"}, "max_tokens: "),
    ({"temperature": 3}, "temperature: "),
    ({"temperature": float("nan")}, "temperature: "),
    ({"stop": [""]}, "stop: "),
    ({"stop": [3]}, "stop: "),
    ({"stop": 3}, "stop: "),
    ({"reasoning": "hard"}, "reasoning: "),
    ({"tools": [3]}, "tools: "),
    ({"tools": [Tool("", "", {})]}, "tools: "),
    ({"tools": [Tool("f", "", [])]}, "tools: "),  # type: ignore[arg-type]
    ({"tools": 3}, "tools: "),
    ({"tools": [{"function": {}}]}, "tools: "),
    ({"tools": [{"function": {"name": 7}}]}, "tools: "),
    ({"tools": [{"name": "f", "parameters": "x"}]}, "tools: "),
    ({"tools": [lambda *rest: 0]}, "tools: "),
    ({"seed": "x"}, "seed: "),
    ({"seed": 1.5}, "seed: "),
    ({"max_tokens": 2.5}, "max_tokens: "),
    ({"max_tokens": True}, "max_tokens: "),
    ({"tags": 3}, "tags: "),
    ({"tags": [3]}, "tags: "),
    ({"tools": [lambda city: city]}, "tools: "),
    ({"tools": [len_of, len_of]}, "tools: two are named 'len_of'"),
    ({"tools": [len_of], "tool_choice": "lenof"}, "tool_choice: "),
    ({"extra": 3}, "extra: "),
    ({"system": 3}, "system: "),
    ({"local_only": "yes"}, "local_only: "),
    ({"conversation": ["c"]}, "conversation: "),
]


@pytest.mark.parametrize(("messages", "field"), MESSAGES)
async def test_what_is_wrong_with_the_messages_is_told_by_its_place(ask: Ask, messages: Any, field: str) -> None:
    backend = FakeBackend(say("yes"))
    llm = client(backend)
    error = await error_of(ask(llm, messages), ConfigError)
    assert error.message.startswith(field)
    assert backend.requests == []
    assert (await ask(llm)).text == "yes"


@pytest.mark.parametrize(("options", "field"), OPTIONS, ids=lambda one: repr(one)[:60])
async def test_what_is_wrong_with_an_option_is_told_by_its_name(ask: Ask, options: dict[str, Any], field: str) -> None:
    backend = FakeBackend(say("yes"))
    llm = client(backend)
    error = await error_of(ask(llm, "hi", **options), ConfigError)
    assert error.message.startswith(field)
    assert backend.requests == []
    assert (await ask(llm)).text == "yes"


async def test_an_option_that_there_is_not_is_a_type_error_that_lists_those_there_are(ask: Ask) -> None:
    with pytest.raises(TypeError, match=r"'max_token'.*max_tokens"):
        await ask(client(FakeBackend()), max_token=3)


async def test_a_closed_client_says_so(ask: Ask) -> None:
    llm = client(FakeBackend())
    async with llm:
        pass
    await error_of(ask(llm), ClientClosed)
    await error_of(llm.embed("text"), ClientClosed)
    await error_of(llm.models(), ClientClosed)
    await error_of(llm.warm_up(), ClientClosed)
    with pytest.raises(ClientClosed):
        async with llm:
            pass


async def test_a_bulkhead_without_a_number_takes_the_one_of_its_route(ask: Ask) -> None:
    llm = client(Route(FakeBackend(say("yes"), slots=3), bulkhead=Bulkhead()))
    assert (await ask(llm)).text == "yes"
    assert llm.snapshot()["fake"]["bulkhead"].slots == 3


# -- what servers send

HUGE = 50 * 1024 * 1024
NAMELESS = b'{"id":1,"object":null,"created":"x","choices":[{"delta":[]}],"message":3,"done":"maybe","error":0}'
SENT: list[Any] = [
    malformed(b"\xff\xfe\xfa\n\n"),
    malformed(b"data: {}\n\n{}\n"),
    malformed(b"data: " + NAMELESS + b"\n\n" + NAMELESS + b"\n"),
    malformed(b"data: [1,2]\n\n[1,2]\n"),
    malformed(b"data: null\n\nnull\n"),
    malformed(b"data: " + b"[" * 100_000 + b"\n\n" + b"[" * 100_000 + b"\n"),
    status(200, b""),
    status(200, b"<html>"),
    status(200, b'"text"'),
    status(500, b"\xff\xfe"),
    status(418, {"error": [{"a": {}}]}),
    status(400, {"error": {"message": None, "code": {"x": 1}, "type": 7}}),
    status(429, "slow", {"Retry-After": "next tuesday"}),
    status(429, "slow", {"Retry-After": "-5"}),
    status(429, "slow", {"Retry-After": "nan"}),
    status(503, b"x" * 1_000_000),
    status(200, b"x", {"Content-Encoding": "br"}),
    status(200, b"not gzip", {"Content-Encoding": "gzip"}),
    raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
    raw(b"HTTP/1.1 99999 Whatever\r\n\r\n"),
    raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n"),
    raw(b"\x00\x01\x02\x03\r\n\r\n"),
    dribble(0, status(500)),
]


@REAL
@pytest.mark.parametrize("streams", [True, False])
async def test_nothing_but_typed_errors_escapes_whatever_the_server_sends(ask: Ask, streams: bool) -> None:
    with FakeOllama() as near, FakeOpenAI() as far:
        for server, backend in (
            (near, Ollama("llama3.2", base_url=near.url)),
            (far, OpenAICompatible("m", base_url=far.url, api_key="k")),
        ):
            async with AsyncClient(Route(backend, retry=Retry(attempts=1), streams=streams), timeout=10) as llm:
                llm._legs[0].breaker.mode = "observe_only"
                for step in SENT:
                    server.then(step)
                    error = await error_of(ask(llm))
                    assert isinstance(error, LLMError), step
                    assert error.route == backend.name
                    assert (error.retry_after or 0) >= 0
                server.then(say("healthy"))
                assert (await ask(llm)).text == "healthy"


@REAL
async def test_a_line_of_fifty_megabytes_is_refused_and_the_client_goes_on() -> None:
    with FakeOllama(huge_line(HUGE)) as near, FakeOpenAI(huge_line(HUGE)) as far:
        for server, backend in (
            (near, Ollama("llama3.2", base_url=near.url)),
            (far, OpenAICompatible("m", base_url=far.url, api_key="k")),
        ):
            async with AsyncClient(Route(backend, retry=Retry(attempts=1)), timeout=20) as llm:
                error = await error_of(llm.chat("hi"), Malformed)
                assert len(str(error)) < 500
                server.then(say("healthy"))
                assert (await llm.chat("hi")).text == "healthy"


@contextmanager
def endless() -> Iterator[str]:
    """A server whose every answer is a 200 without end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                peer, _ = listener.accept()
                with peer, suppress(OSError):
                    peer.recv(65536)
                    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    while True:
                        peer.sendall(b" " * 65536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


@REAL
async def test_a_metadata_answer_without_end_is_refused() -> None:
    with endless() as url:
        async with AsyncClient(OpenAICompatible("m", base_url=url, api_key="k")) as llm:
            error = await error_of(llm.models(), Malformed)
            assert "larger than 16 MiB" in error.message


@REAL
async def test_the_wrong_kind_of_server_is_told_by_its_status() -> None:
    with FakeOllama() as server:
        async with AsyncClient(OpenAICompatible("m", base_url=server.url, api_key="k")) as llm:
            assert (await error_of(llm.models())).status == 404
