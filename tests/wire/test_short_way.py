"""There is a chunk for every token: the usual one takes the short way through the decoder, whoever sends it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm._errors import LLMError, Malformed
from resilient_llm._replies import ReasoningDelta, TextDelta
from resilient_llm.wire import WireEvent, _openai_stream
from resilient_llm.wire._frames import MAX_LINE
from resilient_llm.wire._openai_plain import Form
from resilient_llm.wire._openai_stream import ChatDecoder

from .chunks import DONE, chunk, sse
from .corpus import CASES
from .test_fuzz import mutated, pieces, rounds

USUAL: dict[str, dict[str, Any]] = {
    "OpenAI, llama.cpp, Groq": {"content": " word"},
    "OpenRouter, Ollama, TGI": {"role": "assistant", "content": " word"},
    "SGLang": {"role": None, "content": " word", "reasoning_content": None, "tool_calls": None},
    "DeepSeek": {"content": " word", "reasoning_content": None},
    "Together": {"token_id": 9906, "role": "assistant", "content": " word", "tool_calls": None},
    "Azure": {"content": " word", "refusal": None, "role": "assistant"},
}
MORE: dict[str, dict[str, Any]] = {
    "reasoning": {"content": " word", "reasoning": "hm"},
    "a tool call": {"content": " word", "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]},
    "a refusal": {"content": " word", "refusal": "no"},
}


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The chunks that are looked at in full."""
    taken: list[dict[str, Any]] = []
    full = ChatDecoder._chunk

    def looked_at(self: ChatDecoder, one: dict[str, Any], events: list[Any]) -> None:
        taken.append(one)
        full(self, one, events)

    monkeypatch.setattr(ChatDecoder, "_chunk", looked_at)
    return taken


@pytest.mark.parametrize("delta", USUAL.values(), ids=USUAL)
def test_a_usual_chunk_takes_the_short_way(delta: dict[str, Any], long_way: list[dict[str, Any]]) -> None:
    piece = sse(chunk(delta, usage=None, system_fingerprint="fp", obfuscation="xx"))
    decoder = ChatDecoder()
    events = [event for _ in range(50) for event in decoder.feed(piece)]
    assert events == [TextDelta(" word")] * 50
    assert len(long_way) == 1  # the first tells the model


@pytest.mark.parametrize("delta", MORE.values(), ids=MORE)
def test_a_chunk_that_holds_more_than_text_is_looked_at_in_full(
    delta: dict[str, Any], long_way: list[dict[str, Any]]
) -> None:
    decoder = ChatDecoder()
    decoder.feed(sse(chunk({"content": "a"})))
    events = decoder.feed(sse(chunk(delta)))
    assert len(long_way) == 2
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert said == " word" + delta.get("refusal", "")
    assert [event for event in events if isinstance(event, ReasoningDelta)] == [
        ReasoningDelta(text) for text in (delta.get("reasoning"),) if text
    ]


