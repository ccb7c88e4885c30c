"""What the beginning of a prompt was counted as, where it was asked before."""

from __future__ import annotations

from resilient_llm import ChatRequest, Message, Tool, ToolCall
from resilient_llm.policies._talks import KEPT, Begun, Talks

HI, YES, MORE = Message("user", "hi"), Message("assistant", "yes"), Message("user", "more")


def told(*requests: ChatRequest, counted: int | None = 10) -> Talks:
    talks = Talks()
    for number, request in enumerate(requests):
        talks.remember(request, 4096, counted if counted is None else counted + number)
    return talks


def test_the_longest_beginning_is_found_and_how_many_messages_it_has() -> None:
    talks = told(ChatRequest((HI,)), ChatRequest((HI, YES, MORE)))
    assert talks.begun(ChatRequest((HI, YES)), 4096) == Begun(1, 10)
    assert talks.begun(ChatRequest((HI, YES, MORE, YES)), 4096) == Begun(3, 11)
    assert talks.begun(ChatRequest((MORE,)), 4096) is None
    assert told(ChatRequest((HI,)), counted=None).begun(ChatRequest((HI, YES)), 4096) == Begun(1, None)


def test_only_what_would_be_counted_alike_is_a_beginning() -> None:
    talks, tool = told(ChatRequest((HI,))), Tool("f", "", {"type": "object"})
    assert talks.begun(ChatRequest((HI,)), 2048) is None
    assert talks.begun(ChatRequest((HI,), tools=(tool,)), 4096) is None
    assert talks.begun(ChatRequest((HI,), schema={"type": "object"}), 4096) is None
    calls = told(ChatRequest((Message("assistant", "", tool_calls=(ToolCall("f", {"a": 1}),)),)))
    other = ChatRequest((Message("assistant", "", tool_calls=(ToolCall("f", {"a": 2}),)),))
    assert calls.begun(other, 4096) is None
    assert talks.begun(ChatRequest((Message("user", "hi", reasoning="hm"),)), 4096) is None


def test_the_last_hundred_are_kept_and_one_that_comes_again_is_the_last() -> None:
    each = [ChatRequest((Message("user", str(number)),)) for number in range(KEPT + 1)]
    talks = told(*each[:KEPT])
    assert repr(talks) == "Talks(100)"
    talks.remember(each[0], 4096, 7)
    talks.remember(each[KEPT], 4096, 8)
    assert repr(talks) == "Talks(100)"
    assert talks.begun(each[0], 4096) == Begun(1, 7)
    assert talks.begun(each[1], 4096) is None
    assert talks.begun(each[2], 4096) is not None
    assert talks.begun(each[KEPT], 4096) == Begun(1, 8)
