"""How OpenAI's API writes: server-sent events, bodies, the envelope of errors.

Rules of the file: an id is a count and `created` the time of the request, so that answers can be told apart and
nothing else about them is chance.
"""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

from resilient_llm._types import ToolCall
from resilient_llm.testing._model import encode, integer, texts_of, tokens, vector
from resilient_llm.testing._script import Call, Head
from resilient_llm.testing._steps import Say

_PIECE: Final = 8  # characters of a tool's arguments that one event holds
_TYPES: Final[Mapping[int, tuple[str, str | None]]] = {
    429: ("requests", "rate_limit_exceeded"),
    503: ("service_unavailable_error", "server_is_overloaded"),
}


class OpenAIAnswer:
    """The answer to one request, as server-sent events or as one JSON object."""

    idle = b": keep-alive\n\n"

    def __init__(self, call: Call, number: int, dimensions: int) -> None:
        request = call.body
        self.embeds = call.path == "/v1/embeddings"
        self.streams = request.get("stream") is True and not self.embeds
        self.texts = _inputs(request.get("input")) if self.embeds else texts_of(request.get("messages"))
        self.prompt = self.texts[-1] if self.texts else ""
        self.count = sum(map(tokens, self.texts)) if self.embeds else tokens(*self.texts)
        self.limit = integer(request.get("max_completion_tokens", request.get("max_tokens")))
        self.headers: Mapping[str, str] = {"x-request-id": f"req_{number:032x}"}
        self.head = Head(200, (("Content-Type", "text/event-stream; charset=utf-8"), *self.headers.items()))
        options = request.get("stream_options")
        self._asks_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        self._base64 = request.get("encoding_format") == "base64"
        self._dimensions = max(integer(request.get("dimensions")) or 0, 0) or dimensions
        self._model = str(request.get("model") or "")
        self._id = f"chatcmpl-{number}"
        self._created = int(time.time())  # on the wire it is the calendar's

    async def ready(self) -> None:
        """A hosted model is always there."""

    def frames(self, said: Say) -> list[bytes]:
        """The role, then an event for each thought, each text and each piece of a tool call."""
        deltas: list[dict[str, Any]] = [
            {"role": "assistant", "content": ""},
            *({"reasoning_content": thought} for thought in said.reasoning),
            *({"content": text} for text in said.texts),
            *({"tool_calls": [piece]} for at, call in enumerate(said.tool_calls) for piece in _pieces(call, at)),
        ]
        return [self._chunk([_choice(delta)]) for delta in deltas]

    def final(self, said: Say) -> list[bytes]:
        """The finish reason, the usage if it was asked for, and `[DONE]`."""
        usage = [self._chunk([], usage=self._usage(said))] if self._asks_usage else []
        return [self._chunk([_choice({}, _finish(said))]), *usage, b"data: [DONE]\n\n"]

    def whole(self, said: Say, *, done: bool = True) -> bytes:
        """One object. Unfinished it has no finish reason."""
        if self.embeds:
            return self._embeddings(done=done)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(said.texts), "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = "".join(said.reasoning)
        if said.tool_calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = [_whole(call, at) for at, call in enumerate(said.tool_calls)]
        finish = _finish(said) if done else None
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return encode({**self._about("chat.completion"), "choices": [choice], "usage": self._usage(said)})

    def error_frame(self, detail: str | Mapping[str, Any]) -> bytes:
        """An event with the error and no name, after which nothing follows: as llama.cpp does it."""
        error = envelope(500, detail) if isinstance(detail, str) else detail
        return b"data: " + encode(error) + b"\n\n"

    def error_body(self, status: int, message: str) -> bytes:
        """The envelope, with the type and code that OpenAI gives to the status."""
        return encode(envelope(status, message))

    def _about(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": "fp_fake",
        }

    def _chunk(self, choices: list[dict[str, Any]], usage: Mapping[str, Any] | None = None) -> bytes:
        used = {"usage": usage} if self._asks_usage else {}  # null on every event but the last, where it is asked for
        return b"data: " + encode({**self._about("chat.completion.chunk"), "choices": choices, **used}) + b"\n\n"

    def _usage(self, said: Say) -> dict[str, Any]:
        used = said.usage
        prompt = self.count if used is None else used.input_tokens or 0
        answer = said.pieces if used is None else used.output_tokens or 0
        thought = len(said.reasoning) if used is None else used.reasoning_tokens or 0
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": 0 if used is None else used.cached_tokens or 0},
            "completion_tokens_details": {"reasoning_tokens": thought},
        }

    def _embeddings(self, *, done: bool) -> bytes:
        vectors = [vector(text, self._dimensions) for text in self.texts] if done else []
        data = [
            {"object": "embedding", "index": at, "embedding": _packed(one) if self._base64 else one}
            for at, one in enumerate(vectors)
        ]
        usage = {"prompt_tokens": self.count, "total_tokens": self.count}
        return encode({"object": "list", "data": data, "model": self._model, "usage": usage})


def envelope(status: int, message: str, *, code: str | None = "", param: str | None = None) -> dict[str, Any]:
    """An error; type and code as OpenAI has them for the status unless a code is given."""
    kind, usual = _TYPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    error = {"message": message, "type": kind, "param": param, "code": usual if code == "" else code}
    return {"error": error}


def _finish(said: Say) -> str:
    return "tool_calls" if said.tool_calls and said.finish == "stop" else said.finish


def _choice(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _whole(call: ToolCall, index: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": call.id or f"call_{index}", "type": "function", "function": function}


def _pieces(call: ToolCall, index: int) -> list[dict[str, Any]]:
    """The name and the id first, then the arguments in pieces that end anywhere in their JSON."""
    whole = _whole(call, index)
    arguments: str = whole["function"]["arguments"]
    first = {"index": index, **whole, "function": {"name": call.name, "arguments": ""}}
    starts = range(0, len(arguments), _PIECE)
    return [first, *({"index": index, "function": {"arguments": arguments[at : at + _PIECE]}} for at in starts)]


def _inputs(given: object) -> list[str]:
    return [given] if isinstance(given, str) else [str(one) for one in given] if isinstance(given, list) else []


def _packed(numbers: list[float]) -> str:
    """Little-endian 32-bit floats in base64, as `encoding_format: base64` has them."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
