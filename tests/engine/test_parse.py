"""Typed output: asked for by schema, checked by type, and an answer that is none says so without being shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from resilient_llm import ChatReply, ChatRequest, ConfigError, OutputInvalid, ParsedReply, Retry, RetryBudget, Route
from resilient_llm.errors import ServerError
from resilient_llm.events import AnswerDegraded, ClientEvent
from resilient_llm.testing import FakeBackend, cut, fail, say

from .kit import client, error_of

pytestmark = pytest.mark.anyio


class City(BaseModel):
    name: str
    inhabitants: int


@dataclass
class Point:
    x: float
    y: float


class NoSchema:
    """A class that pydantic knows nothing about."""


GOOD: list[tuple[Any, str, Any]] = [
    (City, '{"name":"Paris","inhabitants":2102650}', City(name="Paris", inhabitants=2102650)),
    (Point, '{"x":1,"y":2.5}', Point(1, 2.5)),
    (list[int], "[1,2,3]", [1, 2, 3]),
    (Literal["yes", "no"], '"yes"', "yes"),
    (int, " 42\n", 42),
]


@pytest.mark.parametrize(("kind", "text", "output"), GOOD)
async def test_an_answer_of_the_type_is_parsed(kind: Any, text: str, output: Any) -> None:
    backend = FakeBackend(say(*text))
    reply = await client(backend).parse("hi", kind)
    assert reply.output == output
    assert isinstance(reply, ParsedReply)
    assert isinstance(reply, ChatReply)
    assert reply.text == text
    request = backend.requests[0]
    assert isinstance(request, ChatRequest)
    assert request.schema is not None


async def test_a_parsed_reply_says_what_every_reply_says() -> None:
    first, second = FakeBackend(fail(ServerError("no")), name="a"), FakeBackend(say("42", finish="length"), name="b")
    reply = await client(Route(first, retry=Retry(attempts=1)), second).parse("hi", int)
    assert reply.route == "b"
    assert [one.route for one in reply.attempts] == ["a", "b"]
    assert reply.degraded == ("cut_at_length",)


@pytest.mark.parametrize("text", ["```json\n{0}\n```", "\n```\n{0}\n```\n", "  ```JSON\n\n  {0}\n  ```"])
async def test_an_answer_is_taken_out_of_its_code_fence_and_that_is_told(text: str) -> None:
    told: list[ClientEvent] = []
    answer = text.replace("{0}", '{"name":"Paris",\n"inhabitants":1}')
    reply = await client(FakeBackend(say(answer)), on_event=told.append).parse("hi", City)
    assert (reply.output, reply.text, reply.degraded) == (City(name="Paris", inhabitants=1), answer, ("repaired",))
    assert [event.degraded for event in told if isinstance(event, AnswerDegraded)] == [("repaired",)]
    assert len(reply.attempts) == 1


async def test_a_fence_within_the_answer_stays_in_it() -> None:
    reply = await client(FakeBackend(say(r'"```\n1\n```"'))).parse("hi", str)
    assert (reply.output, reply.degraded) == ("```\n1\n```", ())


BAD: list[tuple[Any, str]] = [
    (City, 'Here it is:\n```json\n{"name":"sesame","inhabitants":1}\n```'),
    (City, '```json\n{"name":"sesame"}\n```'),
    (City, '{"name":"sesame"}'),
    (City, '{"name":"sesame","inhabitants":"sesame"}'),
    (City, "sesame"),
    (City, '["sesame"]'),
    (list[int], '["sesame"]'),
    (dict[str, int], '{"sesame":"sesame"}'),
    (dict[Literal["a"], int], '{"sesame":1}'),
    (Literal["yes", "no"], '"sesame"'),
]


@pytest.mark.parametrize(("kind", "text"), BAD)
async def test_an_answer_of_another_type_is_invalid_and_kept_but_not_shown(kind: Any, text: str) -> None:
    error = await error_of(client(FakeBackend(say(text))).parse("hi", kind), OutputInvalid)
    assert error.reply.text == text
    assert (error.kind, error.route, len(error.attempts)) == ("schema", "fake", 2)
    assert error.reply.attempts == error.attempts
    assert "sesame" not in f"{error} {error!r} {error.args} {error.reply!r}"
    assert error.__cause__ is None


async def test_an_answer_of_another_type_is_asked_for_once_more_with_another_seed() -> None:
    backend = FakeBackend(say("about 42"), say("42"))
    reply = await client(backend).parse("hi", int, seed=5)
    assert (reply.output, reply.text) == (42, "42")
    assert [request.seed for request in backend.requests] == [5, 6]
    assert [type(one.error) for one in reply.attempts] == [OutputInvalid, type(None)]


async def test_that_repeat_draws_on_the_budget_and_on_the_attempts() -> None:
    for route in (
        Route(FakeBackend(say("no")), budget=RetryBudget(ratio=0, burst=0)),
        Route(FakeBackend(say("no")), retry=Retry(attempts=1)),
    ):
        assert len((await error_of(client(route).parse("hi", int), OutputInvalid)).attempts) == 1


async def test_an_answer_that_its_limit_cut_is_not_asked_for_again() -> None:
    error = await error_of(client(FakeBackend(say('{"name":"Par', finish="length"))).parse("hi", City), OutputInvalid)
    assert len(error.attempts) == 1
    assert error.reply.degraded == ("cut_at_length",)
    assert "(the limit of tokens cut it off)" in error.message


async def test_another_route_answers_where_its_route_says_so() -> None:
    first = Route(FakeBackend(say("no"), name="a"), falls_back_on=(OutputInvalid,))
    assert (await client(first, FakeBackend(say("42"), name="b")).parse("hi", int)).output == 42


async def test_the_message_names_the_field_that_is_wrong() -> None:
    error = await error_of(client(FakeBackend(say('{"name":"x"}'))).parse("hi", City), OutputInvalid)
    assert error.message == "the answer is not a City: inhabitants: missing"


async def test_a_parse_that_breaks_off_goes_to_the_next_route_as_a_chat_does() -> None:
    first = Route(FakeBackend(cut("4"), name="a"), retry=Retry(attempts=1))
    assert (await client(first, FakeBackend(say("42"), name="b")).parse("hi", int)).output == 42


@pytest.mark.parametrize("kind", [object(), NoSchema, Callable[[], int], {}, "", "\ud800", 7])
async def test_a_type_without_a_schema_is_told_and_nothing_is_sent(kind: Any) -> None:
    backend = FakeBackend()
    with pytest.raises(ConfigError, match="type: "):
        await client(backend).parse("hi", kind)
    assert backend.requests == []
