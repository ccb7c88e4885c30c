"""One table of what servers do, over every way to them: each ends in the same answer or the same error."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

from resilient_llm import DeadlineExceeded, LLMError, RateLimited, StreamInterrupted, Timeouts, ToolCall
from resilient_llm import testing as fake
from resilient_llm.errors import (
    AuthFailed,
    BadRequest,
    ConnectFailed,
    EmptyReply,
    FirstTokenTimeout,
    Malformed,
    Overloaded,
    ServerError,
    StreamStalled,
    Truncated,
)

from .conftest import UPSTREAM, Provider, Rig, Setup

pytestmark = [pytest.mark.anyio, UPSTREAM]
Form = Literal["chat", "stream"]
FORMS: tuple[Form, ...] = ("chat", "stream")
LATE = 0.3  # seconds that a bound may be missed by on a shared machine; the promise is 0.05
PATIENT = Timeouts(first_token=10, between_tokens=10)
HASTY = Timeouts(first_token=0.05, between_tokens=10)
RECORDED = Path(__file__).parents[1] / "wire" / "recorded"
SAID = {"ollama": RECORDED / "ollama_chat.ndjson", "openai": RECORDED / "llamacpp_chat.sse"}


@dataclass(frozen=True, slots=True)
class Case:
    """What a server does and what has to become of it.

    Attributes:
        step: of the script.
        text: of the answer, or what had arrived when it broke.
        error: what is raised, if it is.
        facts: attributes of the error.
        timeouts: of the route.
    """

    step: fake.Step
    text: str = ""
    error: type[LLMError] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    timeouts: Timeouts = PATIENT


CASES = {
    "an answer": Case(fake.say("hel", "lo"), "hello"),
    "an answer in one piece": Case(fake.say("hel", "lo", joined=True), "hello"),
    "characters cut in two": Case(fake.split_utf8("café 🙂"), "café 🙂"),
    "an answer whose end never comes": Case(fake.slow_close("hel", "lo"), "hello"),
    "signs of life first": Case(fake.comments(3, 0.01, then=fake.say("hello")), "hello"),
    "nothing said": Case(fake.say(), "", EmptyReply),
    "400": Case(fake.status(400, "no such thing"), "", BadRequest, {"status": 400}),
    "401": Case(fake.status(401, "who are you"), "", AuthFailed, {"status": 401, "falls_back": False}),
    "403": Case(fake.status(403, "not you"), "", LLMError, {"status": 403, "fault": "caller"}),
    "429": Case(fake.status(429, "slow", {"Retry-After": "7"}), "", RateLimited, {"retry_after": 7.0, "fault": None}),
    "500": Case(fake.status(500, "kaputt"), "", ServerError, {"status": 500, "retryable": True}),
    "500 without a body": Case(fake.status(500, b""), "", ServerError),
    "502 of a proxy": Case(fake.status(502, b"<html>", {"Content-Type": "text/html"}), "", ServerError),
    "503": Case(fake.status(503, "too busy"), "", Overloaded, {"status": 503}),
    "a redirect": Case(fake.redirect("http://127.0.0.1:9/v1/elsewhere"), "", BadRequest, {"status": 307}),
    "no connection": Case(fake.refuse(), "", ConnectFailed, {"fault": "backend"}),
    "a reset": Case(fake.reset(), "", ConnectFailed),
    "a page": Case(fake.status(200, b"<html>hello</html>", {"Content-Type": "text/html"}), "", Malformed),
    "no JSON": Case(fake.malformed(b"data: {broken\n\n", after=("hel",)), "hel", StreamInterrupted),
    "an error in mid-answer": Case(fake.error_line("kaputt", after=("hel",)), "hel", StreamInterrupted),
    "an error before the answer": Case(fake.error_line("kaputt"), "", ServerError),
    "an end without the last word": Case(fake.ends("hel"), "hel", Truncated),
    "a torn connection": Case(fake.cut("hel"), "hel", StreamInterrupted),
    "a hang": Case(fake.hang(), "", FirstTokenTimeout, {"retryable": False}, HASTY),
    "headers and a hang": Case(fake.hang(after_headers=True), "", FirstTokenTimeout, timeouts=HASTY),
    "signs of life only": Case(fake.comments(gap=0.01), "", FirstTokenTimeout, timeouts=HASTY),
    "a stall": Case(fake.stall("hel"), "hel", StreamStalled, timeouts=Timeouts(first_token=10, between_tokens=0.05)),
    "an encoding that we have not": Case(fake.status(200, b"x", {"Content-Encoding": "br"}), "", Malformed),
    "a gzip that is none": Case(fake.status(200, b"plain", {"Content-Encoding": "gzip"}), "", Malformed),
}


async def ask(on: Rig, form: Form, seen: list[str]) -> None:
    """Asks in one of the two forms and keeps what was handed over."""
    if form == "chat":
        seen.append((await on.llm.chat("hi")).text)
        return
    async with on.llm.stream("hi") as stream:
        async for text in stream.text():
            seen.append(text)
    assert stream.reply.text == "".join(seen)


@pytest.mark.parametrize("name", CASES)
async def test_what_a_server_does_becomes_the_same_answer_or_error(rig: Setup, name: str) -> None:
    case = CASES[name]
    async with rig(case.step, timeouts=case.timeouts) as on:
        for form in FORMS:
            seen: list[str] = []
            if case.error is None:
                await ask(on, form, seen)
                assert "".join(seen) == case.text
                continue
            with pytest.raises(case.error) as caught:
                await ask(on, form, seen)
            error = caught.value
            assert {fact: getattr(error, fact) for fact in case.facts} == case.facts
            assert getattr(error, "partial", "") == case.text
            assert "".join(seen) == (case.text if form == "stream" else "")
            assert len(error.attempts) == 1
        (state,) = on.llm.snapshot().values()
        assert state["bulkhead"].inflight == 0
        assert on.chats() <= len(FORMS)


async def test_a_compressed_answer_is_read_though_nobody_asked_for_it(rig: Setup, provider: Provider) -> None:
    body = gzip.compress(SAID[provider].read_bytes())
    async with rig(fake.status(200, body, {"Content-Encoding": "gzip"})) as on:
        for form in FORMS:
            seen: list[str] = []
            await ask(on, form, seen)
            text = "".join(seen)
            assert (text[:11], text[-8:]) == ("Hello! This", "goodbye.")


async def test_a_compressed_error_is_read(rig: Setup) -> None:
    body = gzip.compress(b'{"error": "the disk is full"}')
    async with rig(fake.status(500, body, {"Content-Encoding": "gzip"})) as on:
        with pytest.raises(ServerError, match="the disk is full"):
            await on.llm.chat("hi")


async def test_reasoning_tool_calls_and_usage_arrive(rig: Setup) -> None:
    call = ToolCall("look", {"at": "the sky"}, "call_1")
    async with rig(fake.say("so", reasoning=("hm", "m"), tool_calls=(call,))) as on:
        reply = await on.llm.chat("hi")
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("so", "hmm", "tool_calls")
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [("look", {"at": "the sky"})]
    assert reply.usage.output_tokens == 4


async def test_an_answer_that_is_no_stream_is_whole_or_torn(rig: Setup) -> None:
    async with rig(fake.say("hel", "lo"), fake.cut("hel"), streams=False) as on:
        assert (await on.llm.chat("hi")).text == "hello"
        with pytest.raises((ConnectFailed, StreamInterrupted)):
            await on.llm.chat("hi")


async def test_vectors_come_in_the_order_of_their_texts(rig: Setup) -> None:
    async with rig() as on:
        reply = await on.llm.embed(["a", "b", "a"])
        assert reply.vectors[0] == reply.vectors[2] != reply.vectors[1]
        assert reply.space.dimensions == 8


async def test_the_models_are_listed(rig: Setup) -> None:
    async with rig() as on:
        ((models),) = (await on.llm.models()).values()
        assert models


@pytest.mark.parametrize(
    "step", [fake.hang(), fake.stall("hel"), fake.comments(gap=0.01)], ids=["hang", "stall", "alive"]
)
async def test_a_deadline_holds(rig: Setup, step: fake.Step) -> None:
    async with rig(step, timeouts=PATIENT) as on:
        await on.llm.models()  # the connection is there
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await on.llm.chat("hi", timeout=0.15)
        assert 0.15 <= time.monotonic() - began < 0.15 + LATE


@pytest.mark.parametrize("way_out", ["cancel", "leave"])
async def test_whoever_leaves_hangs_up(rig: Setup, way_out: str) -> None:
    async with rig(fake.stall("hel"), timeouts=PATIENT) as on:
        if way_out == "leave":
            async with on.llm.stream("hi") as stream:
                await anext(stream)
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(on.llm.chat, "hi")
                while not on.chats():
                    await anyio.sleep(0.005)
                await anyio.sleep(0.02)  # into the answer
                group.cancel_scope.cancel()
        await on.left()
        (state,) = on.llm.snapshot().values()
        assert state["bulkhead"].inflight == 0
