"""Our client against a real llama.cpp server: what it answers when all is well, and what it refuses."""

from __future__ import annotations

import math

import pytest

from resilient_llm import (
    AsyncClient,
    ChatRequest,
    ContextGuard,
    ContextOverflow,
    Done,
    Message,
    Route,
    TextDelta,
    drop_oldest,
)
from resilient_llm.errors import AuthFailed
from resilient_llm.policies.tokens import estimate_request

from .conftest import NARROW
from .helpers import ENDLESS, get_weather, to_llama
from .llamacpp import Server
from .script import CONTEXT, SCRIPT

pytestmark = pytest.mark.anyio
TOO_LONG = "word " * 300  # 3 tokens each: more than the narrow server has, less than the other


async def test_a_chat_gives_the_whole_answer_and_says_who_gave_it(llama: Server) -> None:
    async with AsyncClient(to_llama(llama, context_window=CONTEXT)) as llm:
        reply = await llm.chat("hi", temperature=0, seed=7)
    assert reply.text == SCRIPT
    assert (reply.finish_reason, reply.degraded, reply.route) == ("stop", (), "compatible:scripted")
    assert reply.usage.input_tokens is not None
    assert reply.usage.output_tokens is not None
    assert 5 < reply.usage.input_tokens < 20  # "hi" in its template
    assert len(SCRIPT.split()) < reply.usage.output_tokens < len(SCRIPT)
    served = reply.served_by
    assert (served.model, served.provider, served.window, served.seed) == ("scripted", "compatible", CONTEXT, 7)
    assert served.fingerprint  # llama.cpp's build
    (attempt,) = reply.attempts
    assert (attempt.kind, attempt.error) == ("first", None)


async def test_the_phases_of_a_chat_add_up_to_its_time(llama: Server) -> None:
    async with AsyncClient(to_llama(llama)) as llm:
        timings = (await llm.chat("hi", temperature=0)).timings
    assert timings.first_token is not None
    assert timings.connect > 0
    parts = (timings.queue, timings.connect, timings.load, timings.first_token, timings.backoff, timings.failed)
    assert math.isclose(sum(parts) + timings.stream, timings.total)


async def test_a_stream_gives_the_same_answer_in_pieces_and_its_usage_at_the_end(llama: Server) -> None:
    async with AsyncClient(to_llama(llama)) as llm:
        async with llm.stream("hi", temperature=0) as stream:
            events = [event async for event in stream]
        whole = await llm.chat("hi", temperature=0)
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert len(pieces) > 20
    assert "".join(pieces) == stream.reply.text == whole.text == SCRIPT
    assert [type(event) for event in events].index(Done) == len(events) - 1
    assert stream.reply.usage.output_tokens == whole.usage.output_tokens


async def test_an_answer_in_one_piece_is_the_same(llama: Server) -> None:
    async with AsyncClient(Route(to_llama(llama), streams=False)) as llm:
        reply = await llm.chat("hi", temperature=0)
    assert (reply.text, reply.finish_reason) == (SCRIPT, "stop")


@pytest.mark.parametrize("limit", [1, 4])
async def test_a_token_limit_is_in_degraded(llama: Server, limit: int) -> None:
    async with AsyncClient(to_llama(llama)) as llm:
        reply = await llm.chat("hi", temperature=0, max_tokens=limit)
    assert SCRIPT.startswith(reply.text)
    assert (reply.finish_reason, reply.degraded, reply.usage.output_tokens) == ("length", ("cut_at_length",), limit)


async def test_an_answer_that_fills_the_window_is_in_degraded(llama_narrow: Server) -> None:
    async with AsyncClient(to_llama(llama_narrow, extra=ENDLESS)) as llm:
        reply = await llm.chat("hi", temperature=0)
    assert reply.degraded == ("cut_at_length",)
    assert (reply.usage.input_tokens or 0) + (reply.usage.output_tokens or 0) == NARROW


async def test_a_stop_word_ends_the_answer_before_it(llama: Server) -> None:
    async with AsyncClient(to_llama(llama)) as llm:
        reply = await llm.chat("hi", temperature=0, stop=" six")
    assert (reply.text, reply.finish_reason) == (SCRIPT[: SCRIPT.index(" six")], "stop")


