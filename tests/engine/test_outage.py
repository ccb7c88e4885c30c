"""An hour of outage in a second: what a client does while a server is down, and when it is back. Virtual time."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

from resilient_llm import LLMError, Route
from resilient_llm.backends.base import Batches
from resilient_llm.errors import ServerError
from resilient_llm.testing import FakeBackend, fail, hang, say

from .kit import Ask, assert_nothing_held, client

pytestmark = pytest.mark.anyio
HOUR, EVERY = 3600.0, 10.0
CALLS = int(HOUR / EVERY)
COOLDOWN = 30.0  # seconds: the longest of a breaker
DOWN = {
    "it fails": fail(ServerError("no", status=500)),
    "it hangs": hang(),
}


class Down(FakeBackend):
    """Out of order for an hour, then well again.

    Attributes:
        opens: the instants at which an attempt reached it.
    """

    def __init__(self, step: Any, **options: Any) -> None:
        super().__init__(**options)
        self._step, self.opens = step, list[float]()
        self.back = math.inf

    def open(self, request: Any, watch: Any, *, stream: bool = True) -> AbstractAsyncContextManager[Batches]:
        self.opens.append(anyio.current_time())
        self.then(self._step if self.opens[-1] < self.back else say("ok"))
        return super().open(request, watch, stream=stream)


async def an_hour(llm: Any, ask: Ask, server: Down, timeout: float) -> tuple[Counter[str], list[float]]:
    """Somebody calls every ten seconds, for an hour of outage and four minutes of health. What came of it, and when."""
    ends, took, began = Counter[str](), list[float](), anyio.current_time()
    server.back = began + HOUR

    async def call(due: float) -> None:
        try:
            end = (await ask(llm, timeout=timeout)).route
        except LLMError as error:
            end = type(error).__name__
        took.append(anyio.current_time() - due)
        ends[end if due < server.back + COOLDOWN + EVERY else f"{end}, later"] += 1

    async with anyio.create_task_group() as group:
        for number in range(CALLS + 24):
            await anyio.sleep_until(began + number * EVERY)
            group.start_soon(call, anyio.current_time())
    return ends, took


@pytest.mark.invariant(4, 15, 21)
@pytest.mark.parametrize("what", DOWN)
async def test_an_hour_of_outage_costs_nobody_an_answer_where_there_is_another_route(ask: Ask, what: str) -> None:
    server, other = Down(DOWN[what], name="down"), FakeBackend(say("yes"), name="other")
    llm = client(server, other)
    real = time.process_time()
    ends, took = await an_hour(llm, ask, server, timeout=8.0)
    assert time.process_time() - real < 10  # one second; the bound is for a machine that is busy
    assert max(took) <= 8.0
    assert ends["other"] >= CALLS - 1
    assert ends.total() == CALLS + 24
    assert ends.keys() <= {"other", "down", "down, later"}, "none fails, and the server is used as soon as it is back"
    down = [at for at in server.opens if at < server.back]
    cut = 4 if what == "it hangs" else 1  # callers who leave after 4 s each say little: it takes that many of them
    assert len(down) <= 10 + cut * HOUR / COOLDOWN, "what opens the breaker, and then a probe from time to time"
    probes = [at for at in down if at > down[0] + 200]
    assert min(after - before for before, after in zip(probes, probes[cut:], strict=False)) >= COOLDOWN
    assert llm.snapshot()["down"]["breaker"].state == "closed"
    assert_nothing_held(llm, server, other)


@pytest.mark.invariant(4, 15, 43)
async def test_in_an_hour_of_outage_a_lone_route_refuses_at_once_and_comes_back(ask: Ask) -> None:
    server = Down(DOWN["it fails"], name="down")
    llm = client(Route(server))
    ends, took = await an_hour(llm, ask, server, timeout=8.0)
    assert ends.keys() == {"ServerError", "CircuitOpenTooLong", "down", "down, later"}
    refused = ends["CircuitOpenTooLong"]  # a call comes every 10 s, with 8 s
    assert refused > CALLS * 0.6
    assert sum(seconds == 0 for seconds in took) >= refused, "a refusal takes no time"
    calls = ends.total() - refused  # that came to the route
    assert len(server.opens) <= calls + 10 + 0.1 * calls
    assert llm.snapshot()["down"]["breaker"].state == "closed"
    assert_nothing_held(llm, server)
