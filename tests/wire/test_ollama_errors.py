"""What a refusal of Ollama means: its words decide, its statuses mislead."""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

import json
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import _errors as e
from resilient_llm._types import ChatRequest, Message
from resilient_llm.wire._ollama_errors import ROWS, STATUSES, in_band
from resilient_llm.wire.ollama import OllamaCodec

CODEC = OllamaCodec("m")
BUSY = "server busy, please try again.  maximum pending requests exceeded"
NESTED = json.dumps(
    {
        "error": {
            "code": 400,
            "message": "request (5321 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 5321,
            "n_ctx": 4096,
        }
    }
)
CRASH = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama server logs for details"
DIED = "llama-server process has terminated: exit status 2: CUDA error"


def error(status: int, text: str | bytes | dict[str, Any], **headers: str) -> e.LLMError:
    body = text if isinstance(text, bytes) else json.dumps({"error": text} if isinstance(text, str) else text).encode()
    return CODEC.error(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


# status, body, kind, fault, retryable, falls back
TABLE: list[tuple[int, Any, type[e.LLMError], str | None, bool, bool]] = [
    # the caller's request
    (400, "missing request body", e.BadRequest, "caller", False, False),
    (400, "invalid character 'x' looking for beginning of value", e.BadRequest, "caller", False, False),
    (400, "json: cannot unmarshal string into Go struct field ChatRequest.messages.tool_calls.function.arguments of type map", e.BadRequest, "caller", False, False),
    (400, "top_logprobs must be between 0 and 20", e.BadRequest, "caller", False, False),
    (400, '"m" does not support thinking', e.UnsupportedParameter, "caller", False, False),
    (400, "m does not support tools", e.UnsupportedParameter, "caller", False, True),
    (400, '"m" does not support generate', e.BadRequest, "caller", False, False),
    (400, '"m" does not support chat', e.BadRequest, "caller", False, False),
    (400, "model is required", e.BadRequest, "caller", False, False),
    (400, "raw mode does not support template, system, or context", e.BadRequest, "caller", False, False),
    (400, 'time: missing unit in duration "5"', e.BadRequest, "caller", False, False),
    (400, "illegal base64 data at input byte 0", e.BadRequest, "caller", False, False),
    (400, "json: cannot unmarshal string into Go struct field ChatRequest.think of type bool", e.UnsupportedParameter, "caller", False, False),
    (400, 'think value "low" is not supported for this model', e.UnsupportedParameter, "caller", False, False),
    (500, "Failed to create new sequence: missing data required for image input", e.UnsupportedParameter, "caller", False, True),
    (500, 'option "temperature" must be of type float32', e.BadRequest, "caller", False, False),
    (500, 'option "stop" must be of type array', e.BadRequest, "caller", False, False),
    (500, 'invalid format: "yaml"; expected "json" or a valid JSON Schema object', e.BadRequest, "caller", False, False),
    (500, "invalid JSON schema in format", e.BadRequest, "caller", False, False),
    # the window
    (400, "the prompt is longer than the context length currently available to the model; shorten the prompt or increase num_ctx", e.ContextOverflow, "caller", False, True),
    (400, NESTED, e.ContextOverflow, "caller", False, True),
    (400, "request (5321 tokens) exceeds the available context size (4096 tokens), try increasing it", e.ContextOverflow, "caller", False, True),
    (400, "input length (5321 tokens) exceeds the model's maximum context length (4096 tokens)", e.ContextOverflow, "caller", False, True),
    (400, "the input length exceeds the context length", e.ContextOverflow, "caller", False, True),
    (400, "input length exceeds maximum context length", e.ContextOverflow, "caller", False, True),  # 0.9.3
    # a crash behind /api/embed
    (400, DIED, e.ServerError, "backend", True, True),
    (400, "embedding contains NaN or Inf values", e.ServerError, "backend", True, True),
    (400, "failed to encode response: json: unsupported value: NaN", e.ServerError, "backend", True, True),
    (400, 'do embedding request: Post "http://127.0.0.1:4711/embedding": EOF', e.ServerError, "backend", True, True),
    # who may, and where
    (401, {"error": "unauthorized", "signin_url": "https://ollama.com/connect"}, e.AuthFailed, "caller", False, False),
    (403, b"", e.BadRequest, "caller", False, False),
    (404, "model 'x' not found", e.ModelNotFound, "caller", False, True),
    (404, 'model "x" not found, try pulling it first', e.ModelNotFound, "caller", False, True),
    (404, b"404 page not found", e.BadRequest, "caller", False, False),
    (405, b"405 method not allowed", e.BadRequest, "caller", False, False),
    (207, b"", e.Malformed, "backend", True, True),
    (307, b"", e.BadRequest, "caller", False, False),
    # too much
    (429, "you (u) have reached your session usage limit, upgrade for higher limits", e.QuotaExhausted, None, False, True),
    (503, "you (u) have reached your session usage limit", e.QuotaExhausted, None, False, True),
    (429, "too many requests", e.RateLimited, None, True, True),
    (503, "Server overloaded, please retry shortly (ref: 8c1b)", e.Overloaded, "backend", True, True),
    (503, BUSY, e.Overloaded, None, True, True),
    # the way, and the runner
    (408, b"", e.ServerError, "backend", True, True),
    (499, "request canceled", e.ServerError, None, True, True),
    (502, b"<html><h1>502 Bad Gateway</h1></html>", e.ServerError, "backend", True, True),
    (502, "cloud unreachable", e.ServerError, "backend", True, True),
    (504, b"", e.ServerError, "backend", True, True),
    (500, "timed out waiting for llama-server to start - progress 0.42", e.ServerError, "backend", True, True),
    (500, "timed out waiting for llama runner to start - progress 0.42 - ", e.ServerError, "backend", True, True),
    (500, DIED, e.ServerError, "backend", True, True),
    (500, "llama runner process has terminated: exit status 2", e.ServerError, "backend", True, True),
    (500, "llama-server process no longer running: -1", e.ServerError, "backend", True, True),
    (500, "unexpected server status: llm server loading model", e.ServerError, "backend", True, True),
    (500, "no slots available after 10 retries", e.ServerError, "backend", True, True),
    (500, CRASH, e.ServerError, "backend", True, True),
    (500, "something new", e.ServerError, "backend", True, True),
    # what the next time would not change here
    *(
        (500, f"llama-server process has terminated: {text}", e.ServerError, "backend", False, True)
        for text in (
            "llama-server reported out-of-memory during startup", "CUDA error: out of memory", "out of device memory",
            "cudaMalloc failed", "hipMalloc failed", "failed to allocate compute buffers", "allocation failed",
            "not enough memory", "insufficient memory", "vk_error_out_of_device_memory",
        )
    ),
    (500, "model requires more system memory (12.1 GiB) than is available (7.7 GiB)", e.ServerError, "backend", False, True),
    (500, "llama-server process has terminated: failed to load model '/m/x': this model may be incompatible with your version of Ollama. If you…", e.ServerError, "backend", False, True),
    # what the model wrote
    (500, "error parsing tool call: raw='{\"a\": secret', err=unexpected end of JSON input", e.OutputInvalid, None, True, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "text", "kind", "fault", "retryable", "falls_back"), TABLE, ids=[f"{row[0]} {str(row[1])[:40]}" for row in TABLE]
)  # fmt: skip
def test_every_refusal_is_what_it_says(
    status: int, text: Any, kind: type[e.LLMError], fault: str | None, retryable: bool, falls_back: bool
) -> None:
    found = error(status, text)
    facts = (type(found), found.fault, found.retryable, found.falls_back, found.status)
    assert facts == (kind, fault, retryable, falls_back, status)
    assert found.message


def test_every_row_is_used() -> None:
    """Each row of the code is the first to fit one here, so that none is untested or hidden behind another."""
    texts = [text if isinstance(text, str) else text["error"] for _, text, *_ in TABLE if not isinstance(text, bytes)]
    used = {next((row.pattern for row in ROWS if row.pattern.search(text)), None) for text in texts}
    assert [row.pattern for row in ROWS if row.pattern not in used] == []
    assert [some for some, _ in STATUSES if not {status for status, *_ in TABLE}.intersection(some)] == []


@pytest.mark.parametrize(
    "text",
    [
        NESTED,
        "request (5321 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "input length (5321 tokens) exceeds the model's maximum context length (4096 tokens)",
    ],
)
def test_an_overflow_carries_both_numbers(text: str) -> None:
    found = error(400, text)
    assert isinstance(found, e.ContextOverflow)
    assert (found.tokens, found.limit) == (5321, 4096)
    assert "5321 tokens" in found.message
    assert "{" not in found.message


def test_an_overflow_that_is_an_object_and_not_a_text_counts_too() -> None:
    found = error(400, json.loads(NESTED))
    assert isinstance(found, e.ContextOverflow)
    assert (found.tokens, found.limit, found.code) == (5321, 4096, "exceed_context_size_error")


@pytest.mark.parametrize("size", ["1" * 16, "9" * 5000])
def test_an_absurd_number_is_left_out(size: str) -> None:
    found = error(400, f"request ({size} tokens) exceeds the available context size (4096 tokens)")
    assert isinstance(found, e.ContextOverflow)
    assert (found.tokens, found.limit) == (None, 4096)


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ('"m" does not support thinking', "think"),
        ("m does not support tools", "tools"),
        ("json: cannot unmarshal string into Go struct field ChatRequest.think of type bool", "think"),
        ('think value "max" is not supported for this model', "think"),
        ("Failed to create new sequence: missing data required for image input", "images"),
    ],
)
def test_an_unsupported_field_is_named_as_the_request_has_it(text: str, parameter: str) -> None:
    found = error(400, text)
    assert isinstance(found, e.UnsupportedParameter)
    assert found.parameter == parameter


