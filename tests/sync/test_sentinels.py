"""A loop is cut through the facade as it is without it: `chat` asks once more, a stream raises with what had come."""

from __future__ import annotations

import pytest

from resilient_llm import Client, OutputInvalid, Restarted, Route
from resilient_llm.sentinels import OutputSentinel
from resilient_llm.testing import FakeBackend, say

LOOP = say("Well: ", *["I am ", "sorry. "] * 400)
BRIEF = OutputSentinel(loop=400)


def test_a_loop_in_a_chat_is_cut_and_asked_for_once_more() -> None:
    with Client(Route(FakeBackend(LOOP, say("Paris")), sentinel=BRIEF)) as llm:
        reply = llm.chat("capital of France?", seed=7)
    assert (reply.text, reply.served_by.seed) == ("Paris", 8)
    (error, _) = (one.error for one in reply.attempts)
    assert isinstance(error, OutputInvalid)
    assert error.kind == "loop"


def test_a_loop_in_a_stream_ends_it_with_what_had_come() -> None:
    with Client(Route(FakeBackend(LOOP), sentinel=BRIEF)) as llm, llm.stream("hi") as stream:
        texts: list[str] = []
        with pytest.raises(OutputInvalid) as caught:
            texts.extend(stream.text())
    assert caught.value.kind == "loop"
    assert caught.value.partial.startswith("Well: I am sorry. ")
    assert len(caught.value.partial) < 800 * 4


def test_a_stream_begins_anew_where_its_route_says_so() -> None:
    route = Route(FakeBackend(LOOP, say("Paris")), sentinel=BRIEF, on_break="restart")
    with Client(route) as llm, llm.stream("hi") as stream:
        events = list(stream)
    assert sum(isinstance(event, Restarted) for event in events) == 1
    assert stream.reply.text == "Paris"
