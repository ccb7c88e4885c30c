"""Why an answer ended, and the ends that are none.

It exists to hold the vocabulary of `finish_reason` as data and to tell what an end without an answer means. Rules of
the file: a word that is not in a table is `other`, and the server's own word is always kept beside ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import from_json

from resilient_llm._errors import (
    ContentFiltered,
    ContextOverflow,
    EmptyReply,
    LLMError,
    Malformed,
    Overloaded,
    ServerError,
    Truncated,
)
from resilient_llm._replies import FinishReason
from resilient_llm.wire._openai_errors import error_from

FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "end": "stop",
    "end_turn": "stop",
    "eos": "stop",  # Together
    "eos_token": "stop",  # TGI
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "model_context_window_exceeded": "length",  # z.ai
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
# Words that end an answer without completing it. "abort": vLLM and SGLang gave the request up.
FAILURES: Mapping[str, type[LLMError]] = {
    "error": ServerError,
    "abort": Truncated,
    "insufficient_system_resource": Overloaded,  # DeepSeek
}


def reported_in(body: bytes) -> LLMError:
    """The error in an array; anything else that is no object is no answer."""
    try:
        value = from_json(body)
    except ValueError as error:
        return Malformed(f"the answer is not JSON: {error}")
    if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("error"):
        return error_from(None, {}, value)
    return Malformed("the answer is not a JSON object")


def failed(finish: str, reported: object) -> LLMError:
    """The error that a choice reports, or what its `finish_reason` alone means."""
    if reported:
        return error_from(None, {}, {"error": reported})
    return FAILURES[finish](f"the server ended the answer with finish_reason {finish!r}")


def nothing_said(raw: str | None, finish: FinishReason) -> LLMError:
    """What an answer with nothing in it means."""
    if raw == "model_context_window_exceeded":
        return ContextOverflow("the prompt fills the window, nothing was said", code=raw)
    if finish == "content_filter":
        return ContentFiltered("the provider's filter stopped the answer before its first word", code=raw)
    return EmptyReply("the server said that it was done and had said nothing")
