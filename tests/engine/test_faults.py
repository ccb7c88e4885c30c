"""Whatever a server does, a call ends by its deadline, with a typed error, and the next route is asked in time."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, DeadlineExceeded, LLMError, Ollama, OpenAICompatible, Retry, Route, Timeouts
from resilient_llm.errors import (
    BackendFailed,
    ConnectFailed,
    ConnectTimeout,
    EmptyReply,
    FirstTokenTimeout,
    Malformed,
    ServerError,
    StreamInterrupted,
    StreamStalled,
    Truncated,
)
from resilient_llm.testing import (
    FakeOllama,
    FakeOpenAI,
    FakeServer,
    Step,
    comments,
    cut,
    dribble,
    endless_headers,
    ends,
    error_line,
    hang,
    malformed,
    raw,
    refuse,
    reset,
    say,
    slow_close,
    split_utf8,
    stall,
    status,
)

from .kit import LATE, REAL, Ask, error_of

pytestmark = [pytest.mark.anyio, REAL]
ONCE = Retry(attempts=1)
SHORT = 1.0  # seconds: the deadline of a call that runs into a fault; a busy machine needs some to get there
LONG = Timeouts(connect=60, load=60, first_token=60, between_tokens=60)
SERVERS: dict[str, tuple[type[FakeServer], Callable[[str], Any]]] = {
    "ollama": (FakeOllama, lambda url: Ollama("llama3.2", base_url=url)),
    "openai": (FakeOpenAI, lambda url: OpenAICompatible("m", base_url=url, api_key="k")),
}


async def together(check: Callable[[Ask, str, Any], Awaitable[None]], cases: Iterable[Any]) -> None:
    """Checks each case as chat and as stream, with both kinds of servers, all at once: what they cost is waiting."""

    async def one(way: str, kind: str, case: Any) -> None:
        try:
            await check(Ask(way), kind, case)
        except BaseException as error:
            error.add_note(f"{way}, {kind}: {case}")
            raise

    async with anyio.create_task_group() as group:
        for case, kind, way in product(cases, SERVERS, ("chat", "stream")):
            group.start_soon(one, way, kind, case)


def serve(kind: str, *script: Step) -> Any:
    """A running server of that kind, and the route to it."""
    make, backend = SERVERS[kind]

    @contextmanager
    def served() -> Iterator[tuple[Any, Callable[..., Route]]]:
        with make(*script) as server:
            yield server, lambda **options: Route(backend(server.url), **options)

    return served()


ENDLESS: dict[str, tuple[Step, type[LLMError]]] = {
    "silence": (hang(), DeadlineExceeded),
    "headers, then silence": (hang(after_headers=True), DeadlineExceeded),
    "a dribbled answer": (dribble(0.02), DeadlineExceeded),
    "a dribbled error": (dribble(0.02, status(500)), DeadlineExceeded),
    "comments without end": (comments(gap=0.02), DeadlineExceeded),
    "a stall in mid-answer": (stall("a", "b"), DeadlineExceeded),
    "headers without end": (endless_headers(), Malformed),
}


async def test_a_call_ends_by_its_deadline_whatever_the_server_does() -> None:
    async def check(ask: Ask, kind: str, fault: str) -> None:
        step, error = ENDLESS[fault]
        with serve(kind, step) as (_, route):
            async with AsyncClient(route(timeouts=LONG, retry=ONCE)) as llm:
                began = anyio.current_time()
                await error_of(ask(llm, timeout=SHORT), error)
                assert anyio.current_time() - began <= SHORT + LATE

    await together(check, ENDLESS)


async def test_the_next_route_answers_within_the_same_deadline() -> None:
    async def check(ask: Ask, kind: str, fault: str) -> None:
        step, _ = ENDLESS[fault]
        with serve(kind, step) as (_, route), FakeOpenAI(say("yes")) as other:
            second = OpenAICompatible("m", base_url=other.url, api_key="k", name="second")
            async with AsyncClient(route(timeouts=LONG), second) as llm:
                began = anyio.current_time()
                reply = await ask(llm, timeout=2 * SHORT)
                assert (reply.text, reply.route) == ("yes", "second")
                assert anyio.current_time() - began <= 2 * SHORT + LATE

    await together(check, ENDLESS.keys() - {"a stall in mid-answer"})  # after a first token the attempt owns the time


LIMITED: dict[str, tuple[Step, type[LLMError]]] = {
    "silence": (hang(), FirstTokenTimeout),
    "headers, then silence": (hang(after_headers=True), FirstTokenTimeout),
    "comments without end": (comments(gap=0.02), FirstTokenTimeout),
    "a dribbled answer": (dribble(0.02), FirstTokenTimeout),
    "a stall in mid-answer": (stall("a", "b"), StreamStalled),
    "a stall under comments": (comments(1, 0.01, then=stall("a")), StreamStalled),
}


async def test_the_limits_of_the_phases_end_an_attempt_and_signs_of_life_do_not_help() -> None:
    async def check(ask: Ask, kind: str, fault: str) -> None:
        step, error = LIMITED[fault]
        with serve(kind, step) as (_, route):
            limits = Timeouts(connect=20, first_token=SHORT, between_tokens=SHORT)
            async with AsyncClient(route(timeouts=limits, retry=ONCE), timeout=60) as llm:
                began = anyio.current_time()
                await error_of(ask(llm), error)
                assert SHORT <= anyio.current_time() - began <= SHORT + LATE

    await together(check, LIMITED)


BROKEN: dict[str, tuple[Step, type[LLMError]]] = {
    "nobody listens": (refuse(), ConnectFailed),
    "a reset before the headers": (reset(), ConnectFailed),
    "the end before the headers": (raw(b""), ConnectFailed),
    "not HTTP at all": (raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), Malformed),
    "a torn answer": (cut("a", "b"), StreamInterrupted),
    "an end without the last event": (ends("a", "b"), Truncated),
    "nothing, and an end": (ends(), Truncated),
    "an error in the stream": (error_line("CUDA error", after=["a"]), StreamInterrupted),
    "an error as the first line": (error_line("CUDA error"), ServerError),
    "a line that is no JSON": (malformed(b'data: {"x\n\n', after=["a"]), StreamInterrupted),
    "bytes that are no text": (malformed(b"data: \xff\xfe\xfd\n\n"), Malformed),
    "a status of the server": (status(500, "broken"), ServerError),
    "a status with a body of a proxy": (status(502, b"<html>Bad Gateway</html>"), BackendFailed),
    "an answer of nothing": (say(), EmptyReply),
}


async def test_every_fault_has_a_typed_error_and_leaves_the_client_usable() -> None:
    async def check(ask: Ask, kind: str, fault: str) -> None:
        step, error = BROKEN[fault]
        if fault == "bytes that are no text" and kind == "ollama":
            step = malformed(b'{"message":{"content":"\xff\xfe"},"done":false}\n')
        with serve(kind, step) as (server, route):
            async with AsyncClient(route(retry=ONCE), timeout=10) as llm:
                raised = await error_of(ask(llm), error)
                assert raised.route
                assert raised.attempts
                assert isinstance(raised, BackendFailed | EmptyReply)
                server.then(say("healthy"))
                server.listen_again()
                assert (await ask(llm)).text == "healthy"

    await together(check, BROKEN)


async def test_a_dribbled_error_body_costs_a_second_at_most() -> None:
    async def check(ask: Ask, kind: str, code: int) -> None:
        with serve(kind, dribble(0.001, status(code, "no " * 2000))) as (_, route):
            async with AsyncClient(route(retry=ONCE), timeout=20) as llm:
                began = anyio.current_time()
                assert (await error_of(ask(llm))).status == code
                assert anyio.current_time() - began <= 1.6 + LATE

    await together(check, [400, 500])


async def test_an_answer_that_is_whole_is_given_although_its_end_is_odd() -> None:
    async def check(ask: Ask, kind: str, case: tuple[str, Step]) -> None:
        text, step = case
        with serve(kind, step) as (_, route):
            async with AsyncClient(route()) as llm:
                began = anyio.current_time()
                assert (await ask(llm, timeout=10)).text == text
                assert anyio.current_time() - began <= 0.1 + LATE

    text = "naïve café, 東京, 🚀"
    await together(check, [("ab", slow_close("a", "b")), (text, split_utf8(text))])


@contextmanager
def stalled_handshake() -> Iterator[int]:
    """A port at which a connection is neither made nor refused: its backlog is full and nobody takes from it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port, fillers = listener.getsockname()[1], []
        while len(fillers) < 20:
            filler = socket.socket()
            filler.settimeout(0.05)
            fillers.append(filler)
            if filler.connect_ex(("127.0.0.1", port)) in (errno.EAGAIN, errno.EINPROGRESS):
                break
        yield port
        for filler in fillers:
            filler.close()


