"""How servers with OpenAI's API count the tokens of a prompt: with the model's own tokenizer and template.

Rules of the file: a row a server, and what cannot be read is no count. Sources: `tools/server/server.cpp` of llama.cpp
(`/v1/chat/completions/input_tokens` takes the body of a chat), `vllm/entrypoints/openai/protocol.py` of vLLM 0.33
(`TokenizeChatRequest`). SGLang and TGI tokenize text without its template, which is no count of a chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import from_json, to_json


@dataclass(frozen=True, slots=True)
class Counter:
    """How one kind of server is asked.

    Attributes:
        path: of the question.
        beside: it stands beside `/v1`, not below it.
        takes: the fields of a chat that it takes; all of them if there are none.
        key: of the number in the answer.
    """

    path: str
    beside: bool
    takes: frozenset[str]
    key: str


COUNTERS: Mapping[str, Counter] = {
    "llamacpp": Counter("/chat/completions/input_tokens", False, frozenset(), "input_tokens"),
    "vllm": Counter("/tokenize", True, frozenset({"model", "messages", "tools", "chat_template_kwargs"}), "count"),
}


def count_body(chat: bytes, how: Counter) -> bytes:
    """The question, from the body of the chat that is to be sent."""
    if not how.takes:
        return chat
    return to_json({name: value for name, value in from_json(chat).items() if name in how.takes})


def counted_in(answer: bytes, how: Counter) -> int | None:
    """The number in the answer."""
    try:
        value = from_json(answer)[how.key]
    except (ValueError, KeyError, TypeError):
        return None
    return value if type(value) is int and value > 0 else None
