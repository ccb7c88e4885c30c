"""How many attempts there are at most: repeats draw on the budget, and a call inside an attempt repeats nothing."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from resilient_llm import AllRoutesFailed, AsyncClient, CircuitBreaker, RateLimited, Retry, RetryBudget, Route, Timeouts
from resilient_llm.errors import ServerError
from resilient_llm.testing import FakeBackend, fail, hang, say

from .kit import Ask, client, error_of, unlimited

pytestmark = pytest.mark.anyio
DEAD = CircuitBreaker(mode="observe_only")


@pytest.mark.invariant(15)
@pytest.mark.parametrize("calls", [1, 30, 200])
async def test_repeats_on_a_dead_route_are_bounded_by_its_budget(ask: Ask, calls: int) -> None:
    backend = FakeBackend(fail(ServerError("dead")))
    llm = client(Route(backend, breaker=DEAD, budget=RetryBudget(ratio=0.1, burst=10)))
    for _ in range(calls):
        await error_of(ask(llm), ServerError)
    assert calls <= len(backend.requests) <= calls + 10 + 0.1 * calls
    if calls == 200:
        assert len(backend.requests) >= calls + 10 + 0.1 * calls - 2  # and it is used


async def test_a_throttled_route_never_costs_the_next_one_its_traffic(ask: Ask) -> None:
    first = Route(FakeBackend(fail(RateLimited("slow", retry_after=0.01)), name="a"), breaker=DEAD)
    second = FakeBackend(say("yes"), name="b")
    llm = client(first, second, plan=lambda request, routes: routes)
    for _ in range(60):
        reply = await ask(llm)
        assert (reply.attempts[0].route, reply.route) == ("a", "b")
        await anyio.sleep(0.1)  # the first is not put aside any more
    assert llm.snapshot()["b"]["budget"] == 10


async def test_an_empty_budget_leaves_the_first_attempt_on_every_route_free(ask: Ask) -> None:
    empty = RetryBudget(ratio=0, burst=0)
    routes = [Route(FakeBackend(fail(ServerError("no")), name=name), budget=empty, breaker=DEAD) for name in "abc"]
    error = await error_of(ask(client(*routes)), AllRoutesFailed)
    assert [(one.route, type(one.error)) for one in error.attempts] == [(name, ServerError) for name in "abc"]
    assert [route.backend.opened for route in routes] == [1, 1, 1]  # type: ignore[union-attr]


class Nested:
    """A backend that answers by asking another client."""

    name = "outer"

    def __init__(self, inner: AsyncClient) -> None:
        self._inner, self._reply = inner, FakeBackend(say("yes"))

    def open(self, request: Any, watch: Any, *, stream: bool = True) -> Any:
        outer = self

        class Opening:
            async def __aenter__(self) -> Any:
                await outer._inner.chat("inside")
                self._real = outer._reply.open(request, watch, stream=stream)
                return await self._real.__aenter__()

            async def __aexit__(self, *error: object) -> None:
                await self._real.__aexit__(*error)

        return Opening()


async def test_a_call_inside_a_running_attempt_makes_one_attempt_per_route(ask: Ask) -> None:
    inner = [FakeBackend(fail(ServerError("no")), name=name) for name in "ab"]
    outer = client(Route(Nested(client(*inner)), retry=Retry(attempts=2), budget=unlimited()))
    error = await error_of(ask(outer), AllRoutesFailed)
    assert [len(one.requests) for one in inner] == [1, 1]
    assert [len(one.attempts) for one in error.failures] == [1, 2]
    error = await error_of(client(*inner).chat("not inside"), AllRoutesFailed)
    assert len(error.attempts) == 6


async def test_two_clients_that_would_each_try_three_times_try_three_times_together(ask: Ask) -> None:
    server = FakeBackend(fail(ServerError("no")), name="server")
    thrice = {"retry": Retry(attempts=3), "budget": unlimited(), "breaker": DEAD}
    inner = client(Route(server, **thrice))
    await error_of(ask(client(Route(Nested(inner), **thrice))), ServerError)
    assert server.opened == 3
    await error_of(inner.chat("not inside"), ServerError)
    assert server.opened == 6


async def test_a_call_inside_a_running_attempt_plans_with_what_is_left_to_that(ask: Ask) -> None:
    inner = client(FakeBackend(hang(), name="hangs"), FakeBackend(say("yes"), name="answers"))
    reply = await ask(client(Route(Nested(inner), timeouts=Timeouts(first_token=4))))
    assert reply.timings.total == 2  # half of it was kept for the route that answers