async def test_an_answer_goes_back_into_the_history(llama: Server) -> None:
    async with AsyncClient(to_llama(llama)) as llm:
        first = await llm.chat("hi", temperature=0)
        second = await llm.chat([Message("user", "hi"), first.message, Message("user", "again")], temperature=0)
    assert second.text == SCRIPT
    assert (second.usage.input_tokens or 0) > (first.usage.input_tokens or 0) + (first.usage.output_tokens or 0)


async def test_embeddings_come_in_the_order_of_their_texts(llama_embed: Server) -> None:
    async with AsyncClient(to_llama(llama_embed, "random")) as llm:
        reply = await llm.embed(["one text", "another one", "one text"])
    first, second, third = reply.vectors
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)
    assert [math.hypot(*vector) for vector in reply.vectors] == pytest.approx([1, 1, 1], abs=1e-3)
    assert (reply.space.name, reply.space.dimensions, len(first)) == ("random", 64, 64)
    assert (reply.usage.input_tokens or 0) > 3


async def test_a_text_too_long_to_embed_is_an_overflow_with_both_numbers(llama_embed: Server) -> None:
    async with AsyncClient(to_llama(llama_embed, "random")) as llm:
        with pytest.raises(ContextOverflow) as caught:
            await llm.embed(["short", "word " * 1000])
    assert (caught.value.tokens or 0) > (caught.value.limit or 0) > 0
    assert len(caught.value.attempts) == 1


async def test_typed_output_is_constrained_by_the_server_and_checked_here(llama_embed: Server) -> None:
    async with AsyncClient(to_llama(llama_embed, "random")) as llm:  # its noise can only become a bool by force
        reply = await llm.parse("Is it raining?", bool, temperature=0)
    assert reply.output in (True, False)
    assert reply.text.strip() in ("true", "false")


async def test_the_server_names_its_models(llama: Server) -> None:
    async with AsyncClient(to_llama(llama)) as llm:
        (model,) = (await llm.models())["compatible:scripted"]
        assert (model.name, model.window, model.sources) == ("scripted", 2048, {"window": "server"})
        assert model.lacks == {"vision"}
        assert "window 2048" in llm.explain()


@pytest.mark.parametrize("streams", [True, False])
async def test_a_prompt_too_long_is_refused_by_the_server_with_both_numbers(
    llama_narrow: Server, streams: bool
) -> None:
    async with AsyncClient(Route(to_llama(llama_narrow), streams=streams)) as llm:
        with pytest.raises(ContextOverflow) as caught:
            await llm.chat(TOO_LONG)
        error = caught.value
        assert (error.limit, error.status, error.retryable) == (NARROW, 400, False)
        assert (error.tokens or 0) > 900  # counted with the model's own tokenizer
        assert len(error.attempts) == 1
        assert (await llm.chat("hi", temperature=0)).text == SCRIPT
        assert llm.snapshot()["compatible:scripted"]["breaker"].failures == 0  # the caller's mistake


@pytest.mark.parametrize("streams", [True, False])
async def test_a_prompt_too_long_for_one_server_goes_to_a_larger_window(
    llama_narrow: Server, llama: Server, streams: bool
) -> None:
    narrow = Route(to_llama(llama_narrow), name="narrow", streams=streams)
    hopeless = Route(to_llama(llama_narrow, context_window=NARROW + 1), name="hopeless")
    wide = Route(to_llama(llama, context_window=CONTEXT), name="wide")
    async with AsyncClient(narrow, hopeless, wide) as llm:
        reply = await llm.chat(TOO_LONG, temperature=0)
    assert (reply.text, reply.route) == (SCRIPT, "wide")
    assert [(one.route, type(one.error)) for one in reply.attempts] == [
        ("narrow", ContextOverflow),
        ("wide", type(None)),
    ]


async def test_a_window_that_is_known_spares_the_server_the_question(llama_narrow: Server) -> None:
    guarded = Route(to_llama(llama_narrow), guard=ContextGuard(window=NARROW, reserve=64))
    async with AsyncClient(guarded) as llm:
        with pytest.raises(ContextOverflow) as caught:
            await llm.chat(2 * TOO_LONG)  # our estimate is that of ordinary tokenizers: one a word
    assert [type(one.error) for one in caught.value.attempts] == [ContextOverflow]  # refused here
    assert caught.value.limit == NARROW - 64
    assert (caught.value.tokens or 0) > NARROW