def test_a_model_that_is_missing_comes_with_the_command_that_brings_it() -> None:
    assert "`ollama pull qwen3:8b`" in error(404, 'model "qwen3:8b" not found, try pulling it first').message


@pytest.mark.parametrize(
    ("status", "word"), [(403, "OLLAMA_HOST"), (404, "base_url"), (405, "base_url"), (308, "base_url")]
)
def test_a_bare_status_comes_with_what_to_check(status: int, word: str) -> None:
    assert word in error(status, b"").message


@pytest.mark.parametrize("text", ["out of memory", "prompt is longer than the context length", "model 'x' not found"])
def test_what_the_model_wrote_decides_nothing_and_is_not_shown(text: str) -> None:
    found = error(500, f"error parsing tool call: raw='{text} secret', err=invalid character")
    assert type(found) is e.OutputInvalid
    assert text not in str(found)
    assert "secret" not in repr(found)


def test_a_key_that_a_gateway_echoes_is_not_shown() -> None:
    assert "sk-live-12345678" not in repr(error(401, "unauthorized: key sk-live-12345678 is not known"))


def test_a_gateway_may_say_how_long_to_wait() -> None:
    found = error(429, "too many requests", retry_after="7", x_request_id="req_1")
    assert (found.retry_after, found.request_id) == (7.0, "req_1")


