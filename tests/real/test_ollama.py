"""Our client against a real Ollama 0.9.3: what it answers when all is well.

That version knows neither `truncate` nor `shift`, tells no window in `/api/ps` and cuts what is too long without a
word, so that the guard alone keeps a prompt whole.
"""

from __future__ import annotations

import math

import httpx2
import pytest

from resilient_llm import AsyncClient, ContextGuard, ContextOverflow, Message, Route, drop_oldest
from resilient_llm.errors import ModelNotFound, NoEligibleRoute, UnsupportedParameter

from .conftest import NARROW
from .helpers import get_weather, to_llama, to_ollama
from .llamacpp import Server as Llama
from .ollama import Server
from .script import ANSWER, CONTEXT, SCRIPT, THOUGHT

pytestmark = pytest.mark.anyio


async def test_a_chat_gives_the_whole_answer_and_says_who_gave_it(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server)) as llm:
        reply = await llm.chat("hi", temperature=0, seed=7)
    tags = httpx2.get(f"{ollama_server.url}/api/tags").json()["models"]
    (digest,) = [one["digest"] for one in tags if one["name"] == "scripted:latest"]
    assert reply.text == SCRIPT
    assert (reply.finish_reason, reply.degraded, reply.route) == ("stop", (), "ollama:scripted")
    assert 5 < (reply.usage.input_tokens or 0) < 20
    assert len(SCRIPT.split()) < (reply.usage.output_tokens or 0) < len(SCRIPT)
    served = reply.served_by
    assert (served.model, served.provider, served.seed) == ("scripted", "ollama", 7)
    assert (served.digest, served.window) == (digest, CONTEXT)
    (attempt,) = reply.attempts
    assert (attempt.kind, attempt.error) == ("first", None)


async def test_the_phases_of_a_chat_add_up_to_its_time(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server)) as llm:
        timings = (await llm.chat("hi", temperature=0)).timings
    assert timings.first_token is not None
    assert timings.server_queue is not None
    assert timings.load > 0
    assert 0 <= timings.server_queue < timings.total
    parts = (timings.queue, timings.connect, timings.load, timings.first_token, timings.backoff, timings.failed)
    assert math.isclose(sum(parts) + timings.stream, timings.total)


async def test_a_stream_gives_the_same_answer_in_pieces_and_its_usage_at_the_end(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server)) as llm, llm.stream("hi", temperature=0) as stream:
        pieces = [text async for text in stream.text()]
    assert len(pieces) > 20
    assert "".join(pieces) == stream.reply.text == SCRIPT
    assert (stream.reply.usage.output_tokens or 0) >= len(pieces)


async def test_an_answer_in_one_piece_is_the_same(ollama_server: Server) -> None:
    async with AsyncClient(Route(to_ollama(ollama_server), streams=False)) as llm:
        reply = await llm.chat("hi", temperature=0)
    assert (reply.text, reply.finish_reason) == (SCRIPT, "stop")


async def test_a_token_limit_is_in_degraded(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server)) as llm:
        reply = await llm.chat("hi", temperature=0, max_tokens=4)
    assert SCRIPT.startswith(reply.text)
    assert (reply.finish_reason, reply.degraded, reply.usage.output_tokens) == ("length", ("cut_at_length",), 4)


async def test_without_a_limit_an_endless_answer_ends_after_one_window(ollama_server: Server) -> None:
    """Ollama's own limit is ten windows."""
    async with AsyncClient(to_ollama(ollama_server, "endless", num_ctx=NARROW)) as llm:
        reply = await llm.chat("hi", temperature=0)
    assert reply.degraded == ("cut_at_length", "context_shifted")  # prompt and answer are more than the window
    assert reply.usage.output_tokens == NARROW


async def test_thoughts_come_apart_from_the_answer_and_before_it(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server, "think", think=True)) as llm:
        async with llm.stream("hi", temperature=0) as stream:
            kinds = [type(event).__name__ for event in [event async for event in stream]]
        cut = await llm.chat("hi", temperature=0, max_tokens=5)
        plain = await llm.chat("hi", temperature=0, reasoning="none")
    assert (stream.reply.reasoning, stream.reply.text) == (THOUGHT, ANSWER.lstrip())
    assert kinds.index("TextDelta") == kinds.count("ReasoningDelta")
    assert (cut.text, cut.degraded) == ("", ("cut_at_length", "thinking_ate_budget"))
    assert (plain.reasoning, plain.text) == (
        THOUGHT,
        ANSWER,
    )  # it thinks all the same, and this version leaves the tags in


async def test_a_level_of_thinking_becomes_a_yes_where_it_is_yes_or_no(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server, "think")) as llm:
        reply = await llm.chat("hi", reasoning="high")
        assert (reply.reasoning or "").strip() == THOUGHT.strip()
        assert reply.degraded == ("field_dropped",)
        assert [type(one.error) for one in reply.attempts] == [UnsupportedParameter, type(None)]
        assert "no levels of thinking" in llm.explain()
        assert len((await llm.chat("hi", reasoning="high")).attempts) == 1


async def test_a_tool_is_called_and_its_result_goes_back(ollama_server: Server) -> None:
    question = Message("user", "Weather?")
    async with AsyncClient(to_ollama(ollama_server, "toolcall"), to_ollama(ollama_server)) as llm:
        asked = await llm.chat(question, tools=[get_weather])
    (call,) = asked.tool_calls
    assert (call.name, call.arguments, asked.finish_reason) == ("get_weather", {"city": "Paris"}, "tool_calls")
    assert call.id  # which it has from us: see the next test
    result = Message("tool", get_weather(**call.arguments), tool_call_id=call.id)
    async with AsyncClient(to_ollama(ollama_server)) as llm:
        assert (await llm.chat([question, asked.message, result], temperature=0)).text == SCRIPT


