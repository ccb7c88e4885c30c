"""The four ways to ask: `AsyncClient` and `Client`, as `chat` and as `stream`; and servers that play a script.

Whoever asks here accounts for every call, and an error is neither early nor late. The bound is exact: what the machine
does to everyone is measured by a timer that is due at the same instant on the same loop, and once more after what is
promised; a call that ends after that timer is tried anew, alone: what others do to the machine does not come again each
time, and what we do does.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import product
from typing import Any

import anyio
import anyio.to_thread
import sniffio
from tests.accounts import accounts_for

from resilient_llm import (
    AsyncClient,
    ChatReply,
    Client,
    LLMError,
    Ollama,
    OpenAICompatible,
    Restarted,
    Route,
    TextDelta,
)
from resilient_llm.events import AttemptEnded
from resilient_llm.testing import FakeOllama, FakeOpenAI, FakeServer, Step

LATE = 1.5  # seconds over its bound that a call is never allowed, though threads and other suites share two cores
PROMISE = 0.05  # seconds over its bound that a call may take, beside a timer that is due at the same instant
AT_ONCE = 0.25  # the same where a new client has to set itself up first, and where a server has to answer
TRIES = 5  # of a case that was late, until none of its calls is
SERVERS: dict[str, tuple[type[FakeServer], Callable[[str], Any]]] = {
    "ollama": (FakeOllama, lambda url: Ollama("llama3.2", base_url=url)),
    "openai": (FakeOpenAI, lambda url: OpenAICompatible("m", base_url=url, api_key="k")),
}
Ask = Callable[..., Awaitable[ChatReply]]


class Late(AssertionError):
    """A call was later than promised, perhaps because of the machine."""


class _Text:
    """What the reader of a stream has: it forgets what came when it is told to."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def add(self, event: Any) -> None:
        if isinstance(event, Restarted):
            self.pieces.clear()
        elif isinstance(event, TextDelta):
            self.pieces.append(event.text)

    def read(self, reply: ChatReply) -> ChatReply:
        assert "".join(self.pieces) == reply.text  # no text twice, none lost
        return reply


async def _ask(llm: AsyncClient, way: str, prompt: str = "hi", **options: Any) -> ChatReply:
    if way == "chat":
        return await llm.chat(prompt, **options)
    text = _Text()
    async with llm.stream(prompt, **options) as stream:
        async for event in stream:
            text.add(event)
    return text.read(stream.reply)


def _ask_sync(llm: Client, way: str, prompt: str = "hi", **options: Any) -> ChatReply:
    if way == "chat":
        return llm.chat(prompt, **options)
    text = _Text()
    with llm.stream(prompt, **options) as stream:
        for event in stream:
            text.add(event)
    return text.read(stream.reply)


async def _in_a_thread(llm: Client, way: str, *arguments: Any, **options: Any) -> ChatReply:
    return await anyio.to_thread.run_sync(partial(_ask_sync, llm, way, *arguments, **options), limiter=_threads())


async def _accounted(ask: Ask, told: list[Any], *arguments: Any, **options: Any) -> ChatReply:
    """Asks, and has the outcome account for itself: to the caller's watch, and to what `on_event` was told."""
    began, outcome = time.monotonic(), None
    try:
        outcome = await ask(*arguments, **options)
        return outcome
    except LLMError as error:
        outcome = error
        raise
    finally:
        if outcome is not None:
            accounts_for(outcome, time.monotonic() - began, between=LATE)
            ends = [event for event in told if isinstance(event, AttemptEnded)]
            numbers = {event.call for event in ends if any(event.attempt is one for one in outcome.attempts)}
            assert len(numbers) == bool(outcome.attempts), "every attempt of a call is told as one of it"
            assert [event.attempt for event in ends if event.call in numbers] == list(outcome.attempts)


def _threads() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(1)  # one for each call: none waits for another


@asynccontextmanager
async def door(way: str, *routes: Any, **options: Any) -> AsyncIterator[Ask]:
    """Asks a client of these routes in this way; all that it is asked comes to the same client."""
    kind, _, verb = way.partition(" ")
    told: list[Any] = []
    if kind == "async":
        async with AsyncClient(*routes, on_event=told.append, **options) as llm:
            yield partial(_accounted, partial(_ask, llm, verb), told)
    else:
        facade = Client(*routes, on_event=told.append, **options)
        try:
            yield partial(_accounted, partial(_in_a_thread, facade, verb), told)
        finally:
            await anyio.to_thread.run_sync(facade.close)


def ways() -> tuple[str, ...]:
    """Those that make sense on the running loop: the sync client has a loop of its own, so it is tried beside one."""
    both = ("async chat", "async stream")
    return (*both, "sync chat", "sync stream") if sniffio.current_async_library() == "asyncio" else both


async def every_way(
    check: Callable[[str, str, Any], Awaitable[None]], cases: Iterable[Any] = (None,), *, at_once: int = 4
) -> None:
    """Checks each case in every way with both kinds of servers, some at once: what they cost is mostly waiting.

    What was late is tried anew, alone.
    """
    together = anyio.CapacityLimiter(at_once)  # more, and a machine with two cores is late for its own bounds
    again: list[tuple[str, str, Any]] = []

    async def one(way: str, kind: str, case: Any) -> None:
        try:
            async with together:
                await check(way, kind, case)
        except BaseException as error:
            if _only_late(error):
                again.append((way, kind, case))
                return
            error.add_note(f"{way}, {kind}: {case}")
            raise

    async with anyio.create_task_group() as group:
        for case, kind, way in product(cases, SERVERS, ways()):
            group.start_soon(one, way, kind, case)
    for late in again:
        for _ in range(TRIES):
            again = []
            await one(*late)
            if not again:
                break
        assert not again, f"it is late each time: {late}"


def _only_late(error: BaseException) -> bool:
    """Nothing else is wrong, in none of the tasks of a check."""
    return isinstance(error, Late) or (isinstance(error, BaseExceptionGroup) and error.split(Late)[1] is None)


@contextmanager
def serve(kind: str, *script: Step) -> Iterator[tuple[Any, Callable[..., Route]]]:
    """A running server of that kind, and the route to it."""
    make, backend = SERVERS[kind]
    with make(*script) as server:
        yield server, lambda **options: Route(backend(server.url), **options)


async def error_within(
    seconds: float, call: Awaitable[object], kind: type[LLMError], least: float = 0.0, beyond: float | None = None
) -> Any:
    """The error that the call ends with; it does so neither early nor late.

    Args:
        seconds: after which it ends; 0 if it does so by itself.
        beyond: seconds that it may take more. Default: 50 ms, and 250 if it ends by itself.

    Raises:
        Late: it came after a timer on the same loop that was due then, and once more after that.
    """
    beyond = beyond if beyond is not None else PROMISE if seconds else AT_ONCE
    began, over = time.monotonic(), math.inf

    async def timer() -> None:
        nonlocal over
        await anyio.sleep(seconds)
        await anyio.sleep(beyond)
        over = time.monotonic()

    error: LLMError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(timer)
        try:
            await call
        except kind as raised:
            error = raised
        ended = time.monotonic()
        group.cancel_scope.cancel()
    assert error is not None, f"no {kind.__name__}"
    took = ended - began
    assert least - 0.001 <= took, f"{took:.3f} s, and not before {least} s"
    if ended > over:
        raise Late(f"{took:.3f} s, and {ended - over:.3f} s after a timer of {seconds} s and {beyond} s")
    return error
