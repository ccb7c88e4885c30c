"""Raw sockets, each fault as chat and as stream, async and sync: a call ends by its exact bound, with its own error."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from resilient_llm import DeadlineExceeded, LLMError, OpenAICompatible, Retry, Route, Timeouts
from resilient_llm.errors import (
    ConnectTimeout,
    FirstTokenTimeout,
    Malformed,
    ServerError,
    StreamInterrupted,
    StreamStalled,
    Truncated,
)
from resilient_llm.testing import (
    Step,
    comments,
    cut,
    dribble,
    endless_headers,
    ends,
    hang,
    malformed,
    say,
    slow_close,
    stall,
    status,
)

from .ways import AT_ONCE, LATE, PROMISE, SERVERS, Late, door, error_within, every_way, serve

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)
LIMIT = 0.3
LONG = Timeouts(connect=60, load=60, first_token=60, between_tokens=60)
SHORT = Timeouts(connect=20, first_token=LIMIT, between_tokens=LIMIT)
ERROR_TIME = 1.0  # seconds that the body of an error is worth
DRAIN = 0.05  # seconds that a whole answer waits for the end of its body, to use the connection again

# fault: (the step, the error under a deadline, the error under the limits of the phases, the bound under those)
FAULTS: dict[str, tuple[Step, type[LLMError], type[LLMError], float]] = {
    "silence": (hang(), DeadlineExceeded, FirstTokenTimeout, LIMIT),
    "headers, then silence": (hang(after_headers=True), DeadlineExceeded, FirstTokenTimeout, LIMIT),
    "comments only": (comments(gap=0.02), DeadlineExceeded, FirstTokenTimeout, LIMIT),
    "dribble": (dribble(0.02), DeadlineExceeded, FirstTokenTimeout, LIMIT),
    "stall": (stall("a", "b"), DeadlineExceeded, StreamStalled, LIMIT),
    "dribble in an error body": (dribble(0.02, status(500)), DeadlineExceeded, FirstTokenTimeout, LIMIT),
    "headers without end": (endless_headers(), Malformed, Malformed, 0.0),
    "cut": (cut("a", "b"), StreamInterrupted, StreamInterrupted, 0.0),
    "clean end": (ends("a", "b"), Truncated, Truncated, 0.0),
    "garbage": (malformed(b"\x00\xff\n\n", after=["a"]), StreamInterrupted, StreamInterrupted, 0.0),
    "an error": (status(500), ServerError, ServerError, 0.0),
}
HANDED_OVER = ("stall", "cut", "clean end", "garbage")


@pytest.mark.invariant(21, 23)
async def test_a_fault_ends_by_the_deadline() -> None:
    async def check(way: str, kind: str, fault: str) -> None:
        step, error, _, _ = FAULTS[fault]
        with serve(kind, step) as (server, route):
            async with door(way, route(timeouts=LONG, retry=ONCE)) as ask:
                bound = LIMIT if error is DeadlineExceeded else 0.0  # the others end by themselves
                raised = await error_within(bound, ask(timeout=bound or 20), error, least=bound)
                if bound and not server.chats:
                    raise Late("the deadline came before the request was at the server")
                assert len(raised.attempts) == len(server.chats) == 1
                server.then(say("well again"))
                reply = await ask(timeout=20)
                assert (reply.text, reply.degraded, len(reply.attempts)) == ("well again", (), 1)

    await every_way(check, FAULTS)


@pytest.mark.invariant(21)
async def test_a_fault_ends_by_the_limit_of_its_phase() -> None:
    async def check(way: str, kind: str, fault: str) -> None:
        step, _, error, bound = FAULTS[fault]
        with serve(kind, step) as (server, route):
            async with door(way, route(timeouts=SHORT, retry=ONCE)) as ask:
                raised = await error_within(bound, ask(timeout=20), error, min(bound, LIMIT), beyond=AT_ONCE)
                if bound and not server.chats:
                    raise Late("the limit came before the request was at the server")
                assert len(raised.attempts) == len(server.chats) == 1

    await every_way(check, FAULTS)


async def test_a_dribbled_error_body_costs_a_second_at_most_where_there_is_time() -> None:
    async def check(way: str, kind: str, code: int) -> None:
        with serve(kind, dribble(0.002, status(code, "no " * 1000))) as (_, route):
            async with door(way, route(timeouts=LONG, retry=ONCE)) as ask:
                bound = ERROR_TIME + 0.5  # so long takes the head, which comes as slowly
                raised = await error_within(bound, ask(timeout=20), ServerError, ERROR_TIME, beyond=AT_ONCE)
                assert raised.status == code

    await every_way(check, [500])


async def test_a_slow_close_keeps_no_answer_back() -> None:
    async def check(way: str, kind: str, case: None) -> None:
        with serve(kind, say("warm"), slow_close("a", "b")) as (_, route):
            async with door(way, route()) as ask:
                await ask(timeout=20)  # what is made for the first connection is no part of it
                with anyio.fail_after(LATE + 2):
                    reply = await ask(timeout=20)
                assert (reply.text, reply.degraded, len(reply.attempts)) == ("ab", (), 1)
                if reply.timings.total > DRAIN + PROMISE:
                    raise Late(f"{reply.timings.total:.3f} s until an answer that was there at once")

    await every_way(check)


@contextmanager
def deaf() -> Iterator[int]:
    """A port at which connections are made and nothing is ever read or said."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        yield listener.getsockname()[1]


