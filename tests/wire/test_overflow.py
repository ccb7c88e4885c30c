"""A prompt that is too long is told from everything else that servers say of tokens, lengths and limits.

The texts are those of the servers' code and of their users' reports, with neutral names. A new one is a new line.
"""

# ruff: noqa: E501  # a text is a line

from __future__ import annotations

import re
import time

import pytest

from resilient_llm import _errors as e
from resilient_llm.wire import _overflow
from resilient_llm.wire._overflow import is_overflow, sizes
from resilient_llm.wire.openai import OpenAICodec

CODEC = OpenAICodec("m")

# text, tokens, limit: as far as the text states them
POSITIVES: list[tuple[str, int | None, int | None]] = [
    # OpenAI, Azure, DeepSeek
    ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. Please reduce the length of the messages.", 9001, 8192),
    ("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, 1000 in the completion). Please reduce the length of the messages or completion.", 8000, 8192),
    ("This model's maximum context length is 4097 tokens, however you requested 5000 tokens (4744 in your prompt; 256 for the completion). Please reduce your prompt; or completion length.", 4744, 4097),
    ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9500 tokens (9300 in the messages, 200 in the functions). Please reduce the length of the messages or functions.", 9300, 8192),
    ("Your input exceeds the context window of this model. Please adjust your input and try again.", None, None),
    ("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300123 tokens. Please reduce the length of the messages.", 300123, 272000),
    ("This model's maximum context length is 131072 tokens. However, you requested 140000 tokens (132000 in the messages, 8000 in the completion).", 132000, 131072),
    ("Please reduce the length of the messages or completion.", None, None),  # Groq
    # Mistral
    ("Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", 40000, 32768),
    ("Prompt contains 200000 tokens, too large for model with 131072 maximum context length", 200000, 131072),
    # Together, TGI
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens and 512 `max_new_tokens`", 9000, 8193),
    ("Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", 5000, 4096),
    # Fireworks
    ("The prompt is too long: 40177, model maximum context length: 32767", 40177, 32767),
    # OpenRouter
    ("This endpoint's maximum context length is 131072 tokens. However, you requested about 140000 tokens (139000 of text input, 1000 in the output). Please reduce the length of either one.", 139000, 131072),
    ("This endpoint's maximum context length is 32768 tokens. However, you requested about 50000 tokens", 50000, 32768),
    # Gemini
    ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048575).", 1200000, 1048575),
    ("The input token count exceeds the maximum number of tokens allowed 1048576.", None, 1048576),
    # Anthropic
    ("prompt is too long: 210000 tokens > 200000 maximum", 210000, 200000),
    ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or `max_tokens` and try again", 190000, 200000),
    # vLLM
    ("This model's maximum context length is 8192 tokens. However, your request has 8193 input tokens. Please reduce the length of the input messages. (parameter=input_tokens, value=8193)", 8193, 8192),
    ("You passed 8193 input tokens and requested 512 output tokens. However, the model's context length is only 8192 tokens, resulting in a maximum input length of 7680 tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=8193)", 8193, 8192),
    ("You passed 99000 input characters and requested 512 output tokens. However, the model's context length is only 8192 tokens, resulting in a maximum input length of 7680 tokens (at most 61440 characters). Please reduce the length of the input prompt. (parameter=input_text, value=99000)", None, 8192),
    ("'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 8192 tokens and your request has 500 input tokens (8000 > 8192 - 500). (parameter=max_tokens, value=8000)", 500, 8192),
    ("The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure that `max_model_len` is no smaller than the number of text tokens.", 9000, 8192),
    ("This model's maximum context length is 512 tokens. However, you requested 700 tokens in the input for embedding generation. Please reduce the length of the input.", 700, 512),
    # SGLang
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 5000, 4096),
    ("Requested token count exceeds the model's maximum context length of 64000 tokens. You requested a total of 71897 tokens: 7897 tokens from the input messages and 64000 tokens for the completion. Please reduce the number of tokens in the input messages or the completion to fit within the limit.", 7897, 64000),
    ("Input length (9000 tokens) exceeds the maximum allowed length (8192 tokens). Use a shorter input or enable --allow-auto-truncate.", 9000, 8192),
    ("Request prompt exceeds the KV memory budget: input_len=9000", 9000, None),
    ("Input length (265330) exceeds model's maximum context length (262144).", 265330, 262144),
    ("Input length 131393 exceeds the maximum allowed input length of 131040 tokens.", 131393, 131040),  # Poolside's
    # llama.cpp and what is made of it
    ("request (1409 tokens) exceeds the available context size (256 tokens), try increasing it", 1409, 256),
    ("the request exceeds the available context size. try increasing the context size or enable context shift", None, None),
    ("Requested tokens (5000) exceed context window of 4096", 5000, 4096),
    ("input (600 tokens) is too large to process. increase the physical batch size (current batch size: 512)", 600, 512),
    ("input is too large to process. increase the physical batch size", None, None),
    # LM Studio
    ("The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 5000 >= n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter input.", 5000, 4096),
    ("Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough.", 5000, 4096),
    ("Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)", 15028, 7424),
    ("Context size has been exceeded.", None, None),
    ("The model has reached its context window: context length exceeded", None, None),
    # Ollama
    ("the prompt is longer than the context length currently available to the model; shorten the prompt or raise the context length", None, None),
    ("input length (9000 tokens) exceeds the model's maximum context length (8192 tokens)", 9000, 8192),
    ("the input length exceeds the context length", None, None),
    ("input length exceeds maximum context length", None, None),
    ("prompt too long; exceeded max context length by 100918 tokens", None, None),
    # others, that people put behind one of these
    ("This model's maximum prompt length is 131,072 but the request contains 140,000 tokens.", 140000, 131072),  # xAI
    ("Invalid request: Your request exceeded model token limit: 262144 (requested: 300000)", 300000, 262144),  # Moonshot
    ("invalid params, context window exceeds limit (2013)", None, None),  # MiniMax
    ("prompt token count of 70000 exceeds the limit of 64000", 70000, 64000),  # Copilot
    ("Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192", 9000, 8192),  # Cerebras
    ("The maximum context length of Llama-3.3-70B is 8192 tokens", None, 8192),  # SambaNova
    ("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]", None, 30720),  # Alibaba
    ("Input is too long for requested model.", None, None),  # Bedrock
    ("The request payload size has exceed context limit.", None, None),  # Bedrock
    ("litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: OpenAIException - request (1409 tokens) exceeds the available context size (256 tokens), try increasing it", 1409, 256),
    ("ERROR: THIS MODEL'S MAXIMUM CONTEXT LENGTH IS 1024.", None, 1024),
    ("The input exceeds the model's maximum context limit of 8192 tokens.", None, 8192),
    ("Your prompt is longer than the model's context length of 2048.", None, 2048),
    ("context window is full", None, None),
]  # fmt: skip

