"""There is a chunk for every token: the usual one takes the short way through the decoder, whoever sends it."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm._replies import ReasoningDelta, TextDelta
from resilient_llm.wire._openai_stream import ChatDecoder

from .chunks import chunk, sse
from .corpus import CASES

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
