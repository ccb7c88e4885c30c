"""Embeddings: a vector for each text, in their order, all of it checked before one is handed over."""

# a row of a table is a line

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import _errors as e
from resilient_llm._replies import Usage, Vectors
from resilient_llm._types import EmbedRequest
from resilient_llm.wire.openai import OpenAICodec

TWO = EmbedRequest(("a", "b"))


def decode(*pieces: bytes, request: EmbedRequest = TWO) -> Vectors:
    decoder = OpenAICodec("m").decoder(request, stream=False)
    for piece in pieces:
        assert decoder.feed(piece) == []
    (vectors,) = decoder.close()
    assert isinstance(vectors, Vectors)
    return vectors


def answer(*items: Any, **more: Any) -> bytes:
    return json.dumps({"object": "list", "data": items, "model": "e", **more}).encode()


def item(index: int | None, embedding: Any) -> dict[str, Any]:
    return {"object": "embedding", "embedding": embedding} | ({} if index is None else {"index": index})


def test_vectors_in_the_order_of_the_texts() -> None:
    got = decode(answer(item(1, [3, 4.5]), item(0, [1.0, 2.0]), usage={"prompt_tokens": 2, "total_tokens": 2}))
    assert (got.vectors, got.model, got.usage) == ([[1.0, 2.0], [3.0, 4.5]], "e", Usage(2))


def test_without_an_index_the_order_of_the_answer_counts() -> None:
    assert decode(answer(item(None, [1.0]), item(None, [2.0]))).vectors == [[1.0], [2.0]]


def test_base64_is_little_endian_32_bit() -> None:
    text = base64.b64encode(struct.pack("<2f", 0.5, -2.0)).decode()
    assert decode(answer(item(0, text), item(1, [1, 2]))).vectors == [[0.5, -2.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    "body",
    [
        answer(item(0, [1.0])),
        answer(item(0, [1.0]), item(1, [1.0]), item(2, [1.0])),
        answer(item(0, [1.0]), item(0, [1.0])),
        answer(item(0, [1.0]), item(2, [1.0])),
        answer(item(0, [1.0]), item(1, [1.0, 2.0])),
        answer(item(0, []), item(1, [])),
        answer(item(0, [1.0]), item(1, [float("nan")])),
        answer(item(0, [1.0]), item(1, [float("inf")])),
        answer(item(0, [1.0]), item(1, [10**400])),
        answer(item(0, [1.0]), item(1, ["1"])),
        answer(item(0, [1.0]), item(1, [True])),
        answer(item(0, [1.0]), item(1, None)),
        answer(item(0, [1.0]), item(1, "AAA")),
        answer(item(0, [1.0]), item(1, "!!!!")),
        answer(item(0, [1.0]), item(1, base64.b64encode(b"12345").decode())),
        answer(item(0, [1.0]), item(1, base64.b64encode(struct.pack("<f", float("nan"))).decode())),
        answer(item(0, [1.0]), 5),
        b'{"data":null}',
        b"[]",
        b"5",
        b"<html>",
        b"{]",
    ],
)
def test_a_vector_that_would_poison_an_index_is_malformed(body: bytes) -> None:
    with pytest.raises(e.Malformed):
        decode(body)


@pytest.mark.parametrize("body", [b"", answer(item(0, [1.0]), item(1, [1.0]))[:-9]])
def test_a_body_that_just_ends_is_truncated(body: bytes) -> None:
    with pytest.raises(e.Truncated):
        decode(body)


@pytest.mark.parametrize(
    "body", [b'{"error":{"code":429,"message":"slow"}}', b'[{"error":{"code":429,"message":"x"}}]']
)
def test_an_error_inside_a_200(body: bytes) -> None:
    with pytest.raises(e.RateLimited):
        decode(body)


def test_the_body_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient_llm.wire._vectors.MAX_BODY", 100)
    with pytest.raises(e.Malformed):
        decode(b" " * 60, b" " * 60)


@given(st.binary(max_size=6), st.integers(0, 200), st.integers(0, 20))
def test_any_mutation_ends_in_vectors_or_a_known_error(put: bytes, at: int, gone: int) -> None:
    body = answer(item(0, [1.0, 2.0]), item(1, "AAAAAAAAAAA="))
    try:
        vectors = decode(body[:at] + put + body[at + gone :]).vectors
    except e.LLMError:
        return
    assert len(vectors) == 2
    assert all(isinstance(number, (int, float)) for vector in vectors for number in vector)