def test_nearly_all_chunks_of_a_recorded_answer_take_the_short_way(long_way: list[dict[str, Any]]) -> None:
    """Of forty the first, the finish and the usage do not, nor those that carry more than text."""
    for case in CASES:
        if case.recorded and case.name in ("answer", "answer ended by a stop word") and case.wire == "openai":
            long_way.clear()
            case.outcome()
            assert len(long_way) <= 4 < 15 < case.body.count(b"data: ")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The frames that are parsed as JSON."""
    taken: list[bytes] = []
    parse = _openai_stream.from_json
    monkeypatch.setattr(_openai_stream, "from_json", lambda frame: (taken.append(frame), parse(frame))[1])
    return taken


@pytest.mark.parametrize("delta", USUAL.values(), ids=USUAL)
def test_of_chunks_that_differ_in_their_text_alone_only_the_first_are_parsed(
    delta: dict[str, Any], parsed: list[bytes]
) -> None:
    words = [f" é{number} 語" for number in range(50)]
    stream = [written(chunk({**delta, "content": word})) for word in words]
    decoder = ChatDecoder()
    events = [event for piece in [*stream[:20], b"".join(stream[20:])] for event in decoder.feed(piece)]
    assert events == [TextDelta(word) for word in words]
    assert len(parsed) == 2


def written(one: dict[str, Any]) -> bytes:
    """An event as servers write it, with what is not ASCII as it is."""
    return b"data: " + json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def test_the_text_is_that_of_the_first_choice_and_not_one_like_it() -> None:
    said = [("a", "a"), ("a", "a"), ("b", "a"), ("a", "b"), ("c", "d")]
    stream = [written({"note": {"content": note}, **chunk({"content": text})}) for note, text in said]
    decoder = ChatDecoder()
    assert [event for piece in stream for event in decoder.feed(piece)] == [TextDelta(text) for _, text in said]


def test_a_form_that_fits_no_other_chunk_is_given_up(parsed: list[bytes]) -> None:
    decoder = ChatDecoder()
    for number in range(50):
        assert decoder.feed(sse(chunk({"content": "a"}, id=number))) == [TextDelta("a")]
    assert decoder._form is None
    assert len(parsed) == 50


def test_a_form_is_not_looked_for_where_each_chunk_is_padded() -> None:
    decoder = ChatDecoder()
    for _ in range(2):
        decoder.feed(sse(chunk({"content": "a"}, obfuscation="xx")))
    assert decoder._form is None


BEFORE, AFTER = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"', b'"},"finish_reason":null}]}\n\n'
INNER = (
    b" word", b"", b" ", b"\xc3\xa9", b"\xff", b"\xed\xa0\x80", b"\\n", b"\\", b'\\"', b'"', b"\n", b"\r", b"\x00",
    b"\x7f", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"<think>", b"w" * 70_000, b'x","role":"user',
    b'x"},"finish_reason":"stop"}]}\n\n' + BEFORE + b"y", b'x"},"finish_reason":null}]}\r\n\r\n' + BEFORE + b"y",
    b'"}}],"error":{"message":"no"},"x":[{"y":{"z":"',
)  # fmt: skip
OTHER = (
    b": keep-alive\n\n",
    b"event: error\n",
    b"\n",
    b"data: ",
    sse(chunk({}, "stop")),
    DONE,
    sse(chunk({"content": "z"})),
)
PIECES = (*(BEFORE + inner + AFTER for inner in INNER), *OTHER)
USUALLY = [BEFORE + word + AFTER for word in (b"a", b"b", b"c")]


def told(stream: Sequence[bytes]) -> object:
    """The events, their neighbouring texts joined, and the error."""
    decoder = ChatDecoder()
    events: list[object] = [""]

    def take(found: list[WireEvent]) -> None:
        for event in found:
            if isinstance(event, TextDelta):
                assert event.text
                events[-1] = f"{events[-1]}{event.text}"
            else:
                events.extend((event, ""))

    try:
        for piece in stream:
            take(decoder.feed(piece))
        take(decoder.close())
    except LLMError as error:
        return events, type(error), error.message
    return events


def told_by_parsing(stream: Sequence[bytes]) -> object:
    """What is told of it where every chunk is parsed."""
    with patch.object(Form, "learn", lambda *_: False):
        return told(stream)


@pytest.mark.parametrize("first", PIECES, ids=lambda piece: repr(piece[-70:-40]))
def test_a_chunk_that_is_not_parsed_comes_to_what_it_would_have_come_to(first: bytes) -> None:
    for second in PIECES:
        for stream in (
            [*USUALLY, first, second, USUALLY[0], DONE],
            [*USUALLY, first + second, USUALLY[0] + USUALLY[1], DONE],
        ):
            assert told(stream) == told_by_parsing(stream)


@given(st.lists(st.sampled_from([*PIECES, *USUALLY]), max_size=12), st.lists(st.integers(0, 2000), max_size=4))
def test_wherever_it_is_cut(stream: list[bytes], cuts: list[int]) -> None:
    body = b"".join(stream)
    at = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces_of_it = [*USUALLY, *(body[start:end] for start, end in pairwise(at))]
    assert told(pieces_of_it) == told_by_parsing(pieces_of_it)


@pytest.mark.parametrize(
    "stream",
    [
        [written({"note": {"content": '"foo'}, **chunk({"content": "\\"})})] * 2,
        [b'data: {"model":"m",\ndata: "choices":[{"delta":{"content":"a"}}]}\n\n',
         b'data: {"model":"m",\n"choices":[{"delta":{"content":"b"}}]}\n\n'],
    ],
    ids=["what is escaped looks like the text", "an event of two lines, and one like it that is cut"],
)  # fmt: skip
def test_a_form_is_taken_down_only_where_it_means_what_it_seems_to(stream: list[bytes]) -> None:
    whole = [USUALLY[0], *stream, DONE]
    assert told(whole) == told_by_parsing(whole)


def test_an_error_beside_text_is_one_in_every_chunk() -> None:
    decoder = ChatDecoder()
    decoder.feed(USUALLY[0])
    with pytest.raises(LLMError, match="no memory"):
        decoder.feed(written({**chunk({"content": "a"}), "object": "error", "message": "no memory"}))


def test_an_event_that_is_longer_than_a_line_may_be_is_refused_all_the_same() -> None:
    decoder = ChatDecoder()
    for piece in USUALLY:
        decoder.feed(piece)
    with pytest.raises(Malformed):
        decoder.feed(BEFORE + b"w" * MAX_LINE + AFTER)


def test_the_same_of_mutants_of_the_corpus() -> None:
    bodies = [case.body for case in CASES if case.status == 200 and case.wire == "openai" and case.body]
    for seed, rng in rounds(0.2):
        body = mutated(rng.choice(bodies), bodies, rng)
        stream = rng.choice((pieces, by_event))(body, rng)
        try:
            assert told(stream) == told_by_parsing(stream)
        except Exception as crash:
            crash.add_note(f"seed {seed}: {body[:2000]!r}")
            raise


def by_event(body: bytes, _: random.Random) -> list[bytes]:
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]
