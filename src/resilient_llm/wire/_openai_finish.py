"""Why an answer ended, and the ends that are none.

It exists to hold the vocabulary of `finish_reason` as data and to tell what an end without an answer means. Rules of
the file: a word that is not in a table is `other`, and the server's own word is always kept beside ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from resilient_llm._errors import (
    ContentFiltered,
    ContextOverflow,
    EmptyReply,
    LLMError,
    Malformed,
    OutputInvalid,
    Overloaded,
    ServerError,
    Truncated,
)
from resilient_llm._replies import FinishReason, Usage
from resilient_llm.wire._checks import spent
from resilient_llm.wire._openai_errors import error_from

FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "end": "stop",
    "end_turn": "stop",
    "eos": "stop",  # Together
    "eos_token": "stop",  # TGI
    "stop_sequence": "stop",  # TGI
    "complete": "stop",  # Cohere
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "model_context_window_exceeded": "length",  # z.ai
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",  # z.ai
    "refusal": "content_filter",  # Anthropic
    "guardrail_intervened": "content_filter",  # Bedrock
    "safety": "content_filter",  # this one and the next four: Gemini's own, which proxies pass on
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
}
# Words that end an answer without completing it. "abort": vLLM and SGLang gave the request up.
FAILURES: Mapping[str, type[LLMError]] = {
    "error": ServerError,
    "abort": Truncated,
    "network_error": ServerError,  # z.ai
    "insufficient_system_resource": Overloaded,  # DeepSeek
    "function_call_filter": OutputInvalid,  # Gemini: the model wrote a call that cannot be read
    "malformed_function_call": OutputInvalid,  # the same in Gemini's own words
}


def _word(raw: str) -> str:
    """Gemini adds its own word: `content_filter: PROHIBITED_CONTENT`."""
    return raw.partition(":")[0].lower()


def meaning(raw: str) -> FinishReason:
    """What the server's word for the end means."""
    return FINISH.get(_word(raw), "other")


def refused(answer: Mapping[str, Any]) -> bool:
    """An object that should be a completion, or a piece of one, is an error: OpenAI's, SGLang's flat one, FastAPI's."""
    if answer.get("error") or answer.get("object") == "error":
        return True
    if answer.get("error_message") and not answer.get("choices"):
        return True  # DeepInfra and Venice, with `choices: null` (hermes-agent#65631, #68451)
    return "choices" not in answer and isinstance(answer.get("message", answer.get("detail")), (str, list, dict))


def reported_in(body: bytes) -> LLMError:
    """The error in an array; anything else that is no object is no answer."""
    try:
        value = from_json(body)
    except ValueError as error:
        return Malformed(f"the answer is not JSON: {error}")
    if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("error"):
        return error_from(None, {}, value)
    return Malformed("the answer is not a JSON object")


def failed(finish: str, reported: object) -> LLMError | None:
    """The error that a choice reports, or that its `finish_reason` alone means, if any."""
    if reported:
        return error_from(None, {}, {"error": reported})
    kind = FAILURES.get(_word(finish))
    return kind(f"the server ended the answer with finish_reason {finish!r}") if kind else None


def nothing_said(
    raw: str | None, finish: FinishReason, usage: Usage, filtered: tuple[str, ...] = (), limit: int | None = None
) -> LLMError:
    """What an answer with nothing in it means; `limit` is the tokens that it might have had."""
    if raw == "model_context_window_exceeded":
        return ContextOverflow("the prompt fills the window, nothing was said", code=raw)
    if finish == "content_filter":
        return ContentFiltered(
            "the provider's filter stopped the answer before its first word", code=raw, categories=filtered
        )
    if finish == "length":
        return spent(limit or usage.output_tokens, usage.reasoning_tokens)
    return EmptyReply("the server said that it was done and had said nothing")
