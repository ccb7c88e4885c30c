"""What is shared: one queue for the routes to one origin, and any part by passing the same object; and what is not."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, Bulkhead, CircuitBreaker, Ollama, OpenAICompatible, Retry, RetryBudget, Route
from resilient_llm.errors import CircuitOpen, ServerError
from resilient_llm.events import BreakerChanged, ClientEvent
from resilient_llm.testing import FakeBackend, fail, say

from .kit import Ask, assert_nothing_held, client, error_of, seconds_of

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)


def dead(name: str, **parts: Any) -> Route:
    return Route(FakeBackend(fail(ServerError("dead")), name=name), **({"retry": ONCE} | parts))


async def test_one_breaker_of_two_clients_opens_for_both_and_both_are_told(ask: Ask) -> None:
    breaker = CircuitBreaker(failures=2)
    told: dict[str, list[ClientEvent]] = {"a": [], "b": []}
    one, other = (client(dead(name, breaker=breaker), on_event=told[name].append) for name in "ab")
    await error_of(ask(one), ServerError)
    await error_of(ask(other), ServerError)  # the second failure in a row
    await error_of(ask(one), CircuitOpen)
    changes = {name: [event for event in events if isinstance(event, BreakerChanged)] for name, events in told.items()}
    assert {name: [(each.route, each.after) for each in events] for name, events in changes.items()} == {
        "a": [("a", "open")],
        "b": [("b", "open")],
    }
    await one.aclose()
    breaker.mode = "forced_open"
    await error_of(ask(other), CircuitOpen)
    breaker.mode = "auto"
    await anyio.sleep(5)
    await error_of(ask(other), ServerError)  # a probe
    assert len([event for event in told["b"] if isinstance(event, BreakerChanged)]) == 3
    assert len([event for event in told["a"] if isinstance(event, BreakerChanged)]) == 1  # it was closed


async def test_when_a_shared_breaker_opens_those_who_wait_elsewhere_leave_at_once(ask: Ask) -> None:
    breaker = CircuitBreaker(failures=1)
    backend = FakeBackend(say("long", first=50), name="a", slots=1)
    llm, other = client(Route(backend, breaker=breaker)), client(dead("b", breaker=breaker))
    left: list[float] = []

    async def waits() -> None:
        await error_of(ask(llm, timeout=100), CircuitOpen)
        left.append(anyio.current_time() - began)

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(ask, llm)
        await anyio.sleep(1)
        for _ in range(3):
            group.start_soon(waits)
        await anyio.sleep(1)
        await error_of(ask(other), ServerError)
    assert left == pytest.approx([2, 2, 2])
    assert backend.opened == 1
    assert_nothing_held(llm, backend)


async def test_routes_have_breakers_of_their_own(ask: Ask) -> None:
    llm = client(dead("a"), FakeBackend(say("yes"), name="b"))
    for _ in range(6):
        await ask(llm)
    assert {name: state["breaker"].state for name, state in llm.snapshot().items()} == {"a": "open", "b": "closed"}


async def test_one_budget_of_two_routes_is_one_for_both(ask: Ask) -> None:
    budget, breaker = RetryBudget(ratio=0, burst=3), CircuitBreaker(mode="observe_only")
    one, other = (client(dead(name, budget=budget, breaker=breaker, retry=Retry(attempts=3))) for name in "ab")
    assert len((await error_of(ask(one), ServerError)).attempts) == 3
    assert len((await error_of(ask(other), ServerError)).attempts) == 2
    assert len((await error_of(ask(other), ServerError)).attempts) == 1
    assert budget.balance == 0


async def test_one_bulkhead_of_two_clients_is_one_queue(ask: Ask) -> None:
    bulkhead = Bulkhead(1)
    backends = [FakeBackend(say("yes", first=5), name=name) for name in "ab"]
    one, other = (client(Route(backend, bulkhead=bulkhead)) for backend in backends)
    async with anyio.create_task_group() as group:
        group.start_soon(ask, one)
        await anyio.sleep(1)
        assert await seconds_of(ask(other)) == pytest.approx(4 + 5)
    assert_nothing_held(one, *backends)


@pytest.mark.parametrize(("origins", "seconds"), [(("o", "o"), 9), (("o", "p"), 5)])
async def test_two_models_on_one_box_have_one_queue_and_two_boxes_have_two(
    ask: Ask, origins: tuple[str, str], seconds: float
) -> None:
    models = [
        FakeBackend(say("yes", first=5), name=origin + str(n), origin=origin, local=True)
        for n, origin in enumerate(origins)
    ]
    llm = client(
        *models, plan=lambda request, routes: [route for route in routes if route.backend.name in request.tags]
    )
    async with anyio.create_task_group() as group:
        group.start_soon(partial(ask, llm, tags=[models[0].name]))
        await anyio.sleep(1)
        assert await seconds_of(ask(llm, tags=[models[1].name])) == pytest.approx(seconds)


async def test_a_route_that_was_given_its_own_queue_has_that(ask: Ask) -> None:
    own, first, second = Bulkhead(3), *(FakeBackend(name=name, origin="o", local=True) for name in "ab")
    third = FakeBackend(name="c", origin="o", local=True)
    a, b, c = client(first, Route(second, bulkhead=own), third)._legs
    assert (b.bulkhead, a.bulkhead.slots) == (own, 1)
    assert c.bulkhead is a.bulkhead


def test_an_origin_is_the_server_and_not_the_model() -> None:
    def origins(*backends: Any) -> int:
        return len({id(leg.bulkhead) for leg in AsyncClient(*backends)._legs})

    here = "http://127.0.0.1:11434"
    assert origins(Ollama("a", base_url=here), Ollama("b", base_url=here)) == 1
    assert origins(Ollama("a", base_url=here), Ollama("a", base_url="http://127.0.0.1:11435", name="other")) == 2
    url = "http://127.0.0.1:8000/v1"
    assert origins(OpenAICompatible("a", base_url=url), OpenAICompatible("b", base_url=url)) == 1
