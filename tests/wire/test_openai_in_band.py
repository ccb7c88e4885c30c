"""Errors in the body of a 200, answers in one piece, and what is not the protocol."""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from resilient_llm import _errors as e
from resilient_llm._replies import ReasoningDelta, TextDelta, Usage
from resilient_llm._types import ToolCall
from resilient_llm.wire.openai import OpenAICodec, profile_for

from .chunks import BROKEN, DONE, REQUEST, USAGE, call, chunk, decode, decoder, done, sse, text

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
