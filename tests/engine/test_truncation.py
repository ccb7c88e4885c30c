"""A context that the server cut: told on the reply, told as an event, or taken for a failure that goes elsewhere."""

from __future__ import annotations

import pytest

from resilient_llm import ConfigError, ContextGuard, ContextOverflow, Restarted, Route, Usage
from resilient_llm.events import AnswerDegraded
from resilient_llm.testing import FakeBackend, say

from .kit import Ask, client, error_of

pytestmark = pytest.mark.anyio
LONG = "word " * 6000
BLIND = ContextGuard(window=10**9)  # sends what does not fit


def cutting(**route: object) -> Route:
    """A model with a window of 4096 that cuts without a word."""
    backend = FakeBackend(say("half", " an answer", usage=Usage(2051, 2)), name="near", local=True, window=4096)
    return Route(backend, **route)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def nobody_counts_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContextGuard, "fits_surely", lambda *_: True)


async def test_a_prompt_that_was_cut_is_told_on_the_reply_and_as_an_event(ask: Ask) -> None:
    events: list[object] = []
    llm = client(cutting(), on_event=events.append)
    reply = await ask(llm, LONG)
    assert (reply.text, reply.degraded) == ("half an answer", ("prompt_truncated",))
    (told,) = [one for one in events if isinstance(one, AnswerDegraded)]
    assert (told.route, told.degraded) == ("near", ("prompt_truncated",))
    assert (await ask(llm, "hi")).degraded == ()


async def test_where_that_is_a_failure_a_route_with_a_larger_window_answers() -> None:
    small = FakeBackend(say("no"), name="small", window=4096)
    large = FakeBackend(say("yes"), name="large", window=32768)
    llm = client(cutting(on_truncation="fail"), small, large)
    reply = await llm.chat(LONG)
    assert (reply.text, reply.route, small.opened) == ("yes", "large", 0)
    (error, _) = (one.error for one in reply.attempts)
    assert isinstance(error, ContextOverflow)
    assert error.limit == 4096
    assert "counted 2051 of about" in str(error)


async def test_alone_it_raises_what_happened(ask: Ask) -> None:
    error = await error_of(ask(client(cutting(on_truncation="fail")), LONG), ContextOverflow)
    assert error.tokens > 4096
    assert error.route == "near"


async def test_a_stream_raises_at_its_end_or_restarts_where_the_route_says_so() -> None:
    large = FakeBackend(say("yes"), name="large", window=32768)
    async with client(cutting(on_truncation="fail"), large).stream(LONG) as stream:
        with pytest.raises(ContextOverflow):
            async for _ in stream:
                pass
    assert (stream.partial, large.opened) == ("half an answer", 0)
    llm = client(cutting(on_truncation="fail", on_break="restart"), large)
    async with llm.stream(LONG) as stream:
        events = [event async for event in stream]
    (restarted,) = [one for one in events if isinstance(one, Restarted)]
    assert (restarted.route, stream.reply.text, stream.reply.route) == ("large", "yes", "large")


async def test_an_answer_in_one_piece_is_looked_at_too() -> None:
    llm = client(cutting(on_truncation="fail", streams=False))
    await error_of(llm.chat(LONG), ContextOverflow)


def test_what_may_be_said_is_checked() -> None:
    with pytest.raises(ConfigError, match="on_truncation: 'drop' is not one of warn, fail"):
        Route("ollama:m", on_truncation="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("adapt", [False, True])
async def test_what_was_learned_is_told_on_the_reply_and_is_an_error_only_where_a_route_adapts(
    adapt: bool, ask: Ask
) -> None:
    counts = [Usage(4000, 1), Usage(3240, 1)]  # the beginning of the conversation is said to be half as long again
    near = FakeBackend(*(say("yes", usage=usage) for usage in counts), name="near", window=4096)
    llm = client(Route(near, on_truncation="fail", adapt=adapt), FakeBackend(say("yes"), name="far", window=32_768))
    await ask(llm, "word " * 2800)
    shown = "by each answer and what those before it have taught" if adapt else "by each answer alone"
    assert f"   truncation: fail, {shown}\n2. far" in llm.explain()
    talk = ["word " * 2800, "yes", "word " * 330]
    if adapt and ask.way == "stream":  # which has handed over what came before it was found
        await error_of(ask(llm, talk), ContextOverflow)
        return
    reply = await ask(llm, talk)
    assert (reply.route, reply.degraded) == (("far", ()) if adapt else ("near", ("prompt_truncated",)))
    more = "alone (by what was learned 1 more and 0 fewer; not used without adapt=True)"
    assert (more in llm.explain()) is not adapt
    assert "truncation:" not in client(near).explain()
