"""An answer from bytes to events: success means that the server said it was done, however the bytes are cut."""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import _errors as e
from resilient_llm._replies import Done, ReasoningDelta, TextDelta, Usage
from resilient_llm._types import ChatRequest, Message, ToolCall
from resilient_llm.wire import Decoder, WireEvent
from resilient_llm.wire.openai import OpenAICodec, profile_for

REQUEST = ChatRequest((Message("user", "hi"),))
DONE = b"data: [DONE]\n\n"


def decoder() -> Decoder:
    return OpenAICodec("m").decoder(REQUEST, stream=True)


def decode(pieces: Iterable[bytes]) -> list[WireEvent]:
    one = decoder()
    events: list[WireEvent] = []
    for piece in pieces:
        events += one.feed(piece)
    return events + one.close()


def outcome(pieces: Iterable[bytes]) -> tuple[list[WireEvent], type[e.LLMError] | None]:
    """All events and the error; text is joined, because its pieces may be cut anywhere."""
    one = decoder()
    events: list[WireEvent] = []
    try:
        for piece in pieces:
            events += one.feed(piece)
        events += one.close()
    except e.LLMError as error:
        return [], type(error)
    return events, None


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def chunk(delta: dict[str, Any] | None = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def call(**piece: Any) -> dict[str, Any]:
    names = {key: piece.pop(key) for key in ("name", "arguments") if key in piece}
    return chunk({"tool_calls": [{**piece, "function": names}]})


def text(events: list[WireEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls(events: list[WireEvent]) -> list[tuple[str, dict[str, Any], str]]:
    return [(event.name, event.arguments, event.id) for event in events if isinstance(event, ToolCall)]


def done(events: list[WireEvent]) -> Done:
    assert isinstance(events[-1], Done)
    assert sum(isinstance(event, Done) for event in events) == 1
    return events[-1]


USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
OPENAI = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5-mini","system_fingerprint":"fp_1",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],'
    b'"usage":null,"obfuscation":"xx"}\n\n'
    b'data: {"id":"chatcmpl-1","model":"gpt-5-mini","choices":[{"index":0,"delta":{"content":"Caf\xc3\xa9 "},"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"chatcmpl-1","model":"gpt-5-mini","choices":[{"index":0,"delta":{"content":"\xf0\x9f\x99\x82"},"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"chatcmpl-1","model":"gpt-5-mini","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
    b'data: {"id":"chatcmpl-1","model":"gpt-5-mini","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":4,"total_tokens":15,'
    b'"prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":2}}}\n\n' + DONE
)  # fmt: skip
LLAMA_CPP = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,"id":"chatcmpl-2",'
    b'"model":"tiny","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}\n\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hello"}}],"created":1,"model":"tiny"}\n\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"!"}}],"created":1,"model":"tiny"}\n\n'
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"created":1,"model":"tiny"}\n\n'
    b'data: {"choices":[],"created":1,"model":"tiny","usage":{"completion_tokens":4,"prompt_tokens":11,"total_tokens":15,'
    b'"prompt_tokens_details":{"cached_tokens":0}},"timings":{"prompt_n":11}}\n\n' + DONE
)  # fmt: skip
VLLM = (
    b'data: {"id":"c","object":"chat.completion.chunk","model":"q","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":{"prompt_tokens":9,"total_tokens":9,"completion_tokens":0}}\n\n'
    b'data: {"id":"c","model":"q","choices":[{"index":0,"delta":{"reasoning":"hm"},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":10,"completion_tokens":1}}\n\n'
    b'data: {"id":"c","model":"q","choices":[{"index":0,"delta":{"content":"yes"},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2}}\n\n'
    b'data: {"id":"c","model":"q","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}\n\n' + DONE
)  # fmt: skip
GROQ = (
    b'data: {"id":"g","model":"l","system_fingerprint":"fp_g","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"x_groq":{"id":"req_1"}}\n\n'
    b'data: {"id":"g","model":"l","choices":[{"index":0,"delta":{"tool_calls":[{"id":"call_a","type":"function","function":{"name":"w","arguments":"{\\"city\\":\\"Paris\\"}"},"index":0}]},"finish_reason":null}]}\n\n'
    b'data: {"id":"g","model":"l","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"x_groq":{"id":"req_1","usage":{"queue_time":0.25,"prompt_tokens":7,"completion_tokens":5}}}\n\n' + DONE
)  # fmt: skip
OPENROUTER = (
    b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
    + sse(
        chunk({"role": "assistant", "content": "one"}, native_finish_reason=None),
        chunk({"role": "assistant", "content": ""}, "stop"),
        chunk({"role": "assistant", "content": ""}, None, usage=USAGE),
    )
    + DONE
)
AZURE = (
    sse({"choices": [], "id": "", "model": "", "object": "", "prompt_filter_results": [{"prompt_index": 0}]})
    + sse(chunk({"role": "assistant", "content": "ok"}), chunk(finish="stop"))
    + DONE
)
BROKEN = (  # llama.cpp, a real error in mid-stream: no finish, no [DONE]
    sse(chunk({"role": "assistant", "content": None}), chunk({"content": "Hello"}))
    + b'data: {"error":{"code":500,"message":"The model produced output that does not match the expected peg-native format","type":"server_error"}}\n\n'
)  # fmt: skip
LLAMA_CPP_WHOLE = (
    b'{"choices":[{"finish_reason":"length","index":0,"message":{"role":"assistant","content":"Hello! This is"}}],"created":1,'
    b'"model":"tiny","system_fingerprint":"b0-unknown","object":"chat.completion","usage":{"completion_tokens":4,"prompt_tokens":11,'
    b'"total_tokens":15,"prompt_tokens_details":{"cached_tokens":0}},"id":"chatcmpl-3","timings":{"cache_n":0}}'
)  # fmt: skip
RECORDED = {
    "openai": (OPENAI, "Café 🙂", Done("stop", Usage(11, 4, 8, 2), "stop", "gpt-5-mini", "fp_1")),
    "llama.cpp": (
        LLAMA_CPP,
        "Hello!",
        Done("length", Usage(11, 4, 0), "length", "tiny", "b0-unknown", ("cut_at_length",)),
    ),
    "vllm": (VLLM, "yes", Done("stop", Usage(9, 3), "stop", "q")),
    "groq": (GROQ, "", Done("tool_calls", Usage(7, 5), "tool_calls", "l", "fp_g", server_queue=0.25)),
    "openrouter": (OPENROUTER, "one", Done("stop", Usage(11, 4), "stop", "m")),
    "azure": (AZURE, "ok", Done("stop", Usage(), "stop", "m")),
    "whole": (
        LLAMA_CPP_WHOLE,
        "Hello! This is",
        Done("length", Usage(11, 4, 0), "length", "tiny", "b0-unknown", ("cut_at_length",)),
    ),
}
BODIES = [*(body for body, _, _ in RECORDED.values()), BROKEN]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers(name: str) -> None:
    body, expected, end = RECORDED[name]
    events = decode([body])
    assert (text(events), done(events)) == (expected, end)


