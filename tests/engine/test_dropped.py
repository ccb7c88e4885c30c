"""Streams that nobody closes: what they hold is given back when they are collected, on their loop or after its end."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import pytest

from resilient_llm import AsyncClient, Bulkhead, ChatStream, CircuitBreaker, OpenAICompatible, Route
from resilient_llm.errors import DeadlineExceeded, ServerError
from resilient_llm.testing import FakeBackend, FakeOpenAI, fail, say, stall

from .kit import REAL, assert_nothing_held, client, error_of, loop_options

pytestmark = pytest.mark.anyio


async def opened(llm: AsyncClient) -> ChatStream:
    """A stream of which one event was read."""
    stream = await llm.stream("a secret prompt").__aenter__()
    await anext(stream)
    return stream


def drop(held: list[ChatStream]) -> None:
    """Nobody holds them any more."""
    held.clear()
    gc.collect()


async def test_a_dropped_stream_gives_slot_and_permit_back_at_once_and_warns() -> None:
    llm = client(Route(FakeBackend(stall("a", "b")), bulkhead=Bulkhead(1)))
    held = [await opened(llm)]
    with pytest.warns(ResourceWarning, match=r"ChatStream\(open, 1 chars, fake\) was dropped"):
        drop(held)
    assert_nothing_held(llm)  # nothing was awaited


async def test_a_dropped_stream_gives_everything_back_where_warnings_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    backend = FakeBackend(stall("a", "b"))
    llm = client(Route(backend, bulkhead=Bulkhead(1)))
    held = [await opened(llm)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drop(held)
    assert seen == [ResourceWarning]
    await anyio.sleep(0.1)
    assert_nothing_held(llm, backend)


@pytest.mark.parametrize("dropped", [True, False])
async def test_a_reader_who_is_long_away_does_not_accuse_the_server(dropped: bool) -> None:
    """What it says in the meantime is there, and only not asked for."""
    llm = client(FakeBackend(say(*"abcdef")))
    for _ in range(4):
        stream = await llm.stream("hi", timeout=10).__aenter__()
        await anext(stream)
        await anyio.sleep(20)
        if dropped:
            held = [stream]
            del stream
            with pytest.warns(ResourceWarning):
                drop(held)
        else:
            await error_of(anext(stream), DeadlineExceeded)
    seen = llm.snapshot()["fake"]["breaker"]
    assert (seen.state, seen.slow, seen.failed) == ("closed", 0, 0)
    await anyio.sleep(0.1)
    assert_nothing_held(llm)


async def test_who_waits_for_a_stream_that_says_nothing_more_does() -> None:
    llm = client(FakeBackend(stall("a")))
    for _ in range(2):
        async with llm.stream("hi", timeout=20) as stream:
            await anext(stream)
            await anyio.sleep(10)
            await error_of(anext(stream), DeadlineExceeded)
    assert llm.snapshot()["fake"]["breaker"].state == "open"


async def test_a_dropped_stream_of_a_probe_frees_its_place() -> None:
    backend = FakeBackend(fail(ServerError("no")), stall("a"), say("back"))
    llm = client(Route(backend, breaker=CircuitBreaker(failures=1, cooldown=5)))
    with pytest.raises(ServerError):
        await llm.chat("hi")
    await anyio.sleep(6)
    held = [await opened(llm)]
    with pytest.warns(ResourceWarning):
        drop(held)
    assert_nothing_held(llm)
    assert (await llm.chat("hi")).text == "back"
    await anyio.sleep(0.1)
    assert backend.active == 0


async def test_a_stream_that_ended_or_never_began_is_dropped_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend(say("a"))
    llm = client(backend)
    ended = await opened(llm)
    async for _ in ended:
        pass
    never = llm.stream("hi")
    del ended, never
    with warnings.catch_warnings(record=True) as said:
        gc.collect()
    assert (said, caplog.records) == ([], [])
    assert (backend.opened, backend.active) == (1, 0)


async def test_a_generator_that_is_left_by_break_gives_back_when_it_is_closed() -> None:
    backend = FakeBackend(say(*"abcdef", gap=1))
    llm = client(Route(backend, bulkhead=Bulkhead(1)))

    async def texts() -> AsyncIterator[str]:
        async with llm.stream("hi") as stream:
            async for text in stream.text():
                yield text

    generator = texts()
    async for text in generator:
        assert text == "a"
        break
    assert backend.active == 1
    await generator.aclose()  # type: ignore[attr-defined]
    assert_nothing_held(llm, backend)


@REAL
async def test_the_connection_of_a_dropped_stream_is_closed_on_its_loop() -> None:
    with FakeOpenAI(stall("a", "b")) as server:
        async with AsyncClient(OpenAICompatible("m", base_url=server.url, api_key="k")) as llm:
            held = [await opened(llm)]
            assert server.active == 1
            with pytest.warns(ResourceWarning):
                drop(held)
            assert_nothing_held(llm)
            await anyio.to_thread.run_sync(server.wait_idle)
            assert server.chats[0].ended == "disconnected"


@pytest.mark.parametrize("anyio_backend", ["none"])
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_a_stream_that_outlives_its_loop_can_be_dropped(name: str, anyio_backend: object) -> None:
    backend, options = loop_options(name)
    with FakeOpenAI(stall("a", "b")) as server:
        llm = AsyncClient(OpenAICompatible("m", base_url=server.url, api_key="k"))
        held = [anyio.run(opened, llm, backend=backend, backend_options=options)]
        with pytest.warns(ResourceWarning):
            drop(held)
        assert_nothing_held(llm)
        server.wait_idle()


@pytest.mark.parametrize("anyio_backend", ["none"])
@pytest.mark.parametrize("first", ["asyncio", "trio"])
@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_one_client_serves_one_loop_after_another(first: str, second: str, anyio_backend: object) -> None:
    with FakeOpenAI(say("hel", "lo")) as server:
        llm = AsyncClient(OpenAICompatible("m", base_url=server.url, api_key="k"))

        async def work() -> str:
            async with llm.stream("hi") as stream:
                texts = [text async for text in stream.text()]
            return "".join(texts) + (await llm.chat("hi")).text + (await llm.chat("hi")).text

        for name in (first, second, first):
            backend, options = loop_options(name)
            assert anyio.run(work, backend=backend, backend_options=options) == "hello" * 3
        assert server.connections == 3  # one for each loop, and kept within it

        async def end() -> None:
            await llm.aclose()

        anyio.run(end)
