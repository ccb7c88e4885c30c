"""What comes in pieces: reasoning, content, usage and tool calls, however a server numbers them."""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm import _errors as e
from resilient_llm._replies import ReasoningDelta, TextDelta, Usage

from .chunks import DONE, call, calls, chunk, decode, decoder, done, sse, text

# --- pieces


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "reasoning_text"])
def test_reasoning_under_its_names(name: str) -> None:
    events = decode([sse(chunk({name: "hm"}), chunk({"content": "a", name: ""}, "stop"))])
    assert events[:-1] == [ReasoningDelta("hm"), TextDelta("a")]


def test_reasoning_sent_twice_is_told_once() -> None:
    events = decode([sse(chunk({"reasoning": "hm", "reasoning_content": "hm"}, "stop"))])
    assert events[:-1] == [ReasoningDelta("hm")]


def test_content_in_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thinking, {"type": "text", "text": "a"}, {"type": "image_url"}]
    events = decode([sse(chunk({"content": parts}), chunk({"content": "b"}, "stop"))])
    assert events[:-1] == [ReasoningDelta("hm"), TextDelta("a"), TextDelta("b")]


def test_only_choice_0_is_read() -> None:
    other = {"model": "m", "choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    plain = {"model": "m", "choices": [{"index": 1, "delta": {"content": "no"}}]}
    events = decode([sse(other, plain, chunk({"content": "a"}), other, plain, chunk({}, "stop"), other, plain)])
    assert (text(events), done(events).finish_reason) == ("a", "stop")


def test_usage_is_the_largest_seen_and_never_a_sum() -> None:
    seen = [chunk({"content": "a"}, usage={"prompt_tokens": 5, "completion_tokens": n}) for n in (1, 2, 3)]
    moonshot = {
        "model": "m",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 6}}],
    }
    assert done(decode([sse(*seen, moonshot)])).usage == Usage(6, 3)


@pytest.mark.parametrize("usage", [[], "x", {"prompt_tokens": "12"}, {"prompt_tokens": -1}, {"prompt_tokens": True}])
def test_an_answer_does_not_die_of_its_usage(usage: object) -> None:
    assert done(decode([sse(chunk({"content": "a"}, "stop", usage=usage))])).usage == Usage()


# --- tool calls


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([call(index=0, id="a", name="f", arguments=""), call(index=0, arguments='{"x"'), call(index=0, arguments=":1}")], [("f", {"x": 1}, "a")]),
        ([call(id="a", name="f", arguments='{"x":1}')], [("f", {"x": 1}, "a")]),
        ([call(index=0, id="a", name="f", arguments="{}"), call(index=0, id="b", name="g", arguments="{}")], [("f", {}, "a"), ("g", {}, "b")]),
        ([call(index=0, name="f", arguments=""), call(index=0, id="b", name="g", arguments="{}")], [("f", {}, "call_0"), ("g", {}, "b")]),
        ([call(index=0, name="f", arguments=""), call(index=0, id="b", name="f", arguments="{}")], [("f", {}, "b")]),
        ([call(index=1, id="a", name="f", arguments="{"), call(index=1, arguments="}")], [("f", {}, "a")]),
        ([call(index=0, id="a", name="f", arguments="{"), call(index=0, id="", arguments="}")], [("f", {}, "a")]),
        ([call(index=0, id="a", name="f", arguments="{"), call(index=0, id="a", name="f", arguments="}")], [("f", {}, "a")]),
        ([call(index=0, name="f", arguments="{"), call(index=0, id="late", arguments="}")], [("f", {}, "late")]),
        ([call(index=0, name="f", arguments='{"x":'), call(index=1, name="g", arguments='{"y":'), call(index=0, arguments="1}"), call(index=1, arguments="2}")], [("f", {"x": 1}, "call_0"), ("g", {"y": 2}, "call_1")]),
        ([call(name="f", arguments='{"x":1}'), call(name="f", arguments='{"x":2}')], [("f", {"x": 1}, "call_0"), ("f", {"x": 2}, "call_1")]),
        ([call(index=0, id="a", name="f", arguments="{}"), call(index=0, id="b", arguments="{}"), call(index=0, id="b", name="g")], [("f", {}, "a"), ("g", {}, "b")]),
        ([call(name="f", arguments='{"x"'), call(arguments=":1}")], [("f", {"x": 1}, "call_0")]),
        ([call(index=0, id="a", name="f", arguments=None)], [("f", {}, "a")]),
        ([call(index=0, id="a", name="f", arguments={"x": 1})], [("f", {"x": 1}, "a")]),
        ([chunk({"content": "t", "tool_calls": None}), call(index=0, id="a", name="f", arguments="null")], [("f", {}, "a")]),
    ],
)  # fmt: skip
def test_tool_calls_are_assembled(pieces: list[Any], expected: list[Any]) -> None:
    events = decode([sse(*pieces, chunk(finish="tool_calls")) + DONE])
    assert calls(events) == expected


def test_calls_come_whole_at_the_end_and_stop_becomes_tool_calls() -> None:
    one = decoder()
    assert one.feed(sse(call(index=0, id="a", name="f", arguments="{}"), chunk(finish="stop"))) == []
    events = one.feed(DONE)
    assert calls(events) == [("f", {}, "a")]
    assert (done(events).finish_reason, done(events).raw_finish_reason) == ("tool_calls", "stop")


@pytest.mark.parametrize("arguments", ['{"city":\n "Paris",\n "days"', "{", ""])
def test_half_a_call_is_dropped_where_the_limit_cut_it(arguments: str) -> None:
    whole = call(index=0, id="a", name="f", arguments="{}")
    events = decode([sse(whole, call(index=1, id="b", name="g", arguments=arguments), chunk(finish="length"))])
    assert calls(events) == [("f", {}, "a")]
    assert done(events).finish_reason == "length"
    assert done(events).degraded == ("cut_at_length",)


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"', "{}{}", "{'a': 1}", '{"a":NaN}', "[" * 5000])
def test_a_call_that_is_no_json_object_is_the_models_fault(arguments: str) -> None:
    with pytest.raises(e.OutputInvalid):
        decode([sse(call(index=0, id="a", name="f", arguments=arguments), chunk(finish="tool_calls"))])


def test_a_call_without_a_name_is_the_models_fault() -> None:
    with pytest.raises(e.OutputInvalid):
        decode([sse(call(index=0, id="a", arguments="{}"), chunk(finish="tool_calls"))])
