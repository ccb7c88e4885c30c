"""Tests of your own code without network and without sleep: backends follow a script, on a clock that jumps.

Run it with `pytest examples/test_with_fakes.py`; it needs pytest and trio.
"""

import anyio
import pytest
from trio.testing import MockClock

from resilient_llm import AsyncClient, LLMError, Route, Timeouts
from resilient_llm.errors import BadRequest, ConnectFailed
from resilient_llm.testing import FakeBackend, fail, hang, say


async def summarise(llm: AsyncClient, text: str) -> str:
    """The code under test."""
    try:
        return (await llm.chat(f"Summarise: {text}", timeout=60)).text
    except LLMError as error:
        return f"(no summary: {type(error).__name__})"


@pytest.fixture
def anyio_backend() -> object:
    return "trio", {"clock": MockClock(autojump_threshold=0)}  # when all wait, time jumps to whoever waits least


pytestmark = pytest.mark.anyio


async def test_a_model_that_hangs_costs_its_first_token_limit_and_no_more() -> None:
    local, hosted = FakeBackend(hang(), local=True), FakeBackend(say("All", " is well."))
    routes = Route(local, timeouts=Timeouts(first_token=8)), hosted
    began = anyio.current_time()
    async with AsyncClient(*routes, clock=anyio.current_time) as llm:  # the client's clock is the loop's: it jumps too
        assert await summarise(llm, "a long text") == "All is well."
    assert anyio.current_time() - began == pytest.approx(8)


async def test_a_connection_that_fails_once_is_tried_again() -> None:
    local = FakeBackend(fail(ConnectFailed()), say("All is well."), local=True)
    async with AsyncClient(local, clock=anyio.current_time) as llm:
        assert await summarise(llm, "a long text") == "All is well."
    assert local.opened == local.closed == 2


async def test_a_mistake_of_ours_is_not_sent_anywhere_else() -> None:
    local, hosted = FakeBackend(fail(BadRequest("no such field")), local=True), FakeBackend()
    async with AsyncClient(local, hosted) as llm:
        assert await summarise(llm, "a long text") == "(no summary: BadRequest)"
    assert not hosted.requests