async def test_near_the_limit_the_server_counts_what_it_would_count_itself(llama_narrow: Server) -> None:
    with_tools = {"tools": [get_weather]}
    async with AsyncClient(to_llama(llama_narrow)) as asked:
        with pytest.raises(ContextOverflow) as refused:
            await asked.chat(TOO_LONG, **with_tools)  # by the server, when it was sent
    near = int(1.05 * estimate_request(ChatRequest((Message("user", TOO_LONG),)))) + 100
    guarded = Route(to_llama(llama_narrow, profile="llamacpp"), guard=ContextGuard(window=near, reserve=0))
    async with AsyncClient(guarded) as llm:
        with pytest.raises(ContextOverflow) as caught:
            await llm.chat(TOO_LONG, **with_tools)
    assert caught.value.status is None  # refused here
    assert caught.value.tokens == refused.value.tokens


async def test_a_conversation_that_is_too_long_is_trimmed_to_what_the_server_says(llama_narrow: Server) -> None:
    history = [
        Message("system", "You are terse."),
        *(Message("user", f"{number}: {'word ' * 30}") for number in range(9)),
    ]
    route = Route(to_llama(llama_narrow), guard=ContextGuard(reserve=64, overflow=drop_oldest))
    async with AsyncClient(route) as llm:
        reply = await llm.chat(history, temperature=0)
    assert [type(one.error) for one in reply.attempts] == [ContextOverflow, type(None)]
    assert NARROW / 3 < (reply.usage.input_tokens or 0) <= NARROW - 64


async def test_a_wrong_key_is_told_once_and_never_shown(llama: Server) -> None:
    secret = "sk-wrong-but-secret"
    backend = to_llama(llama)
    wrong = type(backend)("scripted", base_url=f"{llama.url}/v1", api_key=secret)
    async with AsyncClient(wrong, Route(backend, name="right")) as llm:
        with pytest.raises(AuthFailed) as caught:
            await llm.chat("hi")
        assert len(caught.value.attempts) == 1
        shown = (str(caught.value), repr(caught.value), *map(repr, caught.value.attempts), repr(llm), llm.explain())
        assert not any(secret in text for text in shown)
    async with AsyncClient(Route(wrong, falls_back_on=(AuthFailed,)), Route(backend, name="right")) as llm:
        assert (await llm.chat("hi", temperature=0)).route == "right"


async def test_tool_calls_come_whole_and_half_a_call_is_left_out(llama_tools: Server) -> None:
    ask = {"tools": [get_weather], "temperature": 0}
    async with AsyncClient(to_llama(llama_tools, "tools")) as llm:
        reply = await llm.chat("Weather?", max_tokens=100, **ask)
        cut = await llm.chat("Weather?", max_tokens=30, **ask)  # ends within the arguments of the first call
        async with llm.stream("Weather?", max_tokens=100, **ask) as stream:
            async for _ in stream:
                pass
    assert reply.tool_calls
    assert {(call.name, call.arguments["city"]) for call in reply.tool_calls} <= {
        ("get_weather", "Paris"),
        ("get_weather", "Rome"),
    }
    assert len({call.id for call in reply.tool_calls}) == len(reply.tool_calls)
    assert (cut.tool_calls, cut.finish_reason, cut.degraded) == ((), "length", ("cut_at_length",))
    assert [call.arguments for call in stream.reply.tool_calls] == [call.arguments for call in reply.tool_calls]


async def test_a_tool_call_and_its_result_go_back_into_the_history(llama: Server, llama_tools: Server) -> None:
    question = Message("user", "Weather?")
    async with AsyncClient(to_llama(llama_tools, "tools")) as llm:
        asked = await llm.chat(question, tools=[get_weather], temperature=0, max_tokens=100)
    results = [
        Message("tool", get_weather(**call.arguments), tool_call_id=call.id, name=call.name)
        for call in asked.tool_calls
    ]
    async with AsyncClient(to_llama(llama)) as llm:
        assert (await llm.chat([question, asked.message, *results], temperature=0)).text == SCRIPT