NEGATIVES = [
    # Limits on requests and tokens per time: a larger window does not help
    "Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2s.",
    "Rate limit reached for gpt-4o on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.",
    "Rate limit reached on tokens per min. Please reduce the length of the messages.",
    "Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 30601. The input or output tokens must be reduced in order to run successfully.",
    "Request too large for model `llama-3.3-70b` on tokens per minute (TPM): Limit 6000, Requested 7301, please reduce your message size and try again.",
    "Rate limit reached for model `llama-3.3-70b` on tokens per day (TPD): Limit 100000, Used 99500, Requested 1000. Please try again in 7m12s.",
    "Too many tokens per day, context length limit",
    "This request would exceed your organization's rate limit of 40,000 input tokens per minute.",
    "Number of request tokens has exceeded your per-minute rate limit",
    "Number of input tokens has exceeded your daily rate limit",
    "Throttling error: Too many tokens, please wait before trying again.",
    "Too many tokens, please wait before trying again.",
    "ThrottlingException: Your request rate is too high",
    "Too many requests. Please slow down.",
    "We're receiving too many requests at the moment. Please wait.",
    "Requests to the ChatCompletions_Create Operation have exceeded token rate limit of your current pricing tier. Please retry after 6 seconds.",
    "Requests have exceeded call rate limit of your current OpenAI S0 pricing tier. Please retry after 86400 seconds.",
    "You exceeded your current quota, please check your plan and billing details. Quota exceeded for metric: generate_content_free_tier_input_token_count, limit: 250000",
    "Quota exceeded for aiplatform.googleapis.com/generate_content_input_tokens_per_minute_per_base_model",
    "Request exceeds the context window quota. Please try again in 4s",
    "Rate limit exceeded: free-models-per-day",
    "google/gemma:free is temporarily rate-limited upstream. Please retry shortly.",
    "Service tier capacity exceeded for this model.",
    "Your account reached its concurrency limit",
    "You have reached your usage limit for this billing cycle",
    "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 3000.",
    "too many tokens",
    "token limit exceeded",
    "Token limit reached",
    "Maximum tokens reached",
    # The same, in words that would else be an overflow: one for each veto, made up after those above
    "Rate limit of the organization: reduce the length of the messages.",
    "You sent 41000 of 40000 tokens per minute; reduce the length of the prompt.",
    "You sent 41000 of 40000 tokens per day; reduce the length of the prompt.",
    "You sent 41000 of 40000 tokens per hour; reduce the length of the prompt.",
    "TPM of this key is used up, reduce the length of the input.",
    "Throttled: input tokens exceed the configured limit of 40000 tokens.",
    "Quota of the free tier: prompt token count of 70000 exceeds the limit of 64000",
    "Too many requests share this context window: context size has been exceeded.",
    "The context window is full of other requests, try again in 20s.",
    "The context window is full of other requests, please wait.",
    "The maximum context length is temporarily 4096 tokens.",
    # Caps on the answer, not on the prompt
    "max_tokens must be less than or equal to 4096, the model's context length less the prompt",
    "8192 is the maximum value for max_tokens; 100000 is larger than the context window",
    "`max_completion_tokens` must be less than or equal to `40960`, the maximum value for `max_completion_tokens` is less than the `context_window` for this model",
    "max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you provided 100000.",
    "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for this model",
    "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
    "Input validation error: `max_new_tokens` must be <= 512. Given: 1000",
    "Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens.",
    "Field 'n_predict': Value must be between -1 <= value <= 4096, but got 5000",
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    # Limits on one string, one list, one picture, one body
    "Invalid 'messages[0].content': string too long. Expected a string with maximum length 10485760, but got a string with length 20000000 instead.",
    "string too long. Expected a string with maximum length 1048576; maximum context length is irrelevant",
    "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array with length 130 instead.",
    "Invalid 'tool_calls[0].id': string too long. Expected a string with maximum length 40, but got a string with length 64 instead.",
    "'metadata.topic' exceeds the maximum allowed length of 512 characters",
    "messages.0.content.0.image.source.base64: image exceeds 5 MB maximum: 6000000 bytes > 5242880 bytes",
    "Image size 9000000 bytes exceeds maximum allowed size of 8388608 bytes",
    "Request exceeds the maximum size",
    "Request body too large: limit is 33554432 bytes",
    "Payload Too Large",
    "`stop` supports up to 4 stop sequences. Given: 7",
    "The maximum length is 10",
    "Too many images in request: 12. The maximum is 8.",
    "Batch size 64 exceeds the maximum batch size of 32",
    # Wrong values and unknown names that talk of contexts, windows and lengths
    "Invalid value for context: 429",
    "The context is large, but acceptable.",
    "Extra inputs are not permitted, field: 'context_length_exceeded_behavior'",
    'option "num_ctx" must be of type integer',
    'Unknown name "contextWindow": Cannot find field.',
    "Sliding window attention is not supported for this model",
    "The model `long-context-8k` does not exist or you do not have access to it.",
    "prompt_truncation must be one of: 'none', 'auto'",
    # Servers that are busy, loading, broken
    "Loading model",
    "The engine is currently busy, please try again later",
    "Service unavailable: The service is temporarily unavailable.",
    "server busy, please try again.  maximum pending requests exceeded",
    "Prefill token backlog limit exceeded",
    "The request queue is full.",
    "no slot available",
    "model runner crashed unexpectedly",
    "model requires more system memory (12.5 GiB) than is available (8.1 GiB)",
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "KV cache is full",
    "Compute error.",
    "upstream connect error or disconnect/reset before headers. reset reason: overflow",
    "stack overflow",
    "Internal server error: integer overflow in token counter",
    "An error occurred",
    "",
]  # fmt: skip


