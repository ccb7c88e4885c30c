"""An answer that comes to no good end is cut: asked for once more with another seed, or sent on."""

from __future__ import annotations

import pytest

from resilient_llm import OutputInvalid, RetryBudget, Route
from resilient_llm.errors import AllRoutesFailed
from resilient_llm.sentinels import OutputSentinel
from resilient_llm.testing import FakeBackend, say

from .kit import Ask, assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio
LOOP = ("I am ", "sorry. ") * 3000
BRIEF = OutputSentinel(loop=400)


async def test_a_loop_is_cut_and_asked_for_once_more_with_another_seed() -> None:
    backend = FakeBackend(say(*LOOP, gap=0.02), say("Paris"))
    llm = client(backend)
    reply = await llm.chat("capital of France?", seed=7)
    assert reply.text == "Paris"
    assert [type(one.error) for one in reply.attempts] == [OutputInvalid, type(None)]
    assert [request.seed for request in backend.requests] == [7, 8]
    assert reply.served_by.seed == 8
    cut = reply.attempts[0]
    assert cut.error.kind == "loop"
    assert cut.error.partial.startswith("I am sorry. ")
    assert cut.total < 0.02 * len(LOOP) / 4  # it was not read to its end
    assert_nothing_held(llm, backend)


@pytest.mark.parametrize(("local", "seeds"), [(True, [None, 1]), (False, [None, None])])
async def test_without_a_seed_the_server_draws_one_but_an_ollamas_model_may_have_its_own(
    local: bool, seeds: list[int | None]
) -> None:
    backend = FakeBackend(say(*LOOP), say("Paris"), local=local)
    await client(backend).chat("hi")
    assert [request.seed for request in backend.requests] == seeds


async def test_a_second_loop_is_the_end_of_it_unless_the_route_sends_it_on(ask: Ask) -> None:
    loops = [Route(FakeBackend(say(*LOOP), name=name), on_break="raise") for name in "ab"]
    error = await error_of(client(loops[0], FakeBackend(say("yes"))).chat("hi"), OutputInvalid)
    assert (error.kind, error.route, len(error.attempts)) == ("loop", "a", 2)
    assert error.fault is None
    sent_on = Route(FakeBackend(say(*LOOP), name="a"), falls_back_on=(OutputInvalid,))
    reply = await client(sent_on, FakeBackend(say("yes"), name="b")).chat("hi", seed=1)
    assert [(one.route, one.kind) for one in reply.attempts] == [("a", "first"), ("a", "retry"), ("b", "fallback")]
    assert reply.served_by.seed == 1  # what one model wrote says nothing about another's seed
    everywhere = client(sent_on, loops[1])
    assert isinstance(await error_of(everywhere.chat("hi"), AllRoutesFailed), AllRoutesFailed)


async def test_the_repeat_draws_on_the_budget() -> None:
    backend = FakeBackend(say(*LOOP), say("Paris"))
    await error_of(client(Route(backend, budget=RetryBudget(ratio=0, burst=0))).chat("hi"), OutputInvalid)
    assert len(backend.requests) == 1


async def test_loops_say_nothing_about_the_servers_health() -> None:
    backend = FakeBackend(say(*LOOP))
    llm = client(Route(backend, budget=RetryBudget(burst=100), sentinel=BRIEF))
    for _ in range(12):
        await error_of(llm.chat("hi"), OutputInvalid)
    assert llm.snapshot()["fake"]["breaker"].state == "closed"


async def test_a_stream_is_cut_where_it_is_and_tells_what_came() -> None:
    async with client(Route(FakeBackend(say("Well: ", *LOOP)), sentinel=BRIEF)).stream("hi") as stream:
        texts: list[str] = []
        with pytest.raises(OutputInvalid) as caught:
            async for text in stream.text():
                texts.append(text)  # what came before the error counts
    assert caught.value.kind == "loop"
    assert caught.value.partial.startswith("".join(texts))
    assert "sorry" not in f"{caught.value!r} {caught.value}"


