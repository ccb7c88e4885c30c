"""A whole Ollama in virtual time behind our own client: what is true of the real one is true of ours, in no time."""

from __future__ import annotations

import time
import warnings
from typing import Any

import anyio
import httpx2
import pytest

from resilient_llm import Bulkhead, Ollama, ReloadWarning, Retry, Route, Timeouts, Tool, ToolCall
from resilient_llm.errors import (
    ConnectFailed,
    ContextOverflow,
    LLMError,
    ModelNotFound,
    Overloaded,
    ServerError,
    StreamInterrupted,
    StreamStalled,
    Truncated,
)
from resilient_llm.testing import Fault, Machine, OllamaModel, Pulled, Settings

from .kit import client

pytestmark = pytest.mark.anyio


def to(host: OllamaModel, **options: Any) -> Ollama:
    http = httpx2.AsyncClient(transport=host.transport())
    return Ollama("llama3.2", base_url="http://127.0.0.1:11434", http_client=http, **options)


async def test_a_cold_load_of_a_minute_takes_no_time_and_is_counted_as_a_load() -> None:
    slow = Machine(disk=Pulled().size / 59.5)
    host = OllamaModel(machine=slow, settings=Settings(context_length=4096))
    began = time.monotonic()
    async with client(Route(to(host), timeouts=Timeouts(load=120))) as llm:
        reply = await llm.chat("hello there")
        again = await llm.chat("hello there")
    assert reply.text == "You said: hello there"
    assert reply.timings.load == pytest.approx(60, abs=0.1)
    assert again.timings.load == 0
    assert reply.served_by.window == 4096
    assert time.monotonic() - began < 20
    assert [one.outcome for one in host.log] == ["complete"] * 3  # the load, and two chats


async def test_who_stops_waiting_hangs_up() -> None:
    host = OllamaModel(Pulled(says=lambda _: ["on and on "] * 9 + [str(at) for at in range(10_000)]))
    async with client(to(host)) as llm:
        await llm.warm_up()
        with anyio.move_on_after(2):
            await llm.chat("hi")
        async with llm.stream("hi") as stream:
            await anext(stream)
        assert [one.outcome for one in host.log[1:]] == ["disconnected", "disconnected"]
        host.advance(anyio.current_time() + 1)
    assert host.active == 0


async def test_fifty_callers_are_answered_one_after_the_other_and_wait_at_the_server() -> None:
    host = OllamaModel(Pulled(says=lambda _: ["a ", "b "]), settings=Settings(num_parallel=2))
    waits: list[float] = []
    async with client(Route(to(host), bulkhead=Bulkhead(50))) as llm:
        await llm.warm_up()

        async def ask() -> None:
            reply = await llm.chat("hi")
            waits.append(reply.timings.server_queue or 0.0)

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(ask)
    truths = [one.slot + one.overhead for one in host.log if one.output]
    assert sorted(waits) == pytest.approx(sorted(truths), abs=1e-6)
    assert max(waits) > 10 * min(waits)


FAULTS = [
    ("refused", ConnectFailed, ConnectFailed),
    ("queue full", Overloaded, Overloaded),
    ("error line", ServerError, StreamInterrupted),
    ("ends", Truncated, Truncated),
    ("repeats", Truncated, Truncated),
    ("crashes", ServerError, StreamInterrupted),
    ("stalls", StreamStalled, StreamStalled),
    ("load fails", ServerError, ServerError),
    ("overloaded", Overloaded, Overloaded),
    ("tool call unreadable", LLMError, LLMError),
]


@pytest.mark.parametrize(("name", "whole", "streamed"), FAULTS)
async def test_a_fault_comes_out_as_the_error_that_it_is(
    name: str, whole: type[LLMError], streamed: type[LLMError]
) -> None:
    del whole
    ten = [f"{number} " for number in range(10)]
    host = OllamaModel(Pulled(says=lambda _: ten), faults=[Fault(name, after=3)])
    route = Route(to(host), retry=Retry(attempts=1), on_break="raise")
    async with client(route) as llm:
        with pytest.raises(streamed):
            async with llm.stream("hi") as stream:
                async for _ in stream:
                    pass


async def test_what_is_too_long_for_its_window_is_refused_with_the_servers_own_numbers() -> None:
    """Two hundred ideographs are few bytes for an estimate, and many tokens for this tokenizer."""
    host = OllamaModel(Pulled(tokenizer=lambda text: 4 * len(text)))
    async with client(to(host, num_ctx=256)) as llm:
        with pytest.raises(ContextOverflow) as caught:
            await llm.chat("hello " * 20)
    assert (caught.value.tokens, caught.value.limit) == (480, 256)


@pytest.mark.parametrize(
    ("version", "shift", "reloads"), [("0.32.15", False, 2), ("0.32.15", None, 0), ("0.9.3", False, 0)]
)
async def test_a_model_that_chats_and_embeds_is_loaded_again_at_each_change_which_is_warned_of(
    version: str, shift: bool | None, reloads: int
) -> None:
    host = OllamaModel(version=version)
    async with client(to(host, shift=shift)) as llm:
        await llm.chat("hi")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            await llm.embed(["hi"])
            await llm.chat("hi")
    assert [one.category for one in told] == [ReloadWarning] * bool(reloads)
    assert len(host.loads) - 1 == reloads


@pytest.mark.parametrize("template", ["rendered", "native"])
async def test_a_tool_call_is_heard_wherever_it_comes(template: Any) -> None:
    host = OllamaModel(Pulled(says=lambda _: ["hm ", ToolCall("search", {"q": 1})], template=template))
    async with client(to(host)) as llm:
        reply = await llm.chat("hi", tools=[Tool("search", "", {})])
    assert (reply.text, [one.name for one in reply.tool_calls]) == ("hm ", ["search"])


async def test_a_model_that_is_not_pulled_is_not_found() -> None:
    host = OllamaModel("other")
    async with client(to(host)) as llm:
        with pytest.raises(ModelNotFound):
            await llm.chat("hi")
        (model,) = (await llm.models())["ollama:llama3.2"]
    assert model.name == "other:latest"
