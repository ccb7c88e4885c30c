"""Keys, prompts and answers are in no repr, no argument of an error, no log, and in no local of our frames."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import pytest

from resilient_llm import (
    AsyncClient,
    ChatRequest,
    ContextGuard,
    Image,
    Message,
    Ollama,
    OpenAICompatible,
    Retry,
    Route,
    Tool,
    ToolCall,
)
from resilient_llm.errors import CircuitOpen, LLMError, OutputInvalid, StreamInterrupted
from resilient_llm.policies._weights import family_of
from resilient_llm.policies.tokens import estimate_request
from resilient_llm.testing import (
    FakeBackend,
    FakeOllama,
    FakeOpenAI,
    comments,
    cut,
    dribble,
    ends,
    error_line,
    hang,
    malformed,
    raw,
    refuse,
    reset,
    say,
    stall,
    status,
)

from .kit import REAL, Ask, client, error_of

pytestmark = pytest.mark.anyio
KEY, PROMPT, ANSWER = "sesame-key", "sesame-prompt", "sesame-answer"
TOOL = Tool("look_up", "finds things", {"type": "object", "title": "sesame-schema"})
MESSAGES = [
    {"role": "system", "content": PROMPT},
    {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
    {"role": "assistant", "content": PROMPT, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "content": PROMPT, "tool_call_id": "c"},
]


def shown(error: BaseException) -> Iterator[str]:
    """What a crash reporter would send: the error and its causes, and the locals of all frames but the tests' own."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), repr(one.args))
        for frame in traceback.TracebackException.from_exception(one, capture_locals=True).stack:
            if "/tests/" not in frame.filename:
                yield from (f"{frame.filename}:{frame.lineno} {local}" for local in (frame.locals or {}).items())
        waiting += [one.__cause__, one.__context__, *getattr(one, "failures", ())]
        waiting += [attempt.error for attempt in getattr(one, "attempts", ())]


def assert_silent(*texts: str) -> None:
    for text in texts:
        assert "sesame" not in text, text[:2000]


FAULTS = [
    refuse(),
    reset(),
    raw(b""),
    raw(b"not http\r\n\r\n"),
    hang(),
    hang(after_headers=True),
    comments(gap=0.02),
    dribble(0.05),
    stall(ANSWER, ANSWER),
    cut(ANSWER, ANSWER),
    ends(ANSWER, ANSWER),
    error_line("CUDA error", after=[ANSWER]),
    error_line("CUDA error"),
    malformed(b'{"sesame": sesame}\n\n', after=[ANSWER]),
    malformed(b'data: {"sesame": sesame}\n\n{"sesame": sesame}\n'),
    malformed(b'data: {"choices": "sesame"}\n\n{"message": "sesame"}\n'),
    malformed(b"data: sesame \xff\n\nsesame \xff\n"),
    status(400, "no such field"),
    status(401, "bad key"),
    status(429, "slow"),
    status(500, b"<html>oops</html>"),
    status(200, b'"sesame"'),
    say(),
]


@REAL
@pytest.mark.filterwarnings("ignore:Async generator 'httpcore2:ResourceWarning")  # httpx2's own, on trio
@pytest.mark.parametrize(("way", "own"), [("chat", True), ("stream", False)])
async def test_no_error_shows_a_key_a_prompt_or_an_answer(
    way: str, own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ask = Ask(way)
    caplog.set_level(logging.DEBUG)
    with FakeOllama() as near, FakeOpenAI() as far:
        async with httpx2.AsyncClient() as http:
            given: dict[str, Any] = {"api_key": KEY, "headers": {"X-Secret": KEY}, "http_client": None if own else http}
            for server, backend in (
                (near, Ollama("llama3.2", base_url=near.url, **given)),
                (far, OpenAICompatible("m", base_url=far.url, **given)),
            ):
                route = Route(backend, retry=Retry(attempts=1))
                for fault in FAULTS:
                    async with AsyncClient(route) as llm:
                        server.then(fault)
                        error = await error_of(ask(llm, MESSAGES, timeout=0.1, tools=[TOOL]))
                        assert_silent(*shown(error))
                        server.listen_again()
            # Servers of their own: the last step for one that a busy machine cut off too early would still be waiting.
            for slow, backend in (
                (FakeOllama(stall(ANSWER)), lambda url: Ollama("llama3.2", base_url=url, **given)),
                (FakeOpenAI(stall(ANSWER)), lambda url: OpenAICompatible("m", base_url=url, **given)),
            ):
                with slow as server:
                    llm = AsyncClient(backend(server.url))
                    with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.05):  # the caller's own scope
                        await ask(llm, MESSAGES)
                    assert_silent(*shown(caught.value))
                    await llm.aclose()
    assert_silent(caplog.text)
    assert any(one.name == "resilient_llm" for one in caplog.records)


