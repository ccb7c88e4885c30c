"""The four ways to ask: `AsyncClient` and `Client`, as `chat` and as `stream`; and servers that play a script."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import product
from typing import Any

import anyio
import anyio.to_thread
import sniffio

from resilient_llm import AsyncClient, ChatReply, Client, LLMError, Ollama, OpenAICompatible, Route
from resilient_llm.testing import FakeOllama, FakeOpenAI, FakeServer, Step

LATE = 1.5  # seconds over its bound that a call is allowed here, where threads and other suites share two cores
SERVERS: dict[str, tuple[type[FakeServer], Callable[[str], Any]]] = {
    "ollama": (FakeOllama, lambda url: Ollama("llama3.2", base_url=url)),
    "openai": (FakeOpenAI, lambda url: OpenAICompatible("m", base_url=url, api_key="k")),
}
Ask = Callable[..., Awaitable[ChatReply]]


async def _ask(llm: AsyncClient, way: str, prompt: str = "hi", **options: Any) -> ChatReply:
    if way == "chat":
        return await llm.chat(prompt, **options)
    async with llm.stream(prompt, **options) as stream:
        texts = [text async for text in stream.text()]
    assert "".join(texts) == stream.reply.text
    return stream.reply


def _ask_sync(llm: Client, way: str, prompt: str = "hi", **options: Any) -> ChatReply:
    if way == "chat":
        return llm.chat(prompt, **options)
    with llm.stream(prompt, **options) as stream:
        texts = list(stream.text())
    assert "".join(texts) == stream.reply.text
    return stream.reply


async def _in_a_thread(llm: Client, way: str, *arguments: Any, **options: Any) -> ChatReply:
    return await anyio.to_thread.run_sync(partial(_ask_sync, llm, way, *arguments, **options), limiter=_threads())


def _threads() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(1)  # one for each call: none waits for another


@asynccontextmanager
async def door(way: str, *routes: Any, **options: Any) -> AsyncIterator[Ask]:
    """Asks a client of these routes in this way; all that it is asked comes to the same client."""
    kind, _, verb = way.partition(" ")
    if kind == "async":
        async with AsyncClient(*routes, **options) as llm:
            yield partial(_ask, llm, verb)
    else:
        facade = Client(*routes, **options)
        try:
            yield partial(_in_a_thread, facade, verb)
        finally:
            await anyio.to_thread.run_sync(facade.close)


def ways() -> tuple[str, ...]:
    """Those that make sense on the running loop: the sync client has a loop of its own, so it is tried beside one."""
    both = ("async chat", "async stream")
    return (*both, "sync chat", "sync stream") if sniffio.current_async_library() == "asyncio" else both


async def every_way(
    check: Callable[[str, str, Any], Awaitable[None]], cases: Iterable[Any] = (None,), *, at_once: int = 4
) -> None:
    """Checks each case in every way with both kinds of servers, some at once: what they cost is mostly waiting."""
    together = anyio.CapacityLimiter(at_once)  # more, and a machine with two cores is late for its own bounds

    async def one(way: str, kind: str, case: Any) -> None:
        try:
            async with together:
                await check(way, kind, case)
        except BaseException as error:
            error.add_note(f"{way}, {kind}: {case}")
            raise

    async with anyio.create_task_group() as group:
        for case, kind, way in product(cases, SERVERS, ways()):
            group.start_soon(one, way, kind, case)


@contextmanager
def serve(kind: str, *script: Step) -> Iterator[tuple[Any, Callable[..., Route]]]:
    """A running server of that kind, and the route to it."""
    make, backend = SERVERS[kind]
    with make(*script) as server:
        yield server, lambda **options: Route(backend(server.url), **options)


async def error_within(seconds: float, call: Awaitable[object], kind: type[LLMError], least: float = 0.0) -> Any:
    """The error that the call ends with; it does so neither early nor late."""
    began = time.monotonic()
    try:
        await call
    except kind as error:
        took = time.monotonic() - began
        assert least - 0.001 <= took <= seconds + LATE, f"{took:.3f} s, allowed are {least} to {seconds} s"
        return error
    raise AssertionError(f"no {kind.__name__}")