async def test_a_stalled_handshake_is_ended() -> None:
    async def check(ask: Ask, kind: str, case: tuple[float, type[LLMError]]) -> None:
        limit, error = case
        backend = SERVERS[kind][1](f"http://127.0.0.1:{port}")
        async with AsyncClient(Route(backend, timeouts=Timeouts(connect=limit), retry=ONCE)) as llm:
            began = anyio.current_time()
            raised = await error_of(ask(llm, timeout=SHORT), error)
            assert anyio.current_time() - began <= min(limit, SHORT) + LATE
            assert getattr(raised, "phase", "connect") == "connect"

    with stalled_handshake() as port:
        await together(check, [(0.2, ConnectTimeout), (60, DeadlineExceeded)])


async def test_a_stalled_name_look_up_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(ask: Ask, kind: str, limit: float) -> None:
        async with AsyncClient(
            Route(SERVERS[kind][1]("http://a-name.invalid:9"), timeouts=Timeouts(connect=limit), retry=ONCE)
        ) as llm:
            began = anyio.current_time()
            await error_of(ask(llm, timeout=5), ConnectTimeout)
            assert anyio.current_time() - began <= limit + LATE

    released = threading.Event()

    def look_up(host: object, port: object, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:  # trio first asks, without a thread, whether it is an address
            raise socket.gaierror(socket.EAI_NONAME, "no")
        released.wait(5)
        raise socket.gaierror(socket.EAI_AGAIN, "no")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    await together(check, [0.2])
    released.set()


async def test_a_server_that_takes_nothing_in_is_left() -> None:
    async def check(ask: Ask, kind: str, size: int) -> None:
        async with AsyncClient(Route(SERVERS[kind][1](url), timeouts=LONG, retry=ONCE)) as llm:
            began = anyio.current_time()
            await error_of(ask(llm, "x" * size, timeout=SHORT), DeadlineExceeded)
            assert anyio.current_time() - began <= SHORT + LATE

    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody accepts, nobody reads
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await together(check, [10, 10_000_000])
