"""A history that came from one server is accepted by every other, and says what it said."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilient_llm._errors import UnsupportedParameter
from resilient_llm._types import ChatRequest, Image, Message, Tool, ToolCall
from resilient_llm.dialects import PROFILES, Profile, profile_for
from resilient_llm.testing._ollama_checks import refusal, refused_option
from resilient_llm.testing._openai_rules import refusal_of, rules_of
from resilient_llm.testing._script import Call
from resilient_llm.wire._ollama_request import encode_chat, settings_from
from resilient_llm.wire._openai_history import NO_RESULT, OPENING, history
from resilient_llm.wire._openai_request import chat_body

# A server, one of its models, and ids of tool calls as that server writes them.
SERVERS = [
    ("openai", "gpt-4o", r"call_[a-zA-Z0-9]{24}"),
    ("openai", "gpt-5-mini", r"call_[a-zA-Z0-9]{24}"),
    ("openai", "o1-mini", r"call_[a-zA-Z0-9]{24}"),
    ("azure", "gpt-4.1", r"call_[a-zA-Z0-9]{24}"),
    ("azure", "mistral-large-3", r"[a-zA-Z0-9]{9}"),
    ("mistral", "mistral-large-latest", r"[a-zA-Z0-9]{9}"),
    ("groq", "llama-3.3-70b", r"call_[a-z0-9]{4}"),
    ("groq", "qwen/qwen3-32b", r"[a-z0-9]{9}"),
    ("deepseek", "deepseek-chat", r"call_00_[a-zA-Z0-9]{24}"),
    ("moonshot", "kimi-k2.6", r"get_weather:[0-9]{1,2}"),
    ("openrouter", "anthropic/claude-sonnet-5", r"toolu_[a-zA-Z0-9]{24}|call_[0-9]{1,3}"),
    ("gemini", "gemini-2.5-flash", r"|function-call-[0-9]{19}|[a-f0-9+/=]{120}"),
    ("anthropic", "claude-haiku-4-5", r"toolu_01[a-zA-Z0-9]{22}"),
    ("litellm", "claude", r"toolu_[a-zA-Z0-9]{24}|call_[0-9]{1,3}"),
    ("zai", "glm-5.2", r"call_-[0-9]{19}"),
    ("dashscope", "qwen3-max", r"|call_[a-f0-9]{22}"),
    ("vllm", "qwen3", r"chatcmpl-tool-[a-f0-9]{32}"),
    ("sglang", "qwen3", r"call_[a-f0-9]{24}"),
    ("vllm", "mistral-small", r"[a-zA-Z0-9]{9}"),
    ("llamacpp", "gemma-3-4b", r"|[a-zA-Z0-9]{32}"),
    ("tgi", "llama", r"0|1"),
    ("lmstudio", "qwen", r"[0-9]{9}"),
]
OLLAMA = ("ollama", "qwen3", r"|call_[a-z0-9]{8}")
TARGETS = [(server, model) for server, model, _ in SERVERS]
TEXT = st.text(string.ascii_letters + " é中\n", max_size=12)
NAMES = st.sampled_from(["get_weather", "search", "default_api:get weather", "a.b"])


@st.composite
def turns(draw: st.DrawFn, server: str, ids: str) -> list[Message]:
    """A conversation as this server may have left it, whatever was cut out of it since."""
    route = f"{server}:m"
    said: list[Message] = [Message("system", draw(TEXT)) for _ in range(draw(st.integers(0, 2)))]
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["talk", "talk", "tools", "late system", "picture", "greeting"]))
        if kind == "late system":
            said.append(Message(draw(st.sampled_from(["system", "developer"])), draw(TEXT)))
        elif kind == "picture":
            image = Image(data="AAAA", media_type="image/png")
            role = draw(st.sampled_from(["user", "assistant", "tool"]))
            said.append(Message(role=role, content=draw(TEXT), images=(image,)))
        elif kind == "greeting":
            said.append(Message(role="assistant", content=draw(TEXT), reasoning=draw(st.none() | TEXT), route=route))
        elif kind == "talk":
            said += [Message("user", draw(TEXT)), Message(role="assistant", content=draw(TEXT), route=route)]
        else:
            said += draw(rounds(ids, route))
    dropped = draw(st.sets(st.integers(0, len(said) - 1), max_size=2))
    return [*(one for at, one in enumerate(said) if at not in dropped), Message("user", "and now?")]


@st.composite
def rounds(draw: st.DrawFn, ids: str, route: str) -> list[Message]:
    calls = tuple(
        ToolCall(draw(NAMES), {"x": draw(st.integers())}, draw(st.from_regex(ids, fullmatch=True)))
        for _ in range(draw(st.integers(1, 3)))
    )
    asked = Message(
        role="assistant",
        content=draw(st.just("") | TEXT),
        tool_calls=calls,
        reasoning=draw(st.none() | TEXT),
        route=route,
    )
    answers = [
        Message(
            role="tool", content=draw(TEXT), tool_call_id=call.id or None, name=draw(st.sampled_from([None, call.name]))
        )
        for call in calls
    ]
    between = draw(st.lists(st.just(Message("user", "well?")), max_size=1))
    return [Message("user", "do"), asked, *between, *draw(st.permutations(answers))]


def written(messages: Sequence[Message], server: str, model: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(chat_body(
        ChatRequest(tuple(messages), max_tokens=5), model, profile_for(server, model), stream=True)))  # fmt: skip
    return made


@pytest.mark.parametrize(("server", "model", "ids"), [*SERVERS, OLLAMA])
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_any_history_of_one_server_is_accepted_by_every_other(
    server: str, model: str, ids: str, data: st.DataObject
) -> None:
    messages = data.draw(turns(server, ids))
    call = encode_chat(ChatRequest(tuple(messages)), settings_from("m", None, None, None, None), None, stream=True)
    sent = Call("POST", "/api/chat", {}, json.loads(call.body))
    assert (refusal(sent), refused_option(sent)) == (None, None)
    for other, its in TARGETS:
        rules = rules_of(other, its)
        assert rules is not None
        body = written(messages, other, its)
        assert refusal_of(body, rules) is None, (other, its)
        assert written(messages, other, its) == body  # the same bytes: prompt caches hold
        # nothing that was said is lost
        whole = json.dumps(body["messages"], ensure_ascii=False)
        for message in messages:
            for word in message.content.split():
                assert json.dumps(word, ensure_ascii=False)[1:-1] in whole
        pictures = sum(len(message.images) for message in messages)
        assert whole.count('"image_url": {') == pictures


def test_every_dialect_that_is_known_is_among_them() -> None:
    assert {one for servers, _, _ in PROFILES for one in servers.split("|")} == {server for server, _ in TARGETS}


@pytest.mark.parametrize(("server", "model", "ids"), SERVERS)
def test_what_a_server_wrote_itself_goes_back_as_it_was(server: str, model: str, ids: str) -> None:
    calls = tuple(ToolCall("get_weather", {"x": at}, one) for at, one in enumerate(example_ids(ids)))
    results = [Message(role="tool", content="1", tool_call_id=call.id) for call in calls]
    messages = [Message("user", "do"), Message(role="assistant", content="so", tool_calls=calls), *results]
    body = written(messages, server, model)["messages"]
    assert [one["id"] for one in body[1]["tool_calls"]] == [call.id for call in calls]
    assert [one["tool_call_id"] for one in body[2:]] == [call.id for call in calls]
    assert [one["role"] for one in body] == ["user", "assistant", "tool", "tool"]


def example_ids(ids: str) -> list[str]:
    import re

    candidates = [
        *(f"call_{letter * 24}" for letter in "ab"), "abcdefgh1", "123456789", "call_ab1c", "call_1d2e",
        *(f"call_00_{letter * 24}" for letter in "ab"), "get_weather:0", "get_weather:1",
        *(f"toolu_{letter * 24}" for letter in "ab"), *(f"function-call-{digit * 19}" for digit in "12"),
        *(f"call_-{digit * 19}" for digit in "12"), *(f"call_{letter * 22}" for letter in "ab"),
        *(f"toolu_01{letter * 22}" for letter in "ab"), *(f"chatcmpl-tool-{letter * 32}" for letter in "ab"),
        *(letter * 32 for letter in "ab"), "0", "1", "12345678a", "23456789b", "987654321",
    ]  # fmt: skip
    fitting = [one for one in candidates if re.fullmatch(ids, one)]
    return fitting[:2]


def roles(messages: Sequence[Message], profile: Profile) -> list[str]:
    return [one["role"] for one in history(messages, profile)]


CALL = Message(role="assistant", tool_calls=(ToolCall("f", {}, "a"),))
RESULT = Message(role="tool", content="42", tool_call_id="a")


def test_a_result_that_came_late_stands_behind_its_call() -> None:
    late = [Message("user", "do"), CALL, Message("user", "well?"), RESULT]
    assert roles(late, Profile()) == ["user", "assistant", "tool", "user"]


def test_a_call_that_nobody_answered_is_said_not_to_have_been_made() -> None:
    made = history([Message("user", "do"), CALL, Message("user", "never mind")], Profile())
    assert made[2] == {"role": "tool", "tool_call_id": "a", "content": NO_RESULT}


def test_a_result_whose_call_is_gone_becomes_the_words_of_the_user() -> None:
    made = history([replace_name(RESULT, "f"), Message("user", "so?")], Profile())
    assert made[0] == {"role": "user", "content": "Result of f: 42"}


def replace_name(message: Message, name: str) -> Message:
    return message.model_copy(update={"name": name})


def test_ids_that_appear_twice_are_told_apart_and_the_results_with_them() -> None:
    """A server that sends no ids gets `call_0` for each first call of a reply."""
    twice = [Message("user", "do"), CALL, RESULT, CALL, RESULT.model_copy(update={"content": "43"})]
    made = history(twice, Profile())
    first, second = made[1]["tool_calls"][0]["id"], made[3]["tool_calls"][0]["id"]
    assert first == "a" != second
    assert [(made[at]["tool_call_id"], made[at]["content"]) for at in (2, 4)] == [(first, "42"), (second, "43")]


def test_an_answer_of_nothing_is_left_out_and_the_last_question_is_not() -> None:
    empty = [Message("user", "a"), Message("assistant", " "), Message("user", "")]
    assert history(empty, Profile()) == [{"role": "user", "content": "a"}, {"role": "user", "content": ""}]


def test_system_messages_are_joined_where_only_one_is_taken() -> None:
    said = [Message("system", "one"), Message("user", "a"), Message("developer", "two")]
    assert history(said, Profile(one_system=True)) == [
        {"role": "system", "content": "one\n\ntwo"},
        {"role": "user", "content": "a"},
    ]


def test_turns_are_joined_where_they_must_alternate() -> None:
    said = [Message("assistant", "hello"), Message("user", "a"), Message("user", "b")]
    assert history(said, Profile(alternates=True)) == [
        {"role": "user", "content": OPENING},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "a\n\nb"},
    ]


def test_a_tool_that_shows_a_picture_shows_it_as_the_user() -> None:
    shown = RESULT.model_copy(update={"images": (Image(data="AAAA"),)})
    made = history([Message("user", "do"), CALL, shown, Message("user", "so?")], Profile())
    assert [one["role"] for one in made] == ["user", "assistant", "tool", "user", "user"]
    assert made[3]["content"][0]["type"] == "image_url"


def test_names_of_tools_that_are_offered_are_never_changed() -> None:
    odd = Message(role="assistant", tool_calls=(ToolCall("my.tool", {}, "a"), ToolCall("your tool", {}, "b")))
    request = ChatRequest((Message("user", "do"), odd), tools=(Tool("my.tool", "", {}),))
    names = [
        one["function"]["name"] for one in chat_body(request, "m", Profile(), stream=False)["messages"][1]["tool_calls"]
    ]
    assert names == ["my.tool", "your_tool"]


def test_reasoning_that_is_required_is_there_if_only_empty() -> None:
    profile = profile_for("moonshot", "kimi-k2.6")
    made = history([Message("user", "do"), CALL, RESULT], profile)
    assert made[1]["reasoning_content"] == ""
    thought = history([Message("user", "do"), CALL.model_copy(update={"reasoning": "hm"}), RESULT], profile)
    assert thought[1]["reasoning_content"] == "hm"


def test_a_server_that_fetches_no_images_is_not_asked_to() -> None:
    asked = [Message(role="user", content="what?", images=(Image(url="https://x/y.png"),))]
    with pytest.raises(UnsupportedParameter) as caught:
        history(asked, replace(Profile("moonshot"), fetches_images=False))
    assert caught.value.falls_back
