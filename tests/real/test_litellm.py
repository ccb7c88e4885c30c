"""The LiteLLM proxy in front of a real llama.cpp server, through our client: a dialect made of two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import AsyncClient, Message, OpenAICompatible, Retry, Route, Tool, ToolCall
from resilient_llm.errors import (
    AuthFailed,
    ContextOverflow,
    DeadlineExceeded,
    LLMError,
    ModelNotFound,
    ServerError,
    StreamInterrupted,
)
from resilient_llm.testing import FakeBackend, say

from . import litellm
from .conftest import KEY
from .helpers import ENDLESS, SLACK, get_weather
from .llamacpp import Server as Llama
from .llamacpp import llama_server
from .script import SCRIPT

pytestmark = [pytest.mark.anyio, pytest.mark.peers]
ONCE = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it is the worse for it afterwards
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="session")
def mortal(model: Any, llama_needed: None) -> Iterator[Llama]:
    """A llama.cpp server that a test may kill."""
    with llama_server(model("scripted"), api_keys=[KEY], model_alias=["mortal"]) as server:
        yield server


@pytest.fixture(scope="session")
def proxy(
    llama: Llama, llama_tools: Llama, mortal: Llama, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[litellm.Proxy]:
    upstreams = {
        name: f"{one.url}/v1" for name, one in (("scripted", llama), ("tools", llama_tools), ("mortal", mortal))
    }
    with litellm.litellm_proxy(upstreams | {"gone": NOWHERE}, KEY, tmp_path_factory.mktemp("litellm")) as running:
        yield running


def to_proxy(proxy: litellm.Proxy, model: str = "scripted", **options: Any) -> OpenAICompatible:
    return OpenAICompatible(
        model, base_url=proxy.url, profile="litellm", **{"api_key": litellm.KEY, "name": "proxy", **options}
    )


async def test_an_answer_comes_whole_and_in_pieces(proxy: litellm.Proxy) -> None:
    async with AsyncClient(to_proxy(proxy)) as llm:
        reply = await llm.chat("hi", temperature=0)
        async with llm.stream("hi", temperature=0) as stream:
            pieces = [text async for text in stream.text()]
    assert reply.text == "".join(pieces) == SCRIPT
    assert len(pieces) > 10
    assert (reply.finish_reason, reply.degraded, len(reply.attempts)) == ("stop", (), 1)
    assert reply.usage.input_tokens
    assert reply.usage.output_tokens


async def test_a_cut_answer_says_so(proxy: litellm.Proxy) -> None:
    async with AsyncClient(to_proxy(proxy)) as llm:
        reply = await llm.chat("hi", max_tokens=5, temperature=0)
    assert (reply.finish_reason, reply.degraded, reply.usage.output_tokens) == ("length", ("cut_at_length",), 5)


async def test_tools_are_called_and_their_results_go_back(proxy: litellm.Proxy) -> None:
    async with AsyncClient(to_proxy(proxy, "tools")) as llm:
        asked = await llm.chat("weather?", tools=[get_weather], temperature=0, max_tokens=100)
        assert asked.tool_calls[0].name == "get_weather"
        results = [Message(role="tool", content="sunny", tool_call_id=call.id) for call in asked.tool_calls]
        after = await llm.chat([Message("user", "weather?"), asked.message, *results], temperature=0, max_tokens=8)
        assert len(after.attempts) == 1  # the history has tool calls, and no tools go with it


async def test_a_history_from_elsewhere_is_taken(proxy: litellm.Proxy) -> None:
    foreign = Message(role="assistant", tool_calls=(ToolCall("f g", {}, "x" * 90), ToolCall("f g", {}, "x" * 90)))
    history = [Message("system", "a"), Message("user", "b"), foreign, Message("developer", "c"), Message("user", "d")]
    async with AsyncClient(to_proxy(proxy)) as llm:
        reply = await llm.chat(history, temperature=0, tools=[Tool("f", "", {"type": "object", "properties": {}})])
        assert len(reply.attempts) == 1


async def test_typed_output(proxy: litellm.Proxy) -> None:
    async with AsyncClient(to_proxy(proxy)) as llm:
        assert (await llm.parse("yes?", bool, max_tokens=64)).output in (True, False)


@pytest.mark.parametrize("level", ["none", "low", "high"])
async def test_reasoning_is_asked_for_or_left_out(proxy: litellm.Proxy, level: Any) -> None:
    async with AsyncClient(to_proxy(proxy)) as llm:
        assert (await llm.chat("hi", reasoning=level, max_tokens=5)).text


async def test_a_prompt_that_is_too_long_is_told_with_both_numbers(proxy: litellm.Proxy) -> None:
    async with AsyncClient(to_proxy(proxy)) as llm:
        with pytest.raises(ContextOverflow) as caught:
            await llm.chat("word " * 4000)
    assert caught.value.limit == 2048
    assert (caught.value.tokens or 0) > 4000


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"model": "nope"}, ModelNotFound), ({"api_key": "sk-wrong"}, AuthFailed), ({"model": "gone"}, ServerError)],
)
async def test_what_it_refuses_is_what_it_means(
    proxy: litellm.Proxy, options: dict[str, str], kind: type[LLMError]
) -> None:
    async with AsyncClient(Route(to_proxy(proxy, **options), retry=Retry(attempts=1))) as llm:
        with pytest.raises(kind) as caught:
            await llm.chat("hi")
    assert litellm.KEY not in f"{caught.value!r}{caught.value}"


async def test_where_what_is_behind_it_is_down_the_next_route_answers(proxy: litellm.Proxy) -> None:
    routes = [Route(to_proxy(proxy, "gone"), retry=Retry(attempts=1)), FakeBackend(say("yes"), name="next")]
    async with AsyncClient(*routes) as llm:
        assert (await llm.chat("hi")).route == "next"


@ONCE
async def test_a_deadline_holds_through_it(proxy: litellm.Proxy) -> None:
    async with AsyncClient(to_proxy(proxy, extra=ENDLESS)) as llm:
        await llm.models()
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await llm.chat("hi", timeout=0.3)
        assert time.monotonic() - began < 0.3 + SLACK


async def test_its_models_are_listed(proxy: litellm.Proxy) -> None:
    async with AsyncClient(to_proxy(proxy)) as llm:
        names = {one.name for one in (await llm.models())["proxy"]}
    assert {"scripted", "tools", "gone"} <= names


@ONCE
async def test_an_answer_that_dies_behind_it_is_no_success(proxy: litellm.Proxy, mortal: Llama) -> None:
    """What is behind it is dead after it."""
    route = Route(to_proxy(proxy, "mortal", extra=ENDLESS), retry=Retry(attempts=1))
    async with AsyncClient(route) as llm, llm.stream("hi") as stream:
        with pytest.raises(StreamInterrupted):
            async for _ in stream.text():
                mortal.process.kill()
