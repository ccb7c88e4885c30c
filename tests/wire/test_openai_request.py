"""What is asked of an OpenAI-compatible server: only what the caller gave, in the dialect of the server."""

# a row of a table is a line

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient_llm._errors import ConfigError
from resilient_llm._types import ChatRequest, EmbedRequest, Image, Message, Tool, ToolCall
from resilient_llm.wire.openai import OpenAICodec, Profile, profile_for

HI = (Message("user", "hi"),)


def body(
    request: ChatRequest | EmbedRequest, profile: Profile | None = None, *, stream: bool = False
) -> dict[str, Any]:
    call = OpenAICodec("m", profile=profile or Profile()).encode(request, stream=stream)
    assert call.path == ("/embeddings" if isinstance(request, EmbedRequest) else "/chat/completions")
    value: dict[str, Any] = json.loads(call.body)
    return value


def sent(*messages: Message, profile: Profile | None = None) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = body(ChatRequest(messages), profile)["messages"]
    return made


def test_nothing_is_sent_that_was_not_given() -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert body(ChatRequest(HI)) == {"model": "m", "messages": messages, "stream": False}


def test_a_stream_asks_for_its_usage_where_the_server_takes_that() -> None:
    assert body(ChatRequest(HI), stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in body(ChatRequest(HI), Profile(stream_usage=False), stream=True)


def test_everything_that_was_given_is_sent() -> None:
    tool = Tool("f", "does", {"type": "object"})
    schema = {"type": "object"}
    request = ChatRequest(
        HI, 64, 0.0, 0, ("END",), (tool,), "required", "low", schema, {"logprobs": True, "seed": 5, "model": "other"}
    )
    assert body(request) == {
        "model": "other",  # extra has the last word
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "max_tokens": 64,
        "temperature": 0.0,
        "seed": 5,
        "stop": ["END"],
        "tools": [{"type": "function", "function": {"name": "f", "description": "does", "parameters": schema}}],
        "tool_choice": "required",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        "reasoning_effort": "low",
        "logprobs": True,
    }


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_tool_choice_by_word(choice: str) -> None:
    assert body(ChatRequest(HI, tool_choice=choice))["tool_choice"] == choice


def test_tool_choice_by_name() -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert body(ChatRequest(HI, tool_choice="get_weather"))["tool_choice"] == named


def test_images_stand_beside_the_text() -> None:
    images = (Image(data="AAAA", media_type="image/jpeg"), Image(url="https://x/y.png"))
    parts = sent(Message(role="user", content="what?", images=images))[0]["content"]
    assert parts == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]


def test_a_tool_round_keeps_its_ids() -> None:
    calls = (ToolCall("f", {"é": 1}, "a"), ToolCall("g", {}, "b"))
    made = sent(
        *HI,
        Message(role="assistant", tool_calls=calls),
        Message(role="tool", content="2", tool_call_id="b"),
        Message(role="tool", content="1", tool_call_id="a"),
    )
    assert [one["id"] for one in made[1]["tool_calls"]] == ["a", "b"]
    assert made[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"é":1}'}
    assert [one["tool_call_id"] for one in made[2:]] == ["b", "a"]


def test_missing_ids_are_made_and_the_answers_get_the_same() -> None:
    calls = (ToolCall("f", {}), ToolCall("g", {}))
    round_ = (
        Message(role="assistant", tool_calls=calls),
        Message(role="tool", content="2", name="g"),
        Message(role="tool", content="1"),
    )
    made = sent(
        *HI,
        *round_,
        Message(role="assistant", tool_calls=(ToolCall("h", {}, "call_0"),)),
        Message(role="tool", content="3", tool_call_id="call_0"),
        *round_,
    )
    asked = [[one["id"] for one in message.get("tool_calls", ())] for message in made]
    answered = [message.get("tool_call_id") for message in made]
    assert asked[1] == ["call_1", "call_2"]  # call_0 is taken
    assert answered[2:4] == ["call_2", "call_1"]
    assert asked[6] == ["call_3", "call_4"]
    assert answered[7:] == ["call_4", "call_3"]


def test_answers_that_name_nothing_answer_the_calls_in_order() -> None:
    calls = (ToolCall("f", {}), ToolCall("f", {}))
    answers = (Message(role="tool", content="1"), Message(role="tool", content="2"))
    made = sent(*HI, Message(role="assistant", tool_calls=calls), *answers)
    assert [message["tool_call_id"] for message in made[2:]] == ["call_0", "call_1"]


def test_reasoning_is_echoed_only_where_a_server_wants_it() -> None:
    message = Message("assistant", "a", reasoning="hm")
    assert sent(message) == [{"role": "assistant", "content": "a"}]
    echoed = sent(message, profile=Profile(reasoning_echo="reasoning_content"))
    assert echoed[0]["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("provider", "model", "field", "role"),
    [
        ("openai", "gpt-5-mini", "max_completion_tokens", "developer"),
        ("openai", "o3", "max_completion_tokens", "developer"),
        ("openai", "o1-mini", "max_completion_tokens", "system"),
        ("azure", "gpt-5.6-sol", "max_completion_tokens", "developer"),
        ("openai", "gpt-4o", "max_tokens", "system"),
        ("openai", "omni-moderation", "max_tokens", "system"),
        ("compatible", "gpt-5-mini", "max_tokens", "system"),
        ("groq", "openai/gpt-oss-20b", "max_tokens", "system"),
    ],
)
def test_dialects(provider: str, model: str, field: str, role: str) -> None:
    request = ChatRequest((Message("system", "s"), Message("developer", "d"), *HI), max_tokens=9)
    got = body(request, profile_for(provider, model))
    assert got[field] == 9
    assert [message["role"] for message in got["messages"]] == [role, role, "user"]
    assert ("max_tokens" in got) == (field == "max_tokens")


@pytest.mark.parametrize(
    ("model", "reasoning", "takes"),
    [
        ("gpt-4o", None, True),
        ("o3", None, False),
        ("gpt-5", None, False),
        ("gpt-5", "none", False),
        ("gpt-5.5", None, False),
        ("gpt-5.5", "none", True),
        ("gpt-5.5", "low", False),
        ("gpt-5.1", None, True),
        ("gpt-5.1", "high", False),
        ("gpt-5.1-codex", None, False),
        ("gpt-5-chat-latest", None, True),
    ],
)
def test_a_model_that_reasons_takes_no_temperature(model: str, reasoning: Any, takes: bool) -> None:
    request = ChatRequest(HI, temperature=0.5, reasoning=reasoning)
    assert ("temperature" in body(request, profile_for("openai", model))) is takes


def test_the_least_reasoning_of_gpt_5_is_minimal() -> None:
    request = ChatRequest(HI, reasoning="none")
    assert body(request, profile_for("openai", "gpt-5-mini"))["reasoning_effort"] == "minimal"
    assert body(request, profile_for("openai", "gpt-5.1"))["reasoning_effort"] == "none"


def test_embeddings_name_no_format() -> None:
    assert body(EmbedRequest(("a", "b"))) == {"model": "m", "input": ["a", "b"]}


def test_what_has_no_json_form_is_a_config_error_that_names_the_field() -> None:
    with pytest.raises(ConfigError, match=r"^x: .* cannot be written as JSON: .*<class 'object'>"):
        body(ChatRequest(HI, extra={"x": object()}))
    with pytest.raises(ConfigError, match=r"^messages: the request cannot be written as JSON") as caught:
        body(ChatRequest((Message("user", "sesame \ud800"),)))
    assert "sesame" not in str(caught.value)
