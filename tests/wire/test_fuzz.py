"""Recorded answers, mutated: whatever a server sends ends in events or in one of our errors, and never in a crash.

Every mutant is read twice, whole and in random pieces, and both must come to the same end. The time is bounded, a few
seconds here and `RESILIENT_FUZZ_SECONDS` in CI. Each round has its own seed, which a failure names.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import _errors as e
from resilient_llm._replies import Done, ReasoningDelta, TextDelta, Usage, Vectors
from resilient_llm._types import ChatRequest, EmbedRequest, Message, Request, ToolCall
from resilient_llm.wire import Codec, WireEvent
from resilient_llm.wire._ollama_errors import in_band
from resilient_llm.wire.ollama import OllamaCodec, parse_ps, parse_show, parse_tags
from resilient_llm.wire.openai import OpenAICodec

SECONDS = float(os.environ.get("RESILIENT_FUZZ_SECONDS", "4"))
RECORDED = {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "recorded").glob("*.*"))}
CHAT = ChatRequest((Message("user", "hi"),))
EMBED = EmbedRequest(("a", "b"))
OLLAMA, OPENAI = OllamaCodec("m"), OpenAICodec("m")
FACTS: dict[str, Callable[[bytes], Any]] = {"ps": parse_ps, "show": parse_show, "tags": parse_tags}

# What breaks parsers, and the words that decide.
TOKENS = (
    b"null", b"true", b"false", b"0", b"-1", b"1e999", b"NaN", b"9" * 400, b"1.5", b'""', b"[]", b"{}", b"<html>",
    b"[" * 250, b'{"a":' * 250, b"\n", b"\r", b"\r\n", b"\n\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xf0\x9f",
    b'"\\ud800"', b'"done":true', b'"done":false,', b'"done_reason":"length",', b'"error":"x",', b'"thinking":"t",',
    b'{"error":{"message":5}}\n', b'"tool_calls":[{"function":{"name":"w","arguments":{}}}],', b'"remote_host":1,',
    b"data: ", b"data: [DONE]\n\n", b"event: error\n", b": ping\n\n", b'"finish_reason":"stop"', b'"index":1,',
    b'"choices":[],', b'"usage":{"prompt_tokens":-1},',
)  # fmt: skip
KEYWORDS = (
    b'"done"', b'"message"', b'"content"', b'"role"', b'"choices"', b'"delta"', b'"model"', b'"tool_calls"',
    b'"function"', b'"arguments"', b'"index"', b'"embedding"', b'"embeddings"', b'"models"', b"data:", b"}", b'"',
    b",", b"\n",
)  # fmt: skip


VALUES = (
    None, True, False, 0, 1, -1, 1.5, 10**30, "", "x", "stop", "length", "load", "tool_calls", "error", [], {}, [None],
    {"a": 1}, [{}], [[]], {"error": "x"}, {"name": "w", "arguments": {}},
)  # fmt: skip


def reshaped(body: bytes, rng: random.Random) -> bytes:
    """The body with one value of one of its JSON objects replaced or gone, so that it is still JSON."""
    lines = body.split(b"\n")
    at = rng.randrange(len(lines))
    head = b"data: " if lines[at].startswith(b"data: ") else b""
    try:
        node = whole = json.loads(lines[at].removeprefix(head))
    except ValueError:
        return body
    while node and isinstance(node, (dict, list)):
        key: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
            node = node[key]
        elif rng.random() < 0.2:
            del node[key]
            break
        else:
            node[key] = rng.choice(VALUES)
            break
    lines[at] = head + json.dumps(whole).encode()
    return b"\n".join(lines)


def mutated(body: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 2, 4))):
            body = reshaped(body, rng)
        return body
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randint(0, len(body))
        end = min(len(body), at + rng.choice((1, 2, 10, 100, 1000)))
        kind = rng.randrange(8)
        if kind == 0:
            body = body[:at]
        elif kind == 1:
            body = body[:at] + body[end:]
        elif kind == 2:
            body = body[:end] + body[at:]
        elif kind == 3:
            body = body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
        elif kind == 4:
            body = body[:at] + rng.choice(TOKENS) + body[at:]
        elif kind == 5:  # put a token where a value stood
            body = body[:at] + body[at:].replace(rng.choice(KEYWORDS), rng.choice(TOKENS), rng.choice((1, -1)))
        elif kind == 6:
            other = rng.choice(others)
            body = body[:at] + other[rng.randint(0, len(other)) :]
        else:
            value = body.find(b":", at) + 1
            stop = min((found for mark in (b",", b"}") if (found := body.find(mark, value)) > 0), default=end)
            body = body[:value] + rng.choice(TOKENS) + body[stop:]
        body = body[:100_000]
    return body


def pieces(body: bytes, rng: random.Random) -> list[bytes]:
    cuts = sorted({0, len(body), *(rng.randint(0, len(body)) for _ in range(rng.choice((1, 3, 20))))})
    return [body[start:end] for start, end in pairwise(cuts)]


def read(codec: Codec, request: Request, parts: Sequence[bytes]) -> list[WireEvent] | type[e.LLMError]:
    decoder = codec.decoder(request, stream=True)
    try:
        events = [event for part in parts for event in decoder.feed(part)]
        events += decoder.close()
    except e.LLMError as error:
        return told(error)
    return events


def told(error: e.LLMError) -> type[e.LLMError]:
    assert error.message
    assert len(repr(error)) < 2000
    return type(error)


def check(events: list[WireEvent], request: Request) -> None:
    """What the engine builds upon: types as declared, and one `Done` or `Vectors`, at the end."""
    final = Done if isinstance(request, ChatRequest) else Vectors
    assert [type(event) for event in events].count(final) == 1
    assert type(events[-1]) is final
    for event in events:
        if isinstance(event, (TextDelta, ReasoningDelta)):
            assert type(event.text) is str
            assert event.text
        elif isinstance(event, ToolCall):
            assert (type(event.name), type(event.arguments), type(event.id)) == (str, dict, str)
            assert event.name
            assert event.id
        elif isinstance(event, Done):
            check_done(event)
        else:
            assert isinstance(event, Vectors)
            assert len(event.vectors) == 2
            assert len({len(vector) for vector in event.vectors}) == 1
            assert all(type(number) is float and math.isfinite(number) for row in event.vectors for number in row)


def check_done(end: Done) -> None:
    assert end.finish_reason in ("stop", "length", "tool_calls", "content_filter", "other")
    assert all(type(name) in (str, type(None)) for name in (end.raw_finish_reason, end.model, end.fingerprint))
    assert type(end.remote) is bool
    assert type(end.usage) is Usage
    counts = (end.usage.input_tokens, end.usage.output_tokens, end.usage.cached_tokens, end.usage.reasoning_tokens)
    assert all(count is None or (type(count) is int and count >= 0) for count in counts)
    assert all(part is None or (type(part) is float and 0 <= part < math.inf) for part in (end.load, end.server_queue))


def joined(found: list[WireEvent] | type[e.LLMError]) -> object:
    """What is to be the same however the bytes are cut. Neighbours of one kind of text count as one."""
    if isinstance(found, type):
        return found
    made: list[tuple[type, str]] = []
    for event in found:
        kind = type(event)
        if isinstance(event, (TextDelta, ReasoningDelta)):
            before = made.pop()[1] if made and made[-1][0] is kind else ""
            made.append((kind, before + event.text))
        elif isinstance(event, ToolCall):
            made.append((kind, repr((event.name, event.arguments, event.id))))
        else:
            made.append((kind, repr(event.vectors) if isinstance(event, Vectors) else repr(event)))
    return made


def chosen(codec: Codec) -> list[str]:
    """The recorded answers of that codec's servers."""
    return [
        name
        for name in RECORDED
        if name != "README.md"
        and not any(f"_{fact}." in name for fact in FACTS)
        and (name.startswith("ollama_") and not name.endswith(".sse")) == (codec is OLLAMA)
    ]


