"""An answer from bytes to events: success means that the server said it was done, however the bytes are cut."""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import _errors as e
from resilient_llm._replies import Done, Usage
from resilient_llm.wire.openai import OpenAICodec

from .chunks import BROKEN, DONE, REQUEST, USAGE, call, chunk, decode, decoder, done, outcome, sse, text

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
    pieces = [body[start:end] for start, end in itertools.pairwise(at)]
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
