"""The public API as type checkers see it: mypy strict and pyright read this file, nothing runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_type

import httpx
import httpx2
from pydantic import BaseModel
from tenacity import wait_fixed

from resilient_llm import (
    AsyncClient,
    Attempt,
    Backend,
    Bulkhead,
    ChatReply,
    ChatRequest,
    ChatStream,
    CircuitBreaker,
    Client,
    ContextGuard,
    Done,
    EmbedReply,
    EmbedRequest,
    Message,
    ModelInfo,
    Ollama,
    OpenAICompatible,
    ParsedReply,
    ReasoningDelta,
    Restarted,
    Retry,
    RetryBudget,
    Route,
    ServedBy,
    Space,
    Stream,
    TextDelta,
    Timeouts,
    Timings,
    ToolCall,
    Usage,
    bind,
    deadline,
    drop_oldest,
    local_only,
)
from resilient_llm.errors import AllRoutesFailed, LLMError, RateLimited


class City(BaseModel):
    """A type to ask for."""

    name: str
    country: str


def get_weather(city: str, days: int = 1) -> str:
    """A tool."""
    return f"{city}, {days}"


def only_local(request: ChatRequest | EmbedRequest, routes: Sequence[Route]) -> list[Route]:
    """A plan of the user's."""
    return [route for route in routes if "private" not in request.tags or route.zone == "machine"]


async def asynchronous(key: str) -> None:
    """The sketches of the README."""
    llm = AsyncClient(
        "ollama:llama3.2",
        Ollama("llama3.2", num_ctx=8192, think="low", keep_alive="10m", http_client=httpx2.AsyncClient()),
        Route(
            OpenAICompatible("gpt-5-mini", api_key=key, http_client=httpx.AsyncClient()),
            timeouts=Timeouts(connect=2, load=90, first_token=8, between_tokens=5),
            retry=Retry(attempts=2, wait=wait_fixed(1), patience=1.5),
            budget=RetryBudget(ratio=0.2, burst=5),
            breaker=CircuitBreaker(failures=5, cooldown=30),
            bulkhead=Bulkhead(8),
            guard=ContextGuard(reserve=1024, overflow=drop_oldest),
            falls_back_on=(RateLimited,),
            on_break="restart",
        ),
        plan=only_local,
        timeout=30,
    )
    async with llm:
        reply = await llm.chat("hi", timeout=6, tools=[get_weather], reasoning="low", stop=["\n"], tags=["private"])
        assert_type(reply, ChatReply)
        assert_type(reply.text, str)
        assert_type(reply.usage, Usage)
        assert_type(reply.timings, Timings)
        assert_type(reply.served_by, ServedBy)
        assert_type(reply.attempts, tuple[Attempt, ...])
        assert_type(reply.tool_calls[0], ToolCall)
        assert_type(reply.message, Message)
        with deadline(20), local_only():
            parsed = await llm.parse("Where is the Eiffel tower?", City)
        assert_type(parsed, ParsedReply[City])
        assert_type(parsed.output, City)
        assert_type((await llm.parse("numbers", list[int])).output, list[int])
        vectors = await llm.embed(["a", "b"])
        assert_type(vectors, EmbedReply)
        assert_type(vectors.vectors, Sequence[Sequence[float]])
        assert_type(vectors.space, Space)
        async with llm.stream([{"role": "user", "content": "hi"}, reply.message]) as stream:
            assert_type(stream, ChatStream)
            async for event in stream:
                assert_type(event, TextDelta | ReasoningDelta | ToolCall | Restarted | Done)
        async with llm.stream("hi") as stream:
            async for text in stream.text():
                assert_type(text, str)
        assert_type(await llm.models(), dict[str, tuple[ModelInfo, ...]])
        assert_type(bind(get_weather)("Paris", days=2), str)


def synchronous() -> None:
    """The same without `await`."""
    with Client(Ollama("llama3.2")) as llm:
        assert_type(llm.chat("hi"), ChatReply)
        assert_type(llm.parse("hi", City).output, City)
        assert_type(llm.embed("hi"), EmbedReply)
        with llm.stream("hi") as stream:
            assert_type(stream, Stream)
            for event in stream:
                assert_type(event, TextDelta | ReasoningDelta | ToolCall | Restarted | Done)
            assert_type(stream.reply, ChatReply)


def errors(error: LLMError) -> float | None:
    """What is on an error."""
    if isinstance(error, AllRoutesFailed):
        assert_type(error.failures, tuple[LLMError, ...])
        assert_type(error.last, LLMError)
    return error.retry_after


def a_backend(backend: Backend) -> Route:
    """Any backend makes a route."""
    return Route(backend)


async def wrong(llm: AsyncClient) -> None:
    """What a type checker must refuse; an ignore that is not needed is itself an error."""
    reply = await llm.chat("hi")
    reply.text = "no"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    reply.timings.total = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    await llm.chat("hi", temprature=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await llm.chat("hi", reasoning="much")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Route(Ollama("llama3.2"), on_break="perhaps")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Route(Ollama("llama3.2"), None, "a name")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