@REAL
async def test_an_error_of_embedding_shows_no_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeOpenAI(status(500), malformed(b'{"data": "sesame"}')) as server:
        async with AsyncClient(OpenAICompatible("m", base_url=server.url, api_key=KEY)) as llm:
            for _ in range(2):
                assert_silent(*shown(await error_of(llm.embed([PROMPT, PROMPT], timeout=0.5))))
    assert_silent(caplog.text)


@REAL
async def test_who_leaves_while_the_server_counts_his_prompt_is_shown_nothing_of_it() -> None:
    words = f"{PROMPT} " * 200
    room = estimate_request(ChatRequest((Message("user", words),)), family_of("m"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        backend = OpenAICompatible("m", base_url=url, api_key=KEY, profile="vllm")
        async with AsyncClient(Route(backend, guard=ContextGuard(window=room, reserve=0))) as llm:
            with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.1):
                await llm.chat(words)
            assert_silent(*shown(caught.value))
            assert any("fetch" in one.name for one in traceback.extract_tb(caught.value.__context__.__traceback__))


async def test_no_error_in_process_shows_a_prompt_or_an_answer(ask: Ask) -> None:
    for step in (cut(ANSWER), ends(ANSWER), stall(ANSWER), hang(), say()):
        llm = client(Route(FakeBackend(step), retry=Retry(attempts=1)), FakeBackend(step, name="b"))
        assert_silent(*shown(await error_of(ask(llm, MESSAGES, timeout=40))))
    assert_silent(*shown(await error_of(client(FakeBackend(say(ANSWER))).parse(PROMPT, int), OutputInvalid)))
    loop = say(*[ANSWER] * 2000, reasoning=[ANSWER] * 10)
    assert_silent(*shown(await error_of(ask(client(FakeBackend(loop)), MESSAGES), OutputInvalid)))


@pytest.mark.parametrize(
    "wrong",
    [
        [{"role": "wizard", "content": PROMPT}],
        [{"role": "user", "content": {"x": PROMPT}}],
        [{"role": "user", "content": [{"type": "video", "url": PROMPT}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": PROMPT}}]}],
        [{"role": "user", "content": PROMPT, "images": [PROMPT]}],
        [PROMPT, 7],
        7,
    ],
)
async def test_a_mistake_in_the_messages_is_told_without_their_text(ask: Ask, wrong: Any) -> None:
    assert_silent(*shown(await error_of(ask(client(FakeBackend()), wrong))))


async def test_the_answer_so_far_is_there_for_who_asks_for_it_by_name(ask: Ask) -> None:
    error = await error_of(ask(client(Route(FakeBackend(cut(ANSWER)), retry=Retry(attempts=1)))), StreamInterrupted)
    assert error.partial == ANSWER
    assert_silent(str(error), repr(error))


async def test_no_repr_shows_a_text_but_its_size() -> None:
    call = ToolCall("f", {"a": ANSWER}, "c1")
    backend = FakeBackend(say(ANSWER, reasoning=[ANSWER], tool_calls=[call]))
    llm = client(backend)
    async with llm.stream(MESSAGES) as stream:
        events = [event async for event in stream]
        assert_silent(repr(stream))
    parsed = await client(FakeBackend(say("42"))).parse(PROMPT, int)
    embedded = await llm.embed([PROMPT])
    held = [llm, stream, stream.reply, stream.reply.message, parsed, embedded, call, TOOL, *events, *backend.requests]
    held += [Message("user", PROMPT, images=[Image(data="sesame")]), Image(url="http://sesame")]
    assert_silent(*map(repr, held), *map(str, held), llm.explain(), repr(llm.snapshot()))
    assert "13 chars" in repr(stream.reply)


def test_no_repr_of_a_backend_shows_its_key() -> None:
    backends = [
        Ollama("m", base_url="http://127.0.0.1:1", api_key=KEY, headers={"X-Secret": KEY}),
        OpenAICompatible("m", base_url="http://127.0.0.1:1/v1", api_key=KEY, headers={"X-Secret": KEY}),
    ]
    for backend in backends:
        llm = AsyncClient(backend)
        held = [backend, Route(backend), llm, backend._transport, backend._codec, *llm._legs]
        assert_silent(*map(repr, held), llm.explain())
        asyncio.run(llm.aclose())


def test_the_repr_of_an_error_rounds_what_is_measured() -> None:
    error = CircuitOpen("open for 5 s more", retry_after=4.996312368000083, status=None)
    assert repr(error) == "CircuitOpen('open for 5 s more', retry_after=5)"
    assert error.retry_after == 4.996312368000083


def test_no_repr_of_an_error_shows_what_it_keeps() -> None:
    for kind in (StreamInterrupted, OutputInvalid):
        error: LLMError = kind("broken")
        error.partial = error.reply = ANSWER  # type: ignore[attr-defined]
        assert_silent(repr(error), str(error), repr(error.args))