@pytest.mark.parametrize(("text", "tokens", "limit"), POSITIVES)
def test_a_prompt_that_is_too_long_is_recognised_and_both_numbers_are_read(
    text: str, tokens: int | None, limit: int | None
) -> None:
    assert is_overflow(text)
    assert sizes(text) == (tokens, limit)


@pytest.mark.parametrize("text", NEGATIVES)
def test_what_only_talks_of_tokens_and_limits_is_not_taken_for_it(text: str) -> None:
    assert not is_overflow(text)


def test_the_lists_are_as_long_as_they_should_be_and_hold_nothing_twice() -> None:
    assert len(NEGATIVES) == len(set(NEGATIVES)) >= 60
    assert len(POSITIVES) == len({text for text, _, _ in POSITIVES}) >= 50


@pytest.mark.parametrize("veto", _overflow._VETO.split("|"))
def test_every_veto_is_needed(veto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [one for one in _overflow._VETO.split("|") if one != veto]
    monkeypatch.setattr(_overflow, "_VETO", "|".join(others))
    assert any(is_overflow(text) for text in NEGATIVES)


@pytest.mark.parametrize("wording", re.split(r"\n +\| ", re.sub(r" +#.*", "", _overflow._WORDS)))
def test_every_wording_is_somebodys(wording: str) -> None:
    assert any(re.search(wording, text, re.IGNORECASE | re.VERBOSE | re.DOTALL) for text, _, _ in POSITIVES)


@pytest.mark.parametrize("status", [400, 413, 422, 500, 502])
def test_the_words_decide_under_any_status_but_429(status: int) -> None:
    for text, tokens, limit in POSITIVES:
        got = CODEC.error(status, {}, text.encode())
        assert isinstance(got, e.ContextOverflow)
        assert (got.tokens, got.limit, got.retryable, got.falls_back) == (tokens, limit, False, True)
        if "litellm." not in text:  # the name of its class counts as a code, and codes count under any status
            assert isinstance(CODEC.error(429, {}, text.encode()), e.RateLimited)


def test_the_numbers_that_the_server_counted_go_before_those_in_its_words() -> None:
    body = b'{"error":{"code":400,"message":"12 tokens > 34 maximum","type":"exceed_context_size_error","n_prompt_tokens":1409,"n_ctx":256}}'
    got = CODEC.error(400, {}, body)
    assert isinstance(got, e.ContextOverflow)
    assert (got.tokens, got.limit) == (1409, 256)


def test_only_the_message_is_searched_not_the_request_that_is_echoed() -> None:
    body = b'{"detail":[{"type":"missing","loc":["body"],"msg":"Field required","input":"prompt is too long"}]}'
    assert type(CODEC.error(422, {}, body)) is e.BadRequest
    assert type(CODEC.error(422, {}, body[:-20])) is e.BadRequest  # the reader stopped in the midst of the echo


def test_a_hostile_text_does_not_make_the_search_slow() -> None:
    start = time.perf_counter()
    for text in (
        "context length of " * 40_000,
        "model " * 90_000,
        "1,1,1," * 90_000,
        "limit: " + "1" * 500_000,
        "(" * 500_000,
        "exceeds " * 60_000,
    ):
        is_overflow(text)
        sizes(text)
    assert time.perf_counter() - start < 2  # it is some milliseconds; without bounds it would be minutes
