"""Prompts and answers are in a trace for who asks for them, never where privacy was asked for, and keys never."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry import trace
from tests.engine.kit import REAL, Ask

from resilient_llm import AsyncClient, Image, Message, OpenAICompatible, ToolCall, local_only
from resilient_llm.errors import LLMError
from resilient_llm.telemetry import Telemetry, execute_tool
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry._options import CAPTURE
from resilient_llm.testing import FakeBackend, FakeOpenAI, fail, say, status

from .kit import CONTENT, Otel, check, of

pytestmark = pytest.mark.anyio
SECRET = "the patient is Ms Miller"


def told(otel: Otel) -> str:
    """Everything that left by way of the SDK."""
    metrics = otel.reader.get_metrics_data()
    return "".join(span.to_json() or "" for span in otel.spans) + (metrics.to_json() if metrics is not None else "")


async def test_it_is_off(ask: Ask, otel: Otel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CAPTURE, raising=False)
    await ask(otel.client(FakeBackend(say(SECRET))), SECRET, system=SECRET, tags=["t"])
    check(otel, 1)
    assert not CONTENT & of(otel.call).keys()
    assert SECRET not in told(otel)


@pytest.mark.parametrize(
    ("variable", "argument", "there"),
    [
        ("SPAN_ONLY", None, True),
        ("span_and_event", None, True),
        ("true", None, True),
        ("NO_CONTENT", None, False),
        ("EVENT_ONLY", None, False),
        ("", None, False),
        ("SPAN_ONLY", False, False),
        ("NO_CONTENT", True, True),
    ],
)
async def test_the_argument_decides_else_the_variable(
    variable: str, argument: bool | None, there: bool, otel: Otel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE, variable)
    await otel.client(FakeBackend(say("x")), telemetry=Telemetry(content=argument)).chat("hi")
    assert (names.INPUT_MESSAGES in of(otel.call)) is there


async def test_the_messages_have_the_shape_that_stacks_parse(ask: Ask, otel: Otel) -> None:
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return city

    call = ToolCall("get_weather", {"city": "Paris"}, "call_0")
    history = [
        Message("system", "Be brief."),
        Message("user", "Weather?", images=(Image(data="QUJD"),)),
        Message("assistant", "", reasoning="hm", tool_calls=(call,)),
        Message("tool", "sunny", tool_call_id="call_0"),
    ]
    answer = say("It", " is", reasoning=["think"], tool_calls=[call])
    await ask(otel.client(FakeBackend(answer), telemetry=Telemetry(content=True)), history, tools=[get_weather])
    check(otel, 1, content=True)
    found = of(otel.call)
    wanted = {"type": "tool_call", "id": "call_0", "name": "get_weather", "arguments": {"city": "Paris"}}
    assert json.loads(found[names.INPUT_MESSAGES]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {
            "role": "user",
            "parts": [{"type": "text", "content": "Weather?"}, {"type": "text", "content": "[image/png]"}],
        },
        {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}, wanted]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_0", "response": "sunny"}]},
    ]
    (answered,) = json.loads(found[names.OUTPUT_MESSAGES])
    assert answered["role"] == "assistant"
    assert answered["finish_reason"] in ("stop", "tool_call")
    assert answered["parts"] == [
        {"type": "reasoning", "content": "think"}, {"type": "text", "content": "It is"}, wanted
    ]  # fmt: skip
    (tool,) = json.loads(found[names.TOOL_DEFINITIONS])
    assert (tool["type"], tool["name"], tool["description"]) == ("function", "get_weather", "The weather in a city.")
    assert "QUJD" not in found[names.INPUT_MESSAGES]


async def test_a_call_that_fails_shows_what_was_asked(otel: Otel) -> None:
    llm = otel.client(FakeBackend(fail(LLMError("no"))), telemetry=Telemetry(content=True))
    with pytest.raises(LLMError):
        await llm.chat("hi")
    assert CONTENT & of(otel.call).keys() == {names.INPUT_MESSAGES}


@pytest.mark.parametrize("how", ["argument", "block", "client", "message"])
async def test_what_may_not_go_out_is_in_no_trace_either(how: str, ask: Ask, otel: Otel) -> None:
    options: dict[str, Any] = {"telemetry": Telemetry(content=True)}
    if how == "client":
        options["local_only"] = True
    llm = otel.client(FakeBackend(say(SECRET), zone="machine"), **options)
    asked: Any = [Message("user", SECRET, private=True)] if how == "message" else SECRET
    if how == "block":
        with local_only():
            await ask(llm, asked)
    else:
        await ask(llm, asked, local_only=True if how == "argument" else None)
    check(otel, 1)
    assert of(otel.call)[names.LOCAL_ONLY] == "network"
    assert SECRET not in told(otel)


@REAL
async def test_a_server_that_repeats_the_prompt_and_the_key_in_its_error_does_not_get_them_into_a_trace(
    otel: Otel, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-proj-4f9a8b7c6d5e"
    body = {
        "error": {"message": f"Incorrect API key provided: {key}, asked {SECRET!r}", "type": "invalid_request_error"}
    }
    with FakeOpenAI(status(401, body=body)) as server:
        async with AsyncClient(
            OpenAICompatible("m", base_url=server.url, api_key=key, headers={"X-Secret": "hush"}), **otel.providers
        ) as llm:
            with pytest.raises(LLMError):
                await llm.chat(SECRET)
    check(otel, 1)
    for secret in (key, SECRET, "hush"):
        assert secret not in told(otel) + caplog.text


def test_within_local_only_the_arguments_of_a_tool_are_in_no_trace(otel: Otel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAPTURE, "SPAN_ONLY")
    call = ToolCall("look_up", {"patient": SECRET})
    with execute_tool(call, tracer_provider=otel.tracer_provider):
        pass
    with local_only(), execute_tool(call, content=True, tracer_provider=otel.tracer_provider):
        pass
    assert [SECRET in (span.to_json() or "") for span in otel.spans] == [True, False]


@pytest.mark.parametrize("content", [True, False])
def test_the_span_of_a_tool(content: bool, otel: Otel) -> None:
    call = ToolCall("get_weather", {"city": "Paris"}, "call_0")
    provider = otel.tracer_provider
    with execute_tool(call, content=content, tracer_provider=provider) as span:
        assert trace.get_current_span() is span, "what the tool does stands below it"
    with pytest.raises(ZeroDivisionError), execute_tool(ToolCall("bad", {}), tracer_provider=provider):
        raise ZeroDivisionError(SECRET)
    good, bad = otel.spans
    expected = {
        names.OPERATION: "execute_tool", names.TOOL_NAME: "get_weather", names.TOOL_TYPE: "function",
        names.TOOL_CALL_ID: "call_0",
    }  # fmt: skip
    assert good.name == "execute_tool get_weather"
    assert of(good) == expected | ({names.TOOL_ARGUMENTS: '{"city": "Paris"}'} if content else {})
    assert (of(bad)[names.ERROR_TYPE], bad.status.description, bad.events) == (
        "ZeroDivisionError",
        "ZeroDivisionError",
        (),
    )
    assert SECRET not in told(otel)
