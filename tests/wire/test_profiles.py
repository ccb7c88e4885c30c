"""What each server is sent: the rows of the table of dialects, and what a refusal makes of one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from resilient_llm._errors import AuthFailed, ConfigError, UnsupportedParameter
from resilient_llm._types import ChatRequest, Message, Reasoning, Tool, ToolCall
from resilient_llm.dialects import PROFILES, Profile, profile_for
from resilient_llm.testing._openai_rules import RULES, refusal_of, rules_of
from resilient_llm.wire._ollama_request import settings_from
from resilient_llm.wire._ollama_request import thinking as asked_of_ollama
from resilient_llm.wire._openai_learn import learned, told
from resilient_llm.wire._openai_request import chat_body, drops
from resilient_llm.wire.openai import OpenAICodec

HI = (Message("user", "hi"),)
TOOL = Tool("f", "does", {"type": "object"})
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def body(provider: str, model: str = "m", **asked: Any) -> dict[str, Any]:
    return chat_body(ChatRequest(HI, **asked), model, profile_for(provider, model), stream=True)


EVERYTHING: list[dict[str, Any]] = [
    {"max_tokens": 9},
    {"temperature": 0.5},
    {"seed": 7},
    {"stop": tuple("abcdefghijklmnopqrstu")},
    {"tools": (TOOL,), "tool_choice": "required"},
    {"tools": (TOOL,), "tool_choice": "f"},
    {"tools": (TOOL,), "tool_choice": "auto"},
    {"schema": SCHEMA},
    *({"reasoning": level} for level in ("none", "low", "medium", "high")),
]
STRICT = [
    ("openai", "gpt-4o"), ("openai", "gpt-5-mini"), ("openai", "gpt-5.5"), ("openai", "o3"), ("openai", "o1"),
    ("azure", "gpt-4.1"), ("mistral", "mistral-medium"), ("groq", "qwen/qwen3-32b"), ("groq", "openai/gpt-oss-20b"),
    ("groq", "llama-3.3-70b"), ("deepseek", "deepseek-chat"), ("moonshot", "kimi-k2.6"), ("gemini", "gemini-2.5-pro"),
    ("anthropic", "claude-sonnet-5"), ("openrouter", "x/y"), ("vllm", "qwen3"), ("tgi", "llama"), ("llamacpp", "q"),
    ("azure", "mistral-large-3"), ("zai", "glm-5.2"), ("dashscope", "qwen3-max"), ("litellm", "m"), ("sglang", "qwen3"),
]  # fmt: skip


@pytest.mark.parametrize(("server", "model"), STRICT)
def test_whatever_a_caller_asks_for_the_server_takes_what_it_is_sent(server: str, model: str) -> None:
    """No call needs a second request to find out what the table knows."""
    rules = rules_of(server, model)
    assert rules is not None
    for asked in EVERYTHING:
        assert refusal_of(body(server, model, **asked), rules) is None, asked


def test_every_strict_server_has_a_row_in_the_table_and_every_row_a_strict_server() -> None:
    known = "|".join(providers for providers, _, _ in PROFILES).split("|")
    assert {one for servers, _, _ in RULES for one in servers.split("|")} == set(known)


@pytest.mark.parametrize(
    ("provider", "model", "level", "fields"),
    [
        ("openai", "gpt-5-mini", "none", {"reasoning_effort": "minimal"}),
        ("openai", "gpt-5.1", "none", {"reasoning_effort": "none"}),
        ("openai", "o3", "none", {"reasoning_effort": "low"}),
        ("openai", "gpt-4o", "none", {}),
        ("openai", "gpt-4o", "high", {}),
        ("groq", "qwen/qwen3-32b", "low", {"reasoning_effort": "default"}),
        ("deepseek", "deepseek-v4", "none", {"thinking": {"type": "disabled"}}),
        ("deepseek", "deepseek-v4", "high", {"thinking": {"type": "enabled"}}),
        ("moonshot", "kimi-k3", "low", {"thinking": {"type": "enabled"}}),
        ("dashscope", "qwen3-max", "none", {"enable_thinking": False}),
        ("openrouter", "x/y", "none", {"reasoning": {"enabled": False}}),
        ("openrouter", "x/y", "medium", {"reasoning": {"effort": "medium"}}),
        ("anthropic", "claude-sonnet-5", "low", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("mistral", "mistral-medium", "low", {"reasoning_effort": "high"}),
        ("gemini", "gemini-2.5-flash", "low", {"reasoning_effort": "low"}),
        ("llamacpp", "qwen3", "none",
         {"chat_template_kwargs": {"enable_thinking": False, "reasoning_effort": "none"}}),
        ("compatible", "m", "medium", {"reasoning_effort": "medium"}),
    ],
)  # fmt: skip
def test_reasoning_in_each_servers_own_spelling(
    provider: str, model: str, level: Reasoning, fields: dict[str, Any]
) -> None:
    plain = body(provider, model)
    made = body(provider, model, reasoning=level)
    assert {name: value for name, value in made.items() if name not in plain} == fields


@pytest.mark.parametrize(("level", "think"), [("none", False), ("low", "low"), ("high", "high"), (None, None)])
def test_reasoning_in_the_spelling_of_ollama(level: Reasoning | None, think: object) -> None:
    assert asked_of_ollama(ChatRequest(HI, reasoning=level), settings_from("m", None, None, None, None)) == think


@pytest.mark.parametrize(
    ("provider", "asked", "dropped"),
    [
        ("openai", {"reasoning": "high"}, True),  # gpt-4o does not reason
        ("openai", {"reasoning": "none"}, False),
        ("openai", {"stop": tuple("abcd")}, False),
        ("openai", {"stop": tuple("abcde")}, True),
        ("deepseek", {"schema": SCHEMA}, True),
        ("deepseek", {"tools": (TOOL,), "tool_choice": "f"}, True),
        ("anthropic", {"seed": 1}, True),
        ("mistral", {"seed": 1, "tools": (TOOL,), "tool_choice": "required"}, False),
        ("compatible", {"max_tokens": 1, "seed": 1, "schema": SCHEMA, "reasoning": "high"}, False),
    ],
)
def test_what_is_left_out_is_told(provider: str, asked: dict[str, Any], dropped: bool) -> None:
    profile = profile_for(provider, "gpt-4o" if provider == "openai" else "m")
    assert drops(ChatRequest(HI, **asked), profile) is dropped


def test_a_schema_that_no_field_takes_stands_in_the_prompt() -> None:
    for provider, form in (("deepseek", {"type": "json_object"}), ("anthropic", None)):
        made = body(provider, schema=SCHEMA)
        assert made.get("response_format") == form
        assert made["messages"][0]["role"] == "system"
        assert json.dumps(SCHEMA, separators=(",", ":")) in made["messages"][0]["content"]
        assert "json" in made["messages"][0]["content"].lower()  # DeepSeek wants the word there


def test_a_tool_that_must_be_called_is_the_only_one_offered_where_that_is_all_one_can_say() -> None:
    made = body("deepseek", tools=(TOOL, replace(TOOL, name="g")), tool_choice="g")
    assert [one["function"]["name"] for one in made["tools"]] == ["g"]
    assert "tool_choice" not in made


@pytest.mark.parametrize(
    ("base", "parameter", "asked", "gone", "said"),
    [
        (Profile(), "temperature", {"temperature": 1.0}, "temperature", "no temperature"),
        (Profile(), "body.seed", {"seed": 1}, "seed", "no seed"),
        (Profile(), "stream_options", {}, "stream_options", "stream_usage is False"),
        (Profile(), "stream_options.include_usage", {}, "stream_options", "stream_usage is False"),
        (Profile(), "reasoning_effort", {"reasoning": "none"}, "reasoning_effort", "no reasoning='none'"),
        (Profile(), "logprobs", {"extra": {"logprobs": True}}, "logprobs", "no logprobs"),
        (Profile(), "tool_choice", {"tools": (TOOL,), "tool_choice": "required"}, "tool_choice", "no tool_choice"),
    ],
)  # fmt: skip
def test_a_field_that_was_refused_is_not_sent_again(
    base: Profile, parameter: str, asked: dict[str, Any], gone: str, said: str
) -> None:
    request = ChatRequest(HI, **asked)
    assert gone in chat_body(request, "m", base, stream=True)
    after = learned(base, parameter, request)
    assert after is not None
    assert gone not in chat_body(request, "m", after, stream=True)
    assert told(base, after) == said
    assert drops(request, after) is (gone != "stream_options")  # the caller did not ask for that one
    assert learned(after, parameter, request) is None  # nothing is learned twice


def test_one_name_of_the_cap_gives_way_to_the_other_and_then_to_none() -> None:
    request = ChatRequest(HI, max_tokens=9)
    second = learned(Profile(), "max_tokens", request)
    assert second is not None
    assert chat_body(request, "m", second, stream=False)["max_completion_tokens"] == 9
    assert not drops(request, second)
    third = learned(second, "max_completion_tokens", request)
    assert third is not None
    assert not {"max_tokens", "max_completion_tokens"} & chat_body(request, "m", third, stream=False).keys()
    assert drops(request, third)
    assert learned(third, "max_tokens", request) is None


def test_a_schema_goes_down_the_ladder_one_step_at_a_time() -> None:
    request = ChatRequest(HI, schema=SCHEMA)
    second = learned(Profile(), "response_format", request)
    assert second is not None
    assert second.schema == "json_object"
    third = learned(second, "response_format", request)
    assert third is not None
    assert third.schema == "prompt"
    assert learned(third, "response_format", request) is None


def test_a_level_of_reasoning_that_is_refused_takes_no_other_with_it() -> None:
    after = learned(Profile(), "reasoning_effort", ChatRequest(HI, reasoning="none"))
    assert after is not None
    assert chat_body(ChatRequest(HI, reasoning="low"), "m", after, stream=False)["reasoning_effort"] == "low"


def test_a_role_that_is_refused_gives_way() -> None:
    request = ChatRequest((Message("system", "s"), *HI))
    after = learned(profile_for("openai", "o3"), "messages[0].role", request)
    assert after is not None
    assert chat_body(request, "m", after, stream=False)["messages"][0]["role"] == "system"


@pytest.mark.parametrize(
    ("server", "field", "message"),
    [
        ("openai", "name", Message("user", "hi", name="ann")),
        ("deepseek", "reasoning_content", Message("assistant", "hi", reasoning="hm", tool_calls=(ToolCall("f", {}),))),
    ],
)
def test_a_field_of_a_message_that_is_refused_is_left_out(server: str, field: str, message: Message) -> None:
    def sent(profile: Profile) -> list[dict[str, Any]]:
        said = chat_body(ChatRequest((*HI, message)), "m", profile, stream=False)["messages"]
        return [one for one in said if field in one]

    before = profile_for(server, "m")
    after = learned(before, f"messages[1].{field}", ChatRequest((*HI, message)))
    assert after is not None
    assert (len(sent(before)), len(sent(after))) == (1, 0)


def test_tools_are_an_empty_list_where_a_history_with_calls_needs_some() -> None:
    calls = (Message("assistant", tool_calls=(ToolCall("f", {}, "a"),)), Message("tool", "1", tool_call_id="a"))
    request = ChatRequest((*HI, *calls))
    bodies = [chat_body(request, "m", profile_for(server, "m"), stream=False) for server in ("litellm", "openai")]
    assert [one.get("tools") for one in bodies] == [[], None]


@pytest.mark.parametrize("parameter", [None, "", "model", "messages", "messages[0].content", "tools", "stream", "nope"])
def test_what_a_request_cannot_do_without_is_never_dropped(parameter: str | None) -> None:
    assert learned(Profile(), parameter, ChatRequest(HI, tools=(TOOL,))) is None


def test_a_model_that_refuses_tools_lacks_them_from_then_on() -> None:
    codec = OpenAICodec("m")
    request = ChatRequest(HI, tools=(TOOL,))
    refusal = codec.error(400, {}, b'{"error":{"message":"no","param":"tools","code":"unsupported_parameter"}}')
    assert isinstance(refusal, UnsupportedParameter)
    assert refusal.falls_back
    assert codec.lacks(request) is None
    assert codec.learn(request, refusal) is False  # another route may take it; here it is not sent without them
    assert codec.lacks(request) == "the call needs tools, which this model does not take"
    assert codec.lacks(ChatRequest(HI)) is None
    assert codec.dialect == "compatible; learned: no tools"


def test_only_a_refused_field_teaches() -> None:
    codec = OpenAICodec("m")
    assert codec.learn(ChatRequest(HI, temperature=1.0), AuthFailed("no")) is False
    assert codec.profile == Profile()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_tokens_field": "max_output_tokens"}, "max_tokens_field: 'max_output_tokens' is not one of 'max_tokens'"),
        ({"system_role": "assistant"}, "system_role: 'assistant' is not one of"),
        ({"seed_field": "Seed"}, "seed_field: 'Seed' is not one of"),
        ({"schema": "xml"}, "schema: 'xml' is not one of"),
        ({"forced": "yes"}, "forced: 'yes' is not one of"),
        ({"reasoning_echo": "thoughts"}, "reasoning_echo: 'thoughts' is not one of"),
        ({"tool_ids": "["}, r"tool_ids: '\[' is not a pattern"),
        ({"tool_ids": None}, "tool_ids: None is not a pattern"),
        ({"refused": "stop"}, "refused: 'stop' is not a collection of names"),
        ({"refused": 3}, "refused: 3 is not a collection of names"),
        ({"lacks": {"smell"}}, r"lacks: \['smell'\] is not among tools, vision, schema"),
        ({"max_stop": 0}, "max_stop: 0 is not a whole number of 1 or more"),
        ({"reasoning": {"low": {}}}, "reasoning: fields, or None, are needed for each of none, low, medium, high"),
        ({"reasoning": None}, "reasoning: "),
    ],
)
def test_a_dialect_without_meaning_is_refused_when_it_is_made(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        Profile(**given)
    with pytest.raises(ConfigError):
        replace(profile_for("openai", "o3"), **given)


def test_lists_will_do_for_sets() -> None:
    made = Profile(refused=["stop"], lacks=["tools"])  # type: ignore[arg-type]
    assert "stop" not in chat_body(ChatRequest(HI, stop=("a",)), "m", made, stream=False)
    assert made == Profile(refused=frozenset({"stop"}), lacks=frozenset({"tools"}))