async def test_a_stream_begins_anew_where_its_route_says_so() -> None:
    backend = FakeBackend(say(*LOOP), say("Pa", "ris"))
    async with client(Route(backend, on_break="restart", sentinel=BRIEF)).stream("hi", seed=3) as stream:
        events = [type(event).__name__ async for event in stream]
    assert events[-4:] == ["Restarted", "TextDelta", "TextDelta", "Done"]
    assert stream.reply.text == "Paris"
    assert (stream.reply.degraded, stream.reply.served_by.seed) == (("restarted",), 4)


async def test_reasoning_that_runs_in_circles_is_cut(ask: Ask) -> None:
    backend = FakeBackend(say("no", reasoning=("Wait, ", "let me count again. ") * 1000), say("yes"))
    assert (await client(backend).chat("hi")).text == "yes"


async def test_an_answer_that_its_limit_cut_in_the_middle_of_a_loop_is_none() -> None:
    """In one piece, as a server sends it that does not stream: it cannot be cut, but it is not taken for an answer."""
    backend = FakeBackend(say("".join(LOOP), finish="length"), say("yes"))
    reply = await client(backend).chat("hi", max_tokens=6000)
    assert (reply.text, len(reply.attempts)) == ("yes", 2)


async def test_an_answer_that_ends_by_itself_is_one_whatever_it_repeats(ask: Ask) -> None:
    whole = "".join(LOOP[:1400])
    assert (await ask(client(FakeBackend(say(whole))))).text == whole


@pytest.mark.parametrize(("window", "limit"), [(None, 100), (100, None)])
async def test_a_server_that_does_not_know_the_limit_is_stopped(window: int | None, limit: int | None) -> None:
    endless = [f"word{number} " for number in range(5000)]
    backend = FakeBackend(say(*endless), window=window)
    error = await error_of(client(backend).chat("hi", max_tokens=limit), OutputInvalid)
    assert error.kind == "run_on"
    assert len(error.partial.split()) < 1000


async def test_white_space_instead_of_json_is_cut() -> None:
    backend = FakeBackend(say("{", *["\n  "] * 3000), say("4", "2"))
    assert (await client(backend).parse("hi", int)).output == 42
    assert len(backend.requests) == 2


EATEN = say(reasoning=("Let me ", "see. "), finish="length")


async def test_an_answer_that_thinking_ate_is_one_unless_the_sentinel_says_otherwise(ask: Ask) -> None:
    backend = FakeBackend(EATEN, say("Paris"))
    reply = await ask(client(backend), max_tokens=2, seed=7)
    assert (reply.text, reply.degraded) == ("", ("cut_at_length", "thinking_ate_budget"))


async def test_where_it_says_so_it_is_asked_for_once_more_and_then_sent_on() -> None:
    strict = OutputSentinel(empty="fail")
    backend = FakeBackend(EATEN, say("Paris"))
    reply = await client(Route(backend, sentinel=strict)).chat("hi", max_tokens=2, seed=7)
    assert (reply.text, [request.seed for request in backend.requests]) == ("Paris", [7, 8])
    first = Route(FakeBackend(EATEN, name="a"), sentinel=strict, falls_back_on=(OutputInvalid,))
    reply = await client(first, FakeBackend(say("Paris"), name="b")).chat("hi", max_tokens=2)
    assert [one.route for one in reply.attempts] == ["a", "a", "b"]
    error = reply.attempts[0].error
    assert isinstance(error, OutputInvalid)
    assert (error.kind, error.fault, error.reply.reasoning) == ("empty", None, "Let me see. ")


async def test_a_stream_of_thoughts_alone_raises_at_its_end_or_restarts() -> None:
    for on_break, ends in (("raise", "OutputInvalid"), ("restart", "Done")):
        route = Route(FakeBackend(EATEN, say("Paris")), sentinel=OutputSentinel(empty="fail"), on_break=on_break)
        seen: list[str] = []
        async with client(route).stream("hi", max_tokens=2) as stream:
            try:
                async for event in stream:
                    seen.append(type(event).__name__)
            except OutputInvalid as error:
                seen.append(type(error).__name__)
        assert seen[-1] == ends


async def test_a_sentinel_can_be_taken_off() -> None:
    off = OutputSentinel(loop=None)
    reply = await client(Route(FakeBackend(say(*LOOP)), sentinel=off)).chat("hi")
    assert reply.text == "".join(LOOP)
