"""Streams of OpenAI's chunks, made and read: what the tests of the decoder share."""

# ruff: noqa: E501  # an answer is a line

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from resilient_llm import _errors as e
from resilient_llm._replies import Done, TextDelta
from resilient_llm._types import ChatRequest, Message, ToolCall
from resilient_llm.wire import Decoder, WireEvent
from resilient_llm.wire.openai import OpenAICodec

REQUEST = ChatRequest((Message("user", "hi"),))
DONE = b"data: [DONE]\n\n"


def decoder() -> Decoder:
    return OpenAICodec("m").decoder(REQUEST, stream=True)


def decode(pieces: Iterable[bytes]) -> list[WireEvent]:
    one = decoder()
    events: list[WireEvent] = []
    for piece in pieces:
        events += one.feed(piece)
    return events + one.close()


def outcome(pieces: Iterable[bytes]) -> tuple[list[WireEvent], type[e.LLMError] | None]:
    """All events and the error; text is joined, because its pieces may be cut anywhere."""
    one = decoder()
    events: list[WireEvent] = []
    try:
        for piece in pieces:
            events += one.feed(piece)
        events += one.close()
    except e.LLMError as error:
        return [], type(error)
    return events, None


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def chunk(delta: dict[str, Any] | None = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def call(**piece: Any) -> dict[str, Any]:
    names = {key: piece.pop(key) for key in ("name", "arguments") if key in piece}
    return chunk({"tool_calls": [{**piece, "function": names}]})


def text(events: list[WireEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls(events: list[WireEvent]) -> list[tuple[str, dict[str, Any], str]]:
    return [(event.name, event.arguments, event.id) for event in events if isinstance(event, ToolCall)]


def done(events: list[WireEvent]) -> Done:
    assert isinstance(events[-1], Done)
    assert sum(isinstance(event, Done) for event in events) == 1
    return events[-1]


USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
BROKEN = (  # llama.cpp, a real error in mid-stream: no finish, no [DONE]
    sse(chunk({"role": "assistant", "content": None}), chunk({"content": "Hello"}))
    + b'data: {"error":{"code":500,"message":"The model produced output that does not match the expected peg-native format","type":"server_error"}}\n\n'
)  # fmt: skip
