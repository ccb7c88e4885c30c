"""What an Ollama has in memory: found out beside the calls, shown on replies, and never taken for a hang."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread
import pytest

from resilient_llm import (
    AsyncClient,
    ContextOverflow,
    Image,
    Message,
    Ollama,
    OptionWarning,
    ReloadWarning,
    Retry,
    Route,
    Usage,
)
from resilient_llm.errors import ModelNotFound, UnsupportedParameter
from resilient_llm.testing import FakeBackend, FakeOllama, say

from .kit import REAL, Ask, error_of

pytestmark = [pytest.mark.anyio, REAL]


def local(server: FakeOllama, **options: object) -> Ollama:
    return Ollama("llama3.2", base_url=server.url, **options)  # type: ignore[arg-type]


def paths(server: FakeOllama) -> list[str]:
    return [one.path for one in server.requests]


async def reached(server: FakeOllama, state: Callable[[], bool]) -> None:
    await anyio.to_thread.run_sync(partial(server.wait_for, state))


async def test_an_answer_that_outgrew_the_window_is_told(ask: Ask) -> None:
    grown = say("and so on", usage=Usage(2000, 3000))
    with FakeOllama(grown) as server:
        async with AsyncClient(local(server, num_ctx=4096)) as llm:
            reply = await ask(llm)
            assert reply.degraded == ("context_shifted",)
        async with AsyncClient(Route(local(server, num_ctx=4096), on_truncation="fail")) as llm:
            error = await error_of(ask(llm), ContextOverflow)
            assert "dropped the middle of the context" in str(error)


async def test_an_answer_that_ends_where_the_window_ends_is_only_cut_at_its_length(ask: Ask) -> None:
    with FakeOllama(say("and so on", usage=Usage(2000, 2096), finish="length")) as server:
        async with AsyncClient(local(server, num_ctx=4096)) as llm:
            assert (await ask(llm)).degraded == ("cut_at_length",)


@pytest.mark.parametrize(
    ("gpu", "options", "degraded"),
    [
        (1.0, {}, ()),
        (0.6, {}, ("cpu_spill",)),
        (0.6, {"num_gpu": 20}, ()),  # as the caller wanted it
        (0.0, {}, ()),  # a box without a GPU is no worse than it always is
    ],
)
async def test_a_model_that_is_partly_on_the_cpu_is_told(
    gpu: float, options: dict[str, int], degraded: tuple[str, ...], ask: Ask
) -> None:
    with FakeOllama(say("yes"), gpu=gpu) as server:
        async with AsyncClient(local(server, options=options)) as llm:
            reply = await ask(llm)
            assert reply.degraded == degraded
            state = llm.snapshot()["ollama:llama3.2"]["model"]
            assert state["cpu_share"] == pytest.approx(1 - gpu, abs=1e-6)
            assert state["in_memory"] is True
            assert (state["loads"], state["load_budget"]) == (1, 30)


async def test_in_use_its_state_is_asked_for_twice_a_minute_and_nobody_waits_for_it() -> None:
    now = 0.0
    with FakeOllama(say("yes")) as server:
        async with AsyncClient(local(server), clock=lambda: anyio.current_time() + now) as llm:
            await llm.chat("hi")
            before = len(server.requests)
            await llm.chat("hi")
            assert paths(server)[before:] == ["/api/chat"]
            now = 31.0
            await llm.chat("hi")
            await anyio.to_thread.run_sync(
                partial(server.wait_for, lambda: paths(server)[before:].count("/api/ps") == 1)
            )
            await llm.chat("hi")
            assert paths(server)[before:].count("/api/chat") == 3
            assert server.loads.started == 1


async def test_who_fights_for_the_memory_is_named(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    with FakeOllama(say("yes")) as server, caplog.at_level(logging.WARNING, "resilient_llm"):
        async with (
            AsyncClient(local(server, num_ctx=4096), clock=lambda: anyio.current_time() + now) as llm,
            AsyncClient(local(server, num_ctx=8192), clock=lambda: anyio.current_time() + now) as other,
        ):
            for _ in range(4):
                await llm.chat("hi")
                await other.chat("hi")
                now += 61
            state = llm.snapshot()["ollama:llama3.2"]["model"]
    assert state["found_instead"] == "num_ctx: 8192 instead of 4096"
    told = [one.getMessage() for one in caplog.records]
    assert (
        sum("llama3.2: loaded over and over again; last found: num_ctx: 8192 instead of 4096" in one for one in told)
        == 1
    )


async def test_an_option_of_a_call_that_means_a_reload_is_warned_of() -> None:
    with FakeOllama(say("yes")) as server:
        async with AsyncClient(local(server, num_ctx=4096)) as llm:
            with pytest.warns(ReloadWarning, match="num_ctx: 8192 instead of 4096") as caught:
                await llm.chat("hi", extra={"options": {"num_ctx": 8192}})
            assert {one.filename for one in caught} == {__file__}
            with pytest.warns(ReloadWarning, match="shift: True instead of False"):
                await llm.chat("hi", extra={"shift": True})
            with pytest.warns(ReloadWarning, match="keep_alive"):
                await llm.chat("hi", extra={"keep_alive": 5})
            with pytest.warns(OptionWarning, match="did you mean 'top_k'"):
                await llm.chat("hi", extra={"options": {"topk": 3}})
            await llm.chat("hi", extra={"options": {"num_ctx": 4096, "top_k": 3}, "shift": False})


async def test_a_window_beyond_what_was_trained_is_warned_of_and_the_real_one_is_used() -> None:
    with FakeOllama(say("yes"), trained=2048) as server:
        async with AsyncClient(local(server, num_ctx=999_999)) as llm:
            with pytest.warns(OptionWarning, match="not trained for 999999 tokens; its window is the 2048"):
                reply = await llm.chat("hi")
            assert reply.served_by.window == 2048
            assert server.loads.started == 1
            await llm.chat("hi")
            assert server.loads.started == 1


async def test_a_model_that_is_not_pulled_is_named_with_how_to_pull_it_and_what_is_there(ask: Ask) -> None:
    with FakeOllama(models=["qwen3:8b", "llama3.1"]) as server:
        async with AsyncClient(Route(local(server), retry=Retry(attempts=1))) as llm:
            error = await error_of(ask(llm), ModelNotFound)
            assert "ollama pull llama3.2" in str(error)
            assert "it has llama3.1:latest, qwen3:8b" in str(error)
            error = await error_of(llm.warm_up(), ModelNotFound)
            assert "qwen3:8b" in str(error)


async def test_an_image_for_a_model_that_sees_none_is_refused_and_goes_where_it_is_seen(ask: Ask) -> None:
    picture = Message("user", "what is it?", images=[Image(data="aGVsbG8=")])
    with FakeOllama(say("a cat?")) as server:
        async with AsyncClient(local(server)) as llm:
            error = await error_of(ask(llm, [picture]), UnsupportedParameter)
            assert (error.parameter, server.chats) == ("images", [])
        async with AsyncClient(local(server), FakeBackend(say("a dog"))) as llm:
            assert (await ask(llm, [picture])).text == "a dog"
