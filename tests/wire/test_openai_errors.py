"""What a refusal means: a table from what servers send to our errors, and the detector of an overflow."""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import _errors as e
from resilient_llm.wire._openai_rows import CODES
from resilient_llm.wire._overflow import is_overflow, sizes
from resilient_llm.wire.openai import OpenAICodec

CODEC = OpenAICodec("m")


def error(status: int, body: Any, **headers: str) -> e.LLMError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CODEC.error(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def openai(message: str, type: str | None = None, code: Any = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


# status, body, kind, fault, retryable
TABLE: list[tuple[str, int, Any, type[e.LLMError], str | None, bool]] = [
    ("openai rate", 429, openai("Rate limit reached for gpt-4o … Limit 30000, Used 29000, Requested 2000.", "tokens", "rate_limit_exceeded"), e.RateLimited, None, True),
    ("openai slow down", 429, openai("Slow down", "rate_limit_error", "slow_down"), e.Overloaded, None, True),
    ("openai quota", 429, openai("You exceeded your current quota, please check your plan", "insufficient_quota", "insufficient_quota"), e.QuotaExhausted, None, False),
    ("openai spend limit", 429, openai("Limit", "insufficient_quota", "project_spend_limit_exceeded"), e.QuotaExhausted, None, False),
    ("openai overloaded", 503, openai("The server is overloaded", "service_unavailable_error", "server_is_overloaded"), e.Overloaded, "backend", True),
    ("openai key", 401, openai("Incorrect API key provided: sk-abcd****wxyz.", "invalid_request_error", "invalid_api_key"), e.AuthFailed, "caller", False),
    ("openai model", 404, openai("The model `gpt-9` does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"), e.ModelNotFound, "caller", False),
    ("openai policy", 400, openai("Invalid prompt: your prompt was flagged as potentially violating our usage policy.", "invalid_request_error", "invalid_prompt"), e.ContentFiltered, "caller", False),
    ("openai plain 400", 400, openai("'messages' is a required property", "invalid_request_error"), e.BadRequest, "caller", False),
    ("openai 500", 500, openai("The server had an error while processing your request.", "server_error"), e.ServerError, "backend", True),
    ("azure deployment", 404, openai("The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait", None, "DeploymentNotFound"), e.ModelNotFound, "caller", False),
    ("azure rate", 429, openai("Requests have exceeded call rate limit. Please retry after 6 seconds.", None, "429"), e.RateLimited, None, True),
    ("azure day", 429, openai("Please retry after 86400 seconds.", None, "429"), e.QuotaExhausted, None, False),
    ("azure filter", 400, {"error": {"message": "The response was filtered", "code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, e.ContentFiltered, "caller", False),
    ("azure busy", 429, openai("System is experiencing high demand.", None, "429"), e.Overloaded, "backend", True),
    ("groq too large", 413, openai("Request too large for model … Limit 6000, Requested 7301", "tokens", "rate_limit_exceeded"), e.RateLimited, None, False),
    ("groq flex", 498, openai("Flex tier capacity exceeded", None, "capacity_exceeded"), e.Overloaded, "backend", True),
    ("groq tool", 400, {"error": {"message": "Failed to call a function.", "code": "tool_use_failed", "failed_generation": "secret"}}, e.OutputInvalid, None, True),
    ("groq output cap", 400, openai("`max_completion_tokens` must be less than or equal to `40960`, the maximum value for `max_completion_tokens` is less than the `context_window` for this model"), e.BadRequest, "caller", False),
    ("mistral rate", 429, {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None, "code": "1300", "raw_status_code": 429}, e.RateLimited, None, True),
    ("mistral capacity", 429, {"object": "error", "message": "Service tier capacity exceeded for this model.", "type": "x", "code": "3505"}, e.Overloaded, "backend", True),
    ("deepseek balance", 402, openai("Insufficient Balance"), e.QuotaExhausted, None, False),
    ("together platform", 503, openai("Service unavailable"), e.Overloaded, "backend", True),
    ("fireworks account", 412, openai("Account suspended"), e.QuotaExhausted, None, False),
    ("fireworks apigee", 429, {"fault": {"faultstring": "Spike arrest", "detail": {"errorcode": "policies.ratelimit"}}}, e.RateLimited, None, True),
    ("openrouter day", 429, {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day", "metadata": {"limit_source": "openrouter_free_tier_daily"}}}, e.QuotaExhausted, None, False),
    ("openrouter credits", 402, {"error": {"code": 402, "message": "More credits needed", "metadata": {"error_type": "payment_required"}}}, e.QuotaExhausted, None, False),
    ("openrouter in flight", 402, {"error": {"code": 402, "message": "Budget in flight", "metadata": {"error_type": "in_flight_budget_exhausted"}}}, e.RateLimited, None, True),
    ("gemini key", 400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}], e.AuthFailed, "caller", False),
    ("gemini rate", 429, [{"error": {"code": 429, "message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "34.4s"}]}}], e.RateLimited, None, True),
    ("gemini day", 429, [{"error": {"code": 429, "message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED", "details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}, {"retryDelay": "3s"}]}}], e.QuotaExhausted, None, False),
    ("gemini overloaded", 503, [{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}], e.Overloaded, "backend", True),
    ("vllm model", 404, {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}}, e.ModelNotFound, "caller", False),
    ("vllm busy", 503, openai("The engine is currently busy", "Service Unavailable"), e.Overloaded, None, True),
    ("sglang queue", 503, {"object": "error", "message": "The request queue is full.", "type": "503", "param": None, "code": 503}, e.Overloaded, None, True),
    ("tgi overloaded", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, e.Overloaded, "backend", True),
    ("llama.cpp loading", 503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, e.Overloaded, None, True),
    ("llama.cpp role", 500, {"error": {"code": 500, "message": "Missing 'role' in message: {\"content\":\"secret\"}", "type": "server_error"}}, e.BadRequest, "caller", False),
    ("llama.cpp tools", 500, {"error": {"code": 500, "message": "Expected 'tools' to be an array, got 5", "type": "server_error"}}, e.BadRequest, "caller", False),
    ("llama.cpp embeddings off", 501, {"error": {"code": 501, "message": "This server does not support embeddings.", "type": "not_supported_error"}}, e.BadRequest, "caller", False),
    ("llama.cpp peg", 500, {"error": {"code": 500, "message": "The model produced output that does not match the expected peg-native format", "type": "server_error"}}, e.OutputInvalid, None, True),
    ("ollama model", 404, openai("model 'x' not found", "not_found_error"), e.ModelNotFound, "caller", False),
    ("ollama busy", 503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, e.Overloaded, None, True),
    ("litellm class", 500, openai("litellm.RateLimitError: RateLimitError: OpenAIException", None, "500"), e.RateLimited, None, True),
    ("litellm says 429", 500, openai("litellm.APIError: upstream", None, "429"), e.RateLimited, None, True),
    ("anthropic", 529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, e.Overloaded, "backend", True),
    ("json in a string", 400, {"error": {"message": json.dumps(openai("no", None, "context_length_exceeded"))}}, e.ContextOverflow, "caller", False),
    ("json in an error", 400, {"error": json.dumps(openai("no", None, "model_not_found"))}, e.ModelNotFound, "caller", False),
    ("upstream of openrouter", 400, {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(openai("no", None, "context_length_exceeded"))}}}, e.ContextOverflow, "caller", False),
    ("html 502", 502, b"<html><body>model not found</body></html>", e.ServerError, "backend", True),
    ("html 404", 404, b"<html>Not Found</html>", e.BadRequest, "caller", False),
    ("empty 429", 429, b"", e.RateLimited, None, True),
    ("empty words", 400, {"error": {"message": "", "code": "", "type": ""}}, e.BadRequest, "caller", False),
    ("plain text 401", 401, b"Unauthorized", e.AuthFailed, "caller", False),
    ("403", 403, b"", e.AuthFailed, "caller", False),
    ("524", 524, b"", e.ServerError, "backend", True),
    ("408", 408, b"", e.ServerError, "backend", True),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_table(row: tuple[str, int, Any, type[e.LLMError], str | None, bool]) -> None:
    _, status, body, kind, fault, retryable = row
    got = error(status, body)
    assert (type(got), got.fault, got.retryable, got.status) == (kind, fault, retryable, status)
    assert "secret" not in str(got)


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


OVERFLOWS = [
    ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. Please reduce the length of the messages.", 9001, 8192),
    ("Your input exceeds the context window of this model. Please adjust your input and try again.", None, None),
    ("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300123 tokens.", 300123, 272000),
    ("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, 1000 in the completion).", 8000, 8192),
    ("Please reduce the length of the messages or completion.", None, None),
    ("Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", 40000, 32768),
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens and 512 `max_new_tokens`", 9000, 8193),
    ("Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", 5000, 4096),
    ("The prompt is too long: 40177, model maximum context length: 32767", 40177, 32767),
    ("This endpoint's maximum context length is 131072 tokens. However, you requested about 140000 tokens (139000 of text input, 1000 in the output).", 139000, 131072),
    ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048575).", 1200000, 1048575),
    ("prompt is too long: 210000 tokens > 200000 maximum", 210000, 200000),
    ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", 190000, 200000),
    ("This model's maximum context length is 8192 tokens. However, your request has 8193 input tokens. (parameter=input_tokens, value=8193)", 8193, 8192),
    ("The decoder prompt (length 9000) is longer than the maximum model length of 8192.", 9000, 8192),
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 5000, 4096),
    ("request (1409 tokens) exceeds the available context size (256 tokens), try increasing it", 1409, 256),
    ("the prompt is longer than the context length currently available to the model", None, None),
    ("input length (9000 tokens) exceeds the model's maximum context length (8192 tokens)", 9000, 8192),
    ("The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 5000 >= n_ctx: 4096)", 5000, 4096),
    ("Context size has been exceeded.", None, None),
    ("This model's maximum prompt length is 131,072 but the request contains 140,000 tokens.", 140000, 131072),
    ("Invalid request: Your request exceeded model token limit: 262144 (requested: 300000)", 300000, 262144),
    ("invalid params, context window exceeds limit (2013)", None, None),
    ("prompt token count of 70000 exceeds the limit of 64000", 70000, 64000),
    ("Current length is 9000 while limit is 8192", 9000, 8192),
    ("The maximum context length of Llama-3.3-70B is 8192 tokens", None, 8192),
    ("Requested tokens (5000) exceed context window of 4096", 5000, 4096),
    ("input (600 tokens) is too large to process. increase the physical batch size (current batch size: 512)", 600, 512),
]  # fmt: skip


@pytest.mark.parametrize(("message", "tokens", "limit"), OVERFLOWS)
@pytest.mark.parametrize("status", [400, 422, 500])
def test_an_overflow_is_told_from_the_words_with_both_numbers(
    status: int, message: str, tokens: int | None, limit: int | None
) -> None:
    got = error(status, openai(message, "invalid_request_error"))
    assert isinstance(got, e.ContextOverflow)
    assert (got.tokens, got.limit) == (tokens, limit)


@pytest.mark.parametrize(
    "message",
    [
        "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please reduce the length of the messages.",
        "Too many tokens per day, context length limit",
        "`max_completion_tokens` must be less than or equal to `40960`, the maximum value for it is less than the context_window",
        "Request exceeds the context window quota. Please try again in 4s",
        "string too long. Expected a string with maximum length 1048576; maximum context length is irrelevant",
        "too many tokens",
        "token limit exceeded",
        "The maximum length is 10",
        "Invalid value for context: 429",
        "Loading model",
    ],
)
def test_throttling_and_caps_are_no_overflow(message: str) -> None:
    assert not is_overflow(message)


def test_a_429_is_no_overflow_whatever_it_says() -> None:
    assert type(error(429, openai("prompt is too long: 3 tokens > 2 maximum"))) is e.RateLimited


def test_only_the_message_is_searched_not_the_request_that_is_echoed() -> None:
    body = {"detail": [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": "prompt is too long"}]}
    assert type(error(422, body)) is e.BadRequest


def test_the_numbers_that_llama_cpp_counts_go_before_those_in_its_words() -> None:
    counted = {"n_prompt_tokens": 1409, "n_ctx": 256}
    got = error(400, {"error": {"code": 400, "message": "no", "type": "exceed_context_size_error", **counted}})
    assert isinstance(got, e.ContextOverflow)
    assert (got.tokens, got.limit) == (1409, 256)


def test_an_oversize_embedding_batch_is_an_overflow() -> None:
    text = "Requested 416735 tokens, max 300000 tokens per request"
    got = error(400, openai(text, "max_tokens_per_request", "max_tokens_per_request"))
    assert isinstance(got, e.ContextOverflow)
    assert (got.tokens, got.limit) == (416735, 300000)


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
        sizes(text)
        error(400, openai(text))


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
