"""What a model thought goes back to the route that it came from, and to no other."""

from __future__ import annotations

from resilient_llm import ChatRequest, Message
from resilient_llm.policies.history import for_route


def said(route: str | None, reasoning: str | None = "hm") -> Message:
    return Message("assistant", "yes", reasoning=reasoning, route=route)


def test_what_another_model_thought_is_left_out_and_nothing_else() -> None:
    request = ChatRequest((Message("user", "hi"), said("a"), said("b"), said(None), said("b", None)), seed=7)
    sent = for_route(request, "a")
    assert [one.reasoning for one in sent.messages] == [None, "hm", None, "hm", None]
    assert [one.content for one in sent.messages] == ["hi", "yes", "yes", "yes", "yes"]
    assert [one.route for one in sent.messages] == [None, "a", "b", None, "b"]
    assert sent.seed == 7
    assert [one.reasoning for one in request.messages] == [None, "hm", "hm", "hm", None]


def test_where_there_is_nothing_to_leave_out_the_request_stays_the_same() -> None:
    request = ChatRequest((Message("user", "hi"), said("a"), said(None), said("b", None)))
    assert for_route(request, "a") is request
