"""FakeOpenAI says what OpenAI's API says: keys, models, embeddings, errors."""

from __future__ import annotations

import base64
import math
import struct

import httpx2
import pytest

from resilient_llm.testing import (
    FakeOpenAI,
    say,
)

from .peer import answer, chat


def test_openai_asks_for_its_key() -> None:
    path = "/v1/chat/completions"
    with FakeOpenAI(say("a"), api_key="sk-1") as server:
        none, body = answer(server, path, chat())
        wrong, error = answer(server, path, chat(), Authorization="Bearer sk-2")
        right, _ = answer(server, path, chat(), Authorization="Bearer sk-1")
        assert len(server.chats) == 1
    assert (none, wrong, right) == (401, 401, 200)
    assert body["error"]["type"] == "invalid_request_error"
    assert error["error"]["code"] == "invalid_api_key"


def test_openai_overflow_has_both_numbers() -> None:
    with FakeOpenAI(window=10) as server:
        code, body = answer(server, "/v1/chat/completions", chat("x" * 41))
    assert (code, body["error"]["code"], body["error"]["param"]) == (400, "context_length_exceeded", "messages")
    assert "maximum context length is 10 tokens" in body["error"]["message"]
    assert "resulted in 11 tokens" in body["error"]["message"]


def test_openai_knows_its_models_if_they_are_named() -> None:
    with FakeOpenAI(models=("m",)) as server:
        missing, body = answer(server, "/v1/chat/completions", {**chat(), "model": "other"})
        assert [one["id"] for one in httpx2.get(f"{server.url}/models").json()["data"]] == ["m"]
    assert (missing, body["error"]["code"]) == (404, "model_not_found")


def test_openai_does_not_know_a_path() -> None:
    with FakeOpenAI() as server:
        code, body = answer(server, "/v1/nope", {})
    assert (code, body["error"]["message"]) == (404, "Invalid URL (POST /v1/nope)")


def test_openai_embeddings_as_numbers_and_as_base64() -> None:
    request = {"model": "e", "input": ["a", "b"]}
    with FakeOpenAI() as server:
        _, plain = answer(server, "/v1/embeddings", request)
        _, packed = answer(server, "/v1/embeddings", {**request, "encoding_format": "base64"})
    assert [one["index"] for one in plain["data"]] == [0, 1]
    for number, text in zip(plain["data"], packed["data"], strict=True):
        assert struct.unpack("<8f", base64.b64decode(text["embedding"])) == pytest.approx(number["embedding"])
        assert math.hypot(*number["embedding"]) == pytest.approx(1.0)
    assert plain["usage"] == {"prompt_tokens": 2, "total_tokens": 2}  # each text by itself, rounded up


def test_the_content_of_a_message_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    with FakeOpenAI() as server:
        _, body = answer(
            server, "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": parts}]}
        )
    assert body["choices"][0]["message"]["content"] == "You said: hello"