def test_a_request_id_that_is_no_id_is_left_out() -> None:
    assert error(500, "x", x_request_id="\x1b[31m").request_id is None


IN_BAND: list[tuple[dict[str, Any], type[e.LLMError], str | None, bool]] = [
    ({"error": "an error was encountered while running the model: unexpected EOF"}, e.ServerError, "backend", True),
    ({"error": CRASH, "status": 500}, e.ServerError, "backend", True),
    ({"error": "invalid JSON schema in format"}, e.BadRequest, "caller", False),
    ({"error": "error parsing tool call: raw='secret', err=x"}, e.OutputInvalid, None, True),
    ({"error": "llama-server chat error: map[code:500 message:Context size has been exceeded. type:server_error]"}, e.ContextOverflow, "caller", False),
    ({"error": "llama-server chat error: map[code:500 message:Compute error. type:server_error]"}, e.ServerError, "backend", True),
    ({"error": NESTED}, e.ContextOverflow, "caller", False),
    ({"error": "CUDA error: out of memory"}, e.ServerError, "backend", False),
    ({"error": "too many requests", "status_code": 429}, e.RateLimited, None, True),
    ({"error": "Server overloaded, please retry shortly", "status": 503}, e.Overloaded, "backend", True),
    ({"error": "unauthorized", "status": 401}, e.AuthFailed, "caller", False),
    ({"error": {"message": "model 'x' not found", "code": 404}}, e.ModelNotFound, "caller", False),
    ({"error": "who knows"}, e.ServerError, "backend", True),
    ({"error": "who knows", "status": "pulling"}, e.ServerError, "backend", True),
    ({"error": 5}, e.ServerError, "backend", True),
    ({"error": ["x"]}, e.ServerError, "backend", True),
]  # fmt: skip


@pytest.mark.parametrize(("line", "kind", "fault", "retryable"), IN_BAND, ids=[str(row[0])[:60] for row in IN_BAND])
def test_an_error_after_a_200_is_what_it_says(
    line: dict[str, Any], kind: type[e.LLMError], fault: str | None, retryable: bool
) -> None:
    found = in_band(line)
    assert (type(found), found.fault, found.retryable) == (kind, fault, retryable)
    decoder = CODEC.decoder(ChatRequest((Message("user", "hi"),)), stream=True)
    with pytest.raises(kind):
        decoder.feed(json.dumps(line).encode() + b"\n")


def test_an_error_without_a_status_has_none() -> None:
    assert in_band({"error": "who knows"}).status is None
    assert in_band({"error": "who knows", "status": 200}).status is None
    assert in_band({"error": "too many", "status": 429}).status == 429


@pytest.mark.parametrize(
    "word", ['option "', "think value ", "model '", "failed to load model ", "cannot unmarshal x into "]
)
def test_a_long_text_costs_little(word: str) -> None:
    began = time.process_time()
    error(400, word * 200_000)
    assert time.process_time() - began < 0.5  # an open end takes minutes


@given(
    st.integers(100, 999),
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(lambda text: json.dumps({"error": text}).encode()),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "message", "type", "n_ctx", "n_prompt_tokens"]), inner, max_size=4), max_leaves=8).map(lambda value: json.dumps(value).encode()),
    ),
)  # fmt: skip
def test_whatever_comes_there_is_one_of_our_errors(status: int, body: bytes) -> None:
    found = CODEC.error(status, {}, body)
    assert isinstance(found, e.LLMError)
    assert found.message
    assert not any(unicodedata.category(character) == "Cc" for character in found.message)
    assert len(found.message) < 700