@given(st.sampled_from(BODIES), st.lists(st.integers(0, 3000), max_size=6))
def test_any_split_gives_the_same_events(body: bytes, cuts: list[int]) -> None:
    at = sorted({0, len(body), *(cut % len(body) for cut in cuts)})
    pieces = [body[start:end] for start, end in zip(at, at[1:], strict=False)]  # noqa: RUF007
    assert outcome(pieces) == outcome([body])


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("ends", [b"\r\n", b"\r"])
def test_line_ends_and_single_bytes_make_no_difference(body: bytes, ends: bytes) -> None:
    other = body.replace(b"\n", ends)
    assert outcome([bytes([one]) for one in other]) == outcome([body])


@given(st.sampled_from(BODIES), st.data())
def test_any_mutation_ends_in_events_or_a_known_error(body: bytes, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        gone = data.draw(st.integers(0, 40))
        put = data.draw(
            st.binary(max_size=4)
            | st.sampled_from([b"null", b"[]", b"{}", b"-1", b"1e999", b'"x"', b"[" * 300, b"\n\n"])
        )
        body = body[:at] + put + body[at + gone :]
    events, error = outcome([body])
    assert error is not None or isinstance(events[-1], Done)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats() | st.sampled_from(["", "a", "{}", "stop", "length"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "delta", "message", "content", "index", "finish_reason", "tool_calls", "function", "name", "id", "arguments", "usage", "prompt_tokens", "error", "reasoning", "type", "text", "thinking", "refusal"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=15,
)  # fmt: skip


@given(st.lists(values, max_size=3), values, st.booleans())
def test_any_json_ends_in_events_or_a_known_error(chunks: list[Any], delta: Any, whole: bool) -> None:
    shaped = {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}
    body = (
        json.dumps(shaped).encode()
        if whole
        else sse(shaped, *chunks, chunk(delta if isinstance(delta, dict) else {})) + DONE
    )
    events, error = outcome([body])
    assert error is not None or isinstance(events[-1], Done)


# --- complete or truncated


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        DONE,
        b": keep-alive\n\n",
        sse(chunk({"content": "half"})),
        sse(chunk({"content": "half"}, "")),
        sse(chunk({"content": "half"})) + b'data: {"choi',
        sse(chunk({"content": "half"})) + b"data: [DON",
        LLAMA_CPP_WHOLE[:-20],
        sse(call(index=0, id="a", name="f", arguments='{"a"')) + DONE,
        sse({"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "stop"}]}),
    ],
)
def test_an_end_without_a_finish_is_truncated(body: bytes) -> None:
    with pytest.raises(e.Truncated):
        decode([body])


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE] \n\n", b"data: [DONE]"])
def test_done_after_a_payload_completes_an_answer_that_gave_no_reason(end: bytes) -> None:
    events = decode([sse(chunk({"content": "all"})) + end])
    assert (text(events), done(events).finish_reason, done(events).raw_finish_reason) == ("all", "other", None)


def test_a_finish_completes_an_answer_whose_done_was_lost() -> None:
    events = decode([sse(chunk({"content": "all"}), chunk(finish="stop")) + b"data: [DO"])
    assert done(events).finish_reason == "stop"


def test_the_last_event_counts_without_its_blank_line() -> None:
    assert text(decode([sse(chunk({"content": "a"}), chunk({"content": "b"}, "stop")).rstrip()])) == "ab"


def test_finishing_is_true_from_the_finish_on() -> None:
    one = decoder()
    seen = [one.finishing]
    for piece in (sse(chunk({"content": "a"})), sse(chunk(finish="stop")), sse(chunk(usage=USAGE)), DONE):
        events = one.feed(piece)
        seen.append(one.finishing)
    assert seen == [False, False, True, True, True]
    assert done(events).usage.input_tokens == 11
    assert one.close() == []


def test_what_follows_done_is_not_read() -> None:
    assert (
        text(decode([sse(chunk({"content": "a"}, "stop")) + DONE + sse(chunk({"content": "b"})) + b"data: ?\n\n"]))
        == "a"
    )


@pytest.mark.parametrize(
    ("raw", "finish"),
    [("stop", "stop"), ("eos", "stop"), ("length", "length"), ("max_tokens", "length"), ("function_call", "tool_calls"), ("content_filter", "content_filter"), ("model_context_window_exceeded", "length"), ("whatever", "other")],
)  # fmt: skip
def test_finish_vocabulary(raw: str, finish: str) -> None:
    end = done(decode([sse(chunk({"content": "a"}, raw))]))
    assert (end.finish_reason, end.raw_finish_reason) == (finish, raw)
    assert end.degraded == (("cut_at_length",) if finish == "length" else ())


def test_the_first_finish_that_says_something_wins() -> None:
    body = sse(chunk({"content": "a"}, ""), chunk({}, "length"), chunk({}, "stop"), chunk({}, None))
    assert done(decode([body])).raw_finish_reason == "length"


# --- nothing said


@pytest.mark.parametrize(
    ("finish", "kind"),
    [("stop", e.EmptyReply), ("length", e.EmptyReply), ("content_filter", e.ContentFiltered), ("model_context_window_exceeded", e.ContextOverflow)],
)  # fmt: skip
def test_an_answer_with_nothing_in_it_is_no_answer(finish: str, kind: type[e.LLMError]) -> None:
    for delta in ({}, {"content": None}, {"content": "", "tool_calls": None}):
        with pytest.raises(kind):
            decode([sse(chunk({"role": "assistant"}), chunk(delta, finish)) + DONE])


@pytest.mark.parametrize("body", [b'{"choices":null}', b'{"choices":[]}', sse(chunk({"content": ""})) + DONE])
def test_choices_without_a_word_are_an_empty_reply(body: bytes) -> None:
    with pytest.raises(e.EmptyReply):
        decode([body])


@pytest.mark.parametrize("delta", [{"reasoning": "hm"}, {"refusal": "no"}])
def test_reasoning_or_a_refusal_alone_is_not_empty(delta: dict[str, str]) -> None:
    assert done(decode([sse(chunk(delta, "stop"))])).finish_reason == "stop"


@pytest.mark.parametrize(
    ("limit", "usage", "told"),
    [
        (64, None, "the limit of 64 tokens was spent before any text"),
        (None, {"completion_tokens": 32}, "the limit of 32 tokens was spent"),
        (64, {"completion_tokens": 64, "completion_tokens_details": {"reasoning_tokens": 60}}, "60 tokens of it on reasoning"),
        (None, None, "the token limit was spent before any text"),
    ],
)  # fmt: skip
def test_a_limit_that_was_spent_before_the_first_word_is_named(limit: int | None, usage: Any, told: str) -> None:
    one = OpenAICodec("m").decoder(replace(REQUEST, max_tokens=limit), stream=True)
    one.feed(sse(chunk({"content": ""}, "length", usage=usage)))
    with pytest.raises(e.EmptyReply, match=told) as caught:
        one.close()
    assert (caught.value.retryable, caught.value.falls_back) == (False, True)  # it would be spent again


def test_visible_reasoning_that_used_up_the_limit_is_an_answer_and_is_told() -> None:
    end = done(decode([sse(chunk({"reasoning": "hm"}), chunk({"content": ""}, "length"))]))
    assert end.degraded == ("cut_at_length", "thinking_ate_budget")


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


# --- errors in the body of a 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (sse({"error": {"message": "The server had an error", "type": "server_error"}}) + DONE, e.ServerError, None),
        (sse({"error": {"message": "boom", "type": "x", "code": 500}}) + DONE, e.ServerError, 500),
        (sse({"error": "text", "error_type": "overloaded"}), e.Overloaded, None),
        (b"event: error\n" + sse({"error": {"message": "rate", "status_code": 429}}), e.RateLimited, 429),
        (b"event: error\ndata: Compute error.\n\n", e.ServerError, None),
        (b"event: error\n" + sse({"error": {"message": "Context size has been exceeded."}}), e.ContextOverflow, None),
        (sse(chunk({}, "error", error={"code": 502, "message": "upstream"})), e.ServerError, 502),
        (sse({"choices": [], "error": {"code": 429, "message": "slow"}}), e.RateLimited, 429),
        (sse(chunk({}, "error")), e.ServerError, None),
        (sse(chunk({"content": "a"}, "abort")), e.Truncated, None),
        (sse([{"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}]), e.Overloaded, 503),
        (sse({"object": "error", "message": "no", "type": "BadRequest", "code": 400}), e.BadRequest, 400),
        (b'{"error":{"code":429,"message":"Rate limit"}}', e.RateLimited, 429),
        (b'[{"error":{"code":503,"message":"x","status":"UNAVAILABLE"}}]', e.Overloaded, 503),
        (b'{"detail":"Not authorised"}', e.ServerError, None),
        (b"\n\n \n" + b'{"error":{"message":"no","code":"model_not_found"}}', e.ModelNotFound, None),
        (BROKEN, e.OutputInvalid, 500),
    ],
)  # fmt: skip
def test_errors_inside_a_200(body: bytes, kind: type[e.LLMError], status: int | None) -> None:
    with pytest.raises(e.LLMError) as caught:
        decode([body])
    assert (type(caught.value), caught.value.status) == (kind, status)


def test_an_error_is_raised_when_it_arrives_and_not_at_the_end() -> None:
    with pytest.raises(e.ServerError):
        decoder().feed(sse({"error": {"message": "boom"}}))


def test_an_error_beside_text_is_not_passed_over() -> None:
    with pytest.raises(e.ServerError):
        decode([sse(chunk({"content": "a"}), chunk({"content": "b"}, error={"message": "boom"}), chunk({}, "stop"))])


def test_a_null_error_is_none() -> None:
    assert text(decode([sse(chunk({"content": "a"}, error=None), chunk({"content": "b"}, "stop", error=None))])) == "ab"


# --- in one piece


def whole(message: Any, finish: Any, **more: Any) -> bytes:
    return json.dumps(
        {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}
    ).encode()


def test_an_answer_in_one_piece() -> None:
    function = {"name": "f", "arguments": '{"x": 1}'}
    message = {
        "role": "assistant",
        "content": "a",
        "reasoning": "hm",
        "tool_calls": [{"id": "i", "function": function}],
    }
    events = decode([b"\xef\xbb\xbf \n", whole(message, "tool_calls", usage=USAGE)])
    assert events[:-1] == [ReasoningDelta("hm"), TextDelta("a"), ToolCall("f", {"x": 1}, "i")]
    assert done(events).usage == Usage(11, 4)


def test_a_missing_reason_is_taken_for_stop_only_where_something_was_said() -> None:
    end = done(decode([whole({"content": "a"}, None)]))
    assert (end.finish_reason, end.raw_finish_reason) == ("stop", None)
    with pytest.raises(e.Truncated):
        decode([whole({"content": ""}, None)])


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"{}", b"[]", b"{]", b'{"choices":5}', b'{"choices":[5]}', b'{"a":1}x', b'{"a":"\xff"}', b"[" * 9000 + b"]", b"data: {]\n\n", b"data: 5\n\n", b"data: text\n\n", b"data: \xff\n\n", sse(chunk({"content": 5})), sse(chunk({"tool_calls": 5})), sse(chunk({"tool_calls": ["a"]})), sse(chunk({"content": "a"}, 7)), sse(chunk({"reasoning": ["a"]})), sse({"choices": {"0": 1}}), sse({"choices": [{"delta": "a"}]}), sse({"choices": [{"index": "0", "delta": {"content": "a"}}]}), sse(call(index="0", name="f", arguments="{}")), sse(call(index=0, name=5)), sse(call(index=0, arguments=5))],
)  # fmt: skip
def test_what_is_not_the_protocol_is_malformed(body: bytes) -> None:
    with pytest.raises(e.Malformed):
        decode([body])


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient_llm.wire._openai_stream.MAX_BODY", 1000)
    one = decoder()
    one.feed(b"{" + b" " * 999)
    with pytest.raises(e.Malformed):
        one.feed(b" ")
    long = decoder()
    with pytest.raises(e.Malformed):
        long.feed(b"data: " + b"x" * 8 * 1024 * 1024)


def test_a_temperature_that_the_model_refuses_is_left_out_and_told() -> None:
    codec = OpenAICodec("gpt-5-mini", profile=profile_for("openai", "gpt-5-mini"))
    one = codec.decoder(replace(REQUEST, temperature=0.2), stream=True)
    one.feed(sse(chunk({"content": "a"}, "stop")))
    assert done(one.close()).degraded == ("field_dropped",)
