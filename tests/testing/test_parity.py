"""What a word means in process is what it becomes over a wire: the same script, the same client, the same result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from resilient_llm import AsyncClient, LLMError, Ollama, OpenAICompatible, Retry, Route, Timeouts, ToolCall, Usage
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, cut, ends, hang, say, slow_close, stall

pytestmark = pytest.mark.anyio
SILENT_AT_ONCE = Timeouts(first_token=0.1)  # seconds; what is silent for ever runs into them, and nothing else does
SILENT_LATER = Timeouts(between_tokens=0.25)
ONCE = Retry(attempts=1)
CALL = ToolCall("get_weather", {"city": "Paris"}, "call_7")
STEPS = {
    "an answer": say("hel", "lo <ü>", "!"),
    "in one piece": say("hel", "lo", joined=True),
    "thoughts": say("ok", reasoning=("h", "m")),
    "a call": say(tool_calls=(CALL,)),
    "a text and calls": say("ok", tool_calls=(CALL, ToolCall("now", {}, "call_8"))),
    "cut at its length": say("a", "b", finish="length"),
    "only thoughts, cut at its length": say(reasoning=("hm",), finish="length"),
    "counts of its own": say("a", usage=Usage(7, 5)),
    "nothing": say(),
    "a late end": slow_close("a", "b", seconds=0.01),
    "a cut": cut("hel", "lo"),
    "a cut at once": cut(),
    "an end without its end": ends("hel", "lo"),
    "an end at once": ends(),
}
SILENCES = {
    "a stall": (stall("hel", "lo"), SILENT_LATER),
    "a stall at once": (stall(), SILENT_AT_ONCE),
    "a hang": (hang(), SILENT_AT_ONCE),
    "a hang after the headers": (hang(after_headers=True), SILENT_AT_ONCE),
}


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what differs here is the wire."""
    return "asyncio"


@contextmanager
def over_ollama(step: Any) -> Iterator[Any]:
    with FakeOllama(step) as server:
        yield Ollama("llama3.2", base_url=server.url)


@contextmanager
def over_openai(step: Any) -> Iterator[Any]:
    with FakeOpenAI(step) as server:
        yield OpenAICompatible("gpt-5-mini", base_url=server.url)


async def _chat(llm: AsyncClient) -> tuple[list[str], Any]:
    return [], await llm.chat("why is the sky blue?", timeout=5)


async def _stream(llm: AsyncClient) -> tuple[list[str], Any]:
    async with llm.stream("why is the sky blue?", timeout=5) as stream:
        texts = [text async for text in stream.text()]
    return texts, stream.reply


async def outcome(ask: Any, backend: Any, timeouts: Timeouts | None = None, streams: bool | None = None) -> Any:
    """What the caller sees of an answer, without what names the server."""
    async with AsyncClient(Route(backend, timeouts=timeouts, retry=ONCE, streams=streams)) as llm:
        try:
            texts, reply = await ask(llm)
        except LLMError as error:
            return {"error": type(error).__name__, "partial": getattr(error, "partial", None)}
    names = ("text", "reasoning", "tool_calls", "finish_reason", "degraded")
    counts = (reply.usage.input_tokens, reply.usage.output_tokens)
    return {"texts": texts, "counts": counts, **{name: getattr(reply, name) for name in names}}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("server", [over_ollama, over_openai])
@pytest.mark.parametrize("ask", [_chat, _stream])
async def test_a_step_means_the_same_with_and_without_a_wire(name: str, server: Any, ask: Any) -> None:
    here = await outcome(ask, FakeBackend(STEPS[name]))
    with server(STEPS[name]) as backend:
        there = await outcome(ask, backend)
    assert here == there


@pytest.mark.parametrize("name", SILENCES)
@pytest.mark.parametrize("server", [over_ollama, over_openai])
@pytest.mark.parametrize("ask", [_chat, _stream])
async def test_a_silence_means_the_same_with_and_without_a_wire(name: str, server: Any, ask: Any) -> None:
    step, timeouts = SILENCES[name]
    here = await outcome(ask, FakeBackend(step), timeouts)
    with server(step) as backend:
        there = await outcome(ask, backend, timeouts)
    assert here == there
    assert here["error"] in ("FirstTokenTimeout", "StreamStalled")


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("server", [over_ollama, over_openai])
async def test_a_step_means_the_same_where_no_stream_is_asked_for(name: str, server: Any) -> None:
    if server is over_openai and name == "an end without its end":
        pytest.skip("of an answer in one piece, its finish reason is all that it lacks, and some servers never send it")
    here = await outcome(_chat, FakeBackend(STEPS[name]), streams=False)
    with server(STEPS[name]) as backend:
        there = await outcome(_chat, backend, streams=False)
    assert here == there


@pytest.mark.parametrize("server", [over_ollama, over_openai])
async def test_vectors_are_the_same_with_and_without_a_wire(server: Any) -> None:
    texts = ["a", "bcdefgh"]
    async with AsyncClient(FakeBackend()) as llm:
        here = await llm.embed(texts)
    with server(say()) as backend:
        async with AsyncClient(backend) as llm:
            there = await llm.embed(texts)
    for one, other in zip(here.vectors, there.vectors, strict=True):
        assert list(one) == pytest.approx(list(other))
    assert here.usage.input_tokens == there.usage.input_tokens
