"""What the recorded answers of OpenAI-compatible servers become that are not just text to the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient_llm._errors import LLMError, OutputInvalid, Truncated
from resilient_llm._replies import Done, TextDelta
from resilient_llm._types import ChatRequest, Message, ToolCall
from resilient_llm.wire import WireEvent
from resilient_llm.wire.openai import OpenAICodec

RECORDED = Path(__file__).parent / "recorded"
SAID = "Hello! This is the scripted reply of a tiny test model: it counts one two three four"


def events_of(name: str) -> list[WireEvent]:
    decoder = OpenAICodec("m").decoder(ChatRequest((Message("user", "hi"),)), stream=True)
    return [*decoder.feed((RECORDED / name).read_bytes()), *decoder.close()]


def test_a_stop_word_ends_the_text_before_it() -> None:
    *pieces, end = events_of("llamacpp_stop.sse")
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)) == f"{SAID} five"
    assert isinstance(end, Done)
    assert end.finish_reason == "stop"


@pytest.mark.parametrize(("name", "whole"), [("llamacpp_tools.sse", 1), ("llamacpp_tools_cut.sse", 0)])
def test_tool_calls_are_assembled_and_the_one_that_was_cut_is_left_out(name: str, whole: int) -> None:
    *calls, end = events_of(name)
    assert [(call.name, call.arguments) for call in calls if isinstance(call, ToolCall)] == [
        ("get_weather", {"city": "Paris"})
    ] * whole
    assert len(calls) == whole
    assert isinstance(end, Done)
    assert (end.finish_reason, end.degraded) == ("length", ("cut_at_length",))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("llamacpp_broken.sse", OutputInvalid),
        ("llamacpp_killed.sse", Truncated),
        ("ollama_v1_killed.sse", Truncated),  # which ends as if nothing had happened
    ],
)
def test_an_answer_that_broke_is_no_answer(name: str, error: type[LLMError]) -> None:
    with pytest.raises(error):
        events_of(name)
