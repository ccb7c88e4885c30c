"""What a refusal means, where a case of the corpus (`cases/`) does not say it: what it carries, and what never happens."""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import _errors as e
from resilient_llm.wire._openai_rows import CODES
from resilient_llm.wire._overflow import sizes
from resilient_llm.wire.openai import OpenAICodec

CODEC = OpenAICodec("m")


def error(status: int, body: Any, **headers: str) -> e.LLMError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CODEC.error(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def openai(message: str, type: str | None = None, code: Any = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def test_an_error_carries_what_the_server_told() -> None:
    got = error(429, openai("Slow", "requests", "rate_limit_exceeded"), retry_after="7", x_request_id="req_1")
    assert (got.retry_after, got.status, got.code, got.request_id) == (7.0, 429, "rate_limit_exceeded", "req_1")
    assert "HTTP 429: Slow" in str(got)


def test_a_402_with_retry_after_passes() -> None:
    assert type(error(402, openai("later"), retry_after="5")) is e.RateLimited


def test_a_request_larger_than_its_limit_is_oversize() -> None:
    got = error(
        429, openai("Request too large for gpt-4o: Limit 30000, Requested 30601.", "tokens", "rate_limit_exceeded")
    )
    assert isinstance(got, e.RateLimited)
    assert got.oversize
    fits = error(429, openai("Limit 30000, Used 29999, Requested 2.", "tokens", "rate_limit_exceeded"))
    assert isinstance(fits, e.RateLimited)
    assert not fits.oversize


@pytest.mark.parametrize(
    ("status", "body", "parameter"),
    [
        (400, openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "invalid_request_error", "unsupported_parameter", "max_tokens"), "max_tokens"),
        (400, openai("Unsupported parameter: 'max_tokens' is not supported with this model.", None, "unsupported_parameter"), "max_tokens"),
        (400, openai("'temperature' does not support 0.2 with this model.", None, "unsupported_value", "temperature"), "temperature"),
        (400, openai("Unrecognized request argument supplied: seed"), "seed"),
        (422, {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted", "input": "secret"}]}}, "stream_options"),
        (400, [{"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.', "status": "INVALID_ARGUMENT"}}], "seed"),
        (400, openai("This response_format type is unavailable now"), "response_format"),
        (400, openai("registry.ollama.ai/library/x does not support tools"), "tools"),
    ],
)  # fmt: skip
def test_a_refused_field_is_named(status: int, body: Any, parameter: str) -> None:
    got = error(status, body)
    assert isinstance(got, e.UnsupportedParameter)
    assert got.parameter == parameter


def test_a_429_is_no_overflow_whatever_it_says() -> None:
    assert type(error(429, openai("prompt is too long: 3 tokens > 2 maximum"))) is e.RateLimited


def test_what_the_server_echoes_is_not_shown() -> None:
    for text in (
        "1 validation error [type=x, input_value={'content': 'secret'}]",
        'Failed to parse tool call arguments as JSON: {"secret": 1',
    ):
        assert "secret" not in str(error(400, openai(text)))


def test_no_code_is_decided_twice() -> None:
    plain = [code for row in CODES for code in row.pattern.split("|") if code.isidentifier()]
    assert len(plain) == len(set(plain)) > 30


def test_the_search_for_numbers_is_quick_on_a_hostile_message() -> None:
    for text in ("context length of " * 4000, "model " * 9000, "1,1,1," * 9000, "limit: " + "1" * 50_000):
        began = time.process_time()
        sizes(text)
        assert isinstance(error(400, openai(text)), e.LLMError)
        assert time.process_time() - began < 5  # a search that goes back for each of its steps takes minutes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just('{"error": {"code": 7}}'),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "detail", "details", "metadata", "raw"]), inner),
    max_leaves=15,
)  # fmt: skip


@given(st.integers(100, 599), json_values, st.binary(max_size=30))
def test_any_body_ends_in_an_error(status: int, body: object, raw: bytes) -> None:
    assert isinstance(error(status, body), e.LLMError)
    assert isinstance(error(status, raw), e.LLMError)
