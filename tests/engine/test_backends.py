"""Backends of the user's own: the one verb is enough, and what they do wrong stays honest and holds nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from resilient_llm import Done, Retry, Route, TextDelta
from resilient_llm.errors import Truncated
from resilient_llm.testing import FakeBackend, say

from .kit import Ask, assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio


class Own:
    """A backend with nothing but a name and the one verb. It gives these batches, or raises them."""

    name = "own"

    def __init__(self, *batches: Sequence[Any] | Exception) -> None:
        self.batches, self.opened, self.closed = batches, 0, 0

    def open(
        self, request: Any, watch: Any, *, stream: bool = True
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Any]]]:
        del request, watch, stream

        async def events() -> AsyncIterator[Sequence[Any]]:
            for batch in self.batches:
                await anyio.lowlevel.checkpoint()
                if isinstance(batch, Exception):
                    raise batch
                yield batch

        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncIterator[Sequence[Any]]]:
            self.opened += 1
            iterator = events()
            try:
                yield iterator
            finally:
                self.closed += 1
                await iterator.aclose()  # type: ignore[attr-defined]

        return opened()


async def test_a_name_and_the_one_verb_are_enough(ask: Ask) -> None:
    backend = Own([TextDelta("hel"), TextDelta("lo")], [Done()])
    reply = await ask(client(backend))
    assert (reply.text, reply.route, reply.model, reply.served_by.provider) == ("hello", "own", "own", "custom")
    assert backend.opened == backend.closed == 1


@pytest.mark.parametrize("batches", [[], [[TextDelta("half ")]], [[TextDelta("half ")], [TextDelta("an answer")]]])
async def test_an_answer_that_just_ends_is_never_a_short_answer(ask: Ask, batches: list[Any]) -> None:
    backend = Own(*batches)
    llm = client(Route(backend, retry=Retry(attempts=1)))
    error = await error_of(ask(llm), Truncated)
    assert error.partial == "".join(delta.text for batch in batches for delta in batch)
    assert_nothing_held(llm)
    assert backend.opened == backend.closed == 1


async def test_an_answer_that_just_ends_is_asked_for_elsewhere() -> None:
    first = Route(Own([TextDelta("half ")]), retry=Retry(attempts=1))
    assert (await client(first, FakeBackend(say("whole"))).chat("hi")).text == "whole"


@pytest.mark.parametrize("before", [[], [[TextDelta("a")]]])
async def test_an_exception_that_no_backend_may_raise_escapes_as_it_is_and_holds_nothing(
    ask: Ask, before: list[Any]
) -> None:
    backend = Own(*before, ZeroDivisionError("a mistake in the backend"))
    llm = client(backend, FakeBackend(say("no")))
    with pytest.raises(ZeroDivisionError, match="a mistake in the backend"):
        await ask(llm)
    assert_nothing_held(llm)
    assert backend.opened == backend.closed == 1


async def test_what_comes_after_the_last_event_is_not_waited_for(ask: Ask) -> None:
    backend = Own([TextDelta("a"), Done()], ZeroDivisionError())
    assert (await ask(client(backend))).text == "a"
    assert backend.opened == backend.closed == 1