def rounds(share: float, least: int = 0) -> Any:
    """Seeds from 0 on, for as long as there is time, and so many in any case."""
    end = time.monotonic() + SECONDS * share
    seed = 0
    while seed < least or time.monotonic() < end:
        yield seed, random.Random(seed)
        seed += 1


@pytest.mark.parametrize("codec", [OLLAMA, OPENAI], ids=["ollama", "openai"])
def test_mutated_answers_end_in_events_or_a_typed_error_however_they_are_cut(codec: Codec) -> None:
    names, others = chosen(codec), list(RECORDED.values())
    seen: set[object] = set()
    for seed, rng in rounds(0.4):
        name = rng.choice(names)
        body = mutated(RECORDED[name], others, rng)
        request: Request = EMBED if ("embed" in name) != (rng.random() < 0.02) else CHAT
        try:
            whole = read(codec, request, [body])
            if isinstance(whole, list):
                check(whole, request)
            assert joined(read(codec, request, pieces(body, rng))) == joined(whole)
        except Exception as crash:
            crash.add_note(f"seed {seed}, {name}: {body[:2000]!r}")
            raise
        seen.add(whole if isinstance(whole, type) else "events")
    assert seen >= {"events", e.Malformed, e.Truncated}  # the mutants are neither all broken nor all whole


def test_mutated_facts_and_refusals_are_read_or_are_typed_errors() -> None:
    others = list(RECORDED.values())
    names = [name for name in RECORDED if any(f"_{fact}." in name for fact in FACTS)]
    for seed, rng in rounds(0.2):
        name = rng.choice(names)
        body = mutated(RECORDED[name], others, rng)
        try:
            try:
                FACTS[name.split("_")[1].split(".")[0]](body)
            except e.LLMError as error:
                told(error)
            for codec in (OLLAMA, OPENAI):
                assert isinstance(codec.error(rng.randint(100, 599), {"retry-after": "1"}, body), e.LLMError)
            assert isinstance(
                in_band({"error": body.decode("latin-1"), "status": rng.choice((None, 503, "x"))}), e.LLMError
            )
        except Exception as crash:
            crash.add_note(f"seed {seed}, {name}: {body[:2000]!r}")
            raise