async def test_a_stalled_tls_handshake_ends_by_the_connect_limit_and_by_the_deadline() -> None:
    async def check(way: str, kind: str, case: tuple[float, type[LLMError]]) -> None:
        limit, error = case
        backend = SERVERS[kind][1](f"https://127.0.0.1:{port}")
        by_limit = limit == LIMIT  # which counts from when the certificates have been read, and that takes a while
        async with door(way, Route(backend, timeouts=Timeouts(connect=limit), retry=ONCE)) as ask:
            call = ask(timeout=20 if by_limit else LIMIT)
            raised = await error_within(LIMIT, call, error, LIMIT, beyond=LATE if by_limit else PROMISE)
            assert getattr(raised, "phase", "connect") == "connect"

    with deaf() as port:
        await every_way(check, [(LIMIT, ConnectTimeout), (60.0, DeadlineExceeded)])


async def test_a_stalled_upload_ends_by_the_deadline() -> None:
    async def check(way: str, kind: str, size: int) -> None:
        async with door(way, Route(SERVERS[kind][1](f"http://127.0.0.1:{port}"), timeouts=LONG, retry=ONCE)) as ask:
            await error_within(LIMIT, ask("x" * size, timeout=LIMIT), DeadlineExceeded, least=LIMIT)

    with deaf() as port:
        await every_way(check, [10_000_000])


async def test_many_calls_of_different_patience_use_one_connection() -> None:
    """A deadline and limits belong to the call; they never make another pool."""

    async def check(way: str, kind: str, case: None) -> None:
        with serve(kind, say("a")) as (server, route):
            async with door(way, route(timeouts=Timeouts(first_token=30))) as ask:
                for number in range(12):
                    await ask(timeout=20 + number)
            assert server.connections == 1

    await every_way(check)


async def test_an_error_that_the_next_route_makes_good_is_told_and_costs_no_more_than_its_limit() -> None:
    async def check(way: str, kind: str, fault: str) -> None:
        step, _, error, bound = FAULTS[fault]
        handed_over = way.endswith("stream") and fault in HANDED_OVER  # the reader is told to forget it
        with serve(kind, step) as (server, route), serve("openai", say("yes")) as (other, _):
            backup = OpenAICompatible("m", base_url=other.url, api_key="k", name="backup")
            async with door(way, route(timeouts=SHORT, retry=ONCE, on_break="restart"), backup) as ask:
                reply = await ask(timeout=20)
                assert (reply.text, reply.route, len(reply.attempts)) == ("yes", "backup", 2)
                assert reply.degraded == (("restarted",) if handed_over else ())
                failed: Any = reply.attempts[0].error
                assert isinstance(failed, error)
                assert reply.attempts[0].total <= bound + LATE
                assert (len(server.chats), len(other.chats)) == (1, 1)

    await every_way(check, FAULTS)