def test_tool_calls_have_no_ids(ollama_server: Server) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    messages = [{"role": "user", "content": "Weather?"}]
    body = {"model": "toolcall", "messages": messages, "tools": [tool], "stream": False}
    (call,) = httpx2.post(f"{ollama_server.url}/api/chat", json=body, timeout=30).json()["message"]["tool_calls"]
    assert list(call) == ["function"]


async def test_embeddings_come_in_the_order_of_their_texts(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server, "random")) as llm:
        reply = await llm.embed(["one text", "another one", "one text"])
    first, second, third = reply.vectors
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)
    assert (reply.space.name, reply.space.dimensions) == ("random", 64)
    assert (reply.usage.input_tokens or 0) > 3


async def test_a_text_too_long_to_embed_is_an_overflow_and_not_cut(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server, "random")) as llm:
        with pytest.raises(ContextOverflow) as caught:
            await llm.embed(["short", "word " * 5000])
    assert len(caught.value.attempts) == 1


async def test_typed_output_is_constrained_by_the_server_and_checked_here(ollama_server: Server) -> None:
    async with AsyncClient(to_ollama(ollama_server, "random")) as llm:  # its noise can only become a bool by force
        reply = await llm.parse("Is it raining?", bool, temperature=0)
    assert reply.output in (True, False)


async def test_the_server_names_its_models_and_one_that_is_not_there_is_looked_for_elsewhere(
    ollama_server: Server, llama: Llama
) -> None:
    async with AsyncClient(to_ollama(ollama_server, "nope"), Route(to_llama(llama), name="other")) as llm:
        models = await llm.models()
        reply = await llm.chat("hi", temperature=0)
    assert {"narrow:latest", "scripted:latest"} <= {one.name for one in models["ollama:nope"]}
    assert (reply.text, reply.route) == (SCRIPT, "other")
    assert [type(one.error) for one in reply.attempts] == [ModelNotFound, type(None)]


WINDOWS = [
    pytest.param("narrow", None, NARROW, id="of the model's own parameters"),
    pytest.param("scripted", NARROW, NARROW, id="asked for"),
    pytest.param("scripted", 4 * CONTEXT, CONTEXT, id="asked for and larger than trained"),
    pytest.param("scripted", None, CONTEXT, id="of the server"),
]


@pytest.mark.filterwarnings("ignore::resilient_llm.OptionWarning")  # of the window that is larger than trained
@pytest.mark.parametrize(("name", "num_ctx", "window"), WINDOWS)
async def test_a_prompt_too_long_for_the_window_is_refused_here_with_both_numbers(
    ollama_server: Server, name: str, num_ctx: int | None, window: int
) -> None:
    """The server would cut it and answer: see `test_servers_speak`."""
    sent: list[bytes] = []

    async def record(request: httpx2.Request) -> None:
        sent.append(request.read())

    prompt = "word " * 2 * window
    http = httpx2.AsyncClient(event_hooks={"request": [record]})
    async with http, AsyncClient(to_ollama(ollama_server, name, num_ctx=num_ctx, http_client=http)) as llm:
        for _ in range(2):  # the second time the window is known
            with pytest.raises(ContextOverflow) as caught:
                await llm.chat(prompt)
            assert (caught.value.tokens or 0) > window > (caught.value.limit or 0) > window // 2
        assert (await llm.chat("hi", temperature=0)).served_by.window == window
    assert sent
    assert not any(prompt.encode() in body for body in sent)


async def test_a_prompt_too_long_for_the_window_goes_to_a_larger_one(ollama_server: Server, llama: Llama) -> None:
    wide = Route(to_llama(llama, context_window=CONTEXT), name="wide")
    async with AsyncClient(to_ollama(ollama_server, "narrow"), wide) as llm:
        reply = await llm.chat("word " * 600, temperature=0)
    assert (reply.text, reply.route) == (SCRIPT, "wide")


async def test_a_conversation_that_grows_loses_its_oldest_turns_by_the_callers_rule(ollama_server: Server) -> None:
    history = [Message("system", "Be brief."), *(Message("user", "word " * 100) for _ in range(8))]
    guard = ContextGuard(overflow=drop_oldest)
    async with AsyncClient(Route(to_ollama(ollama_server, "narrow"), guard=guard)) as llm:
        reply = await llm.chat(history, temperature=0)
    assert reply.text == SCRIPT
    assert (reply.usage.input_tokens or NARROW) < NARROW


@pytest.mark.parametrize("limit", [True, "machine"])
async def test_local_only_asks_where_the_model_runs_and_then_the_connection(
    ollama_server: Server, limit: bool | str
) -> None:
    async with AsyncClient(to_ollama(ollama_server)) as llm:
        assert (await llm.chat("hi", temperature=0, local_only=limit)).text == SCRIPT  # type: ignore[arg-type]
        private = Message("user", "hi", private=True)
        assert (await llm.chat(private, temperature=0)).text == SCRIPT


async def test_a_client_of_the_users_may_lead_anywhere_unless_the_route_says_otherwise(ollama_server: Server) -> None:
    async with httpx2.AsyncClient() as http:
        backend = to_ollama(ollama_server, http_client=http)
        async with AsyncClient(backend, local_only=True) as llm:
            with pytest.raises(NoEligibleRoute):
                await llm.chat("hi")
        async with AsyncClient(Route(backend, zone="machine"), local_only=True) as llm:
            assert (await llm.chat("hi", temperature=0)).text == SCRIPT
