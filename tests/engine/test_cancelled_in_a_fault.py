"""Every kind of fault, and a cancellation at each checkpoint of what follows, once and twice: all is as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, Bulkhead, CircuitBreaker, LLMError, RateLimit, RetryBudget, Route, errors
from resilient_llm.errors import AllRoutesFailed, ClientClosed, ConfigError, ServerError
from resilient_llm.testing import FakeBackend, cut, ends, fail, hang, say, slow_close, stall

from .kit import assert_nothing_held, cancelled_at, client, error_of, left_twice, living_tasks

pytestmark = pytest.mark.anyio
KINDS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, LLMError)]
NO_SERVERS = (AllRoutesFailed, ConfigError, ClientClosed, errors.Rejected, errors.DeadlineExceeded)  # what it cannot do
ROOTS = (LLMError, errors.RequestRejected, errors.BackendFailed)
FAULTS: dict[str, Callable[[], Any]] = {
    **{
        kind.__name__: lambda kind=kind: fail(kind("no"))
        for kind in KINDS
        if kind not in ROOTS and not issubclass(kind, NO_SERVERS)
    },
    "an error in mid-answer": lambda: fail(ServerError("no"), after=["x"]),
    "a wait that is told": lambda: fail(errors.RateLimited("slow", retry_after=2)),
    "silence": hang,
    "headers, then silence": lambda: hang(after_headers=True),
    "a stall": lambda: stall("x"),
    "a cut": lambda: cut("x"),
    "a clean end": lambda: ends("x"),
    "an answer of nothing": say,
    "a slow close": lambda: slow_close("x", seconds=100),
}
Work = Callable[[AsyncClient], Any]


async def chat(llm: AsyncClient) -> None:
    await llm.chat("hi")


async def stream(llm: AsyncClient) -> None:
    async with llm.stream("hi") as events:
        async for _ in events:
            await anyio.lowlevel.checkpoint()


class World:
    """Two routes, the first of which has the fault, and all that can be held of them."""

    def __init__(self, fault: Any) -> None:
        self.backends = [
            FakeBackend(fault, name="a", model="m", connects=1, loads=1),
            FakeBackend(say("a", "b", gap=1, first=1), name="b", model="m"),
        ]
        self.budgets = [RetryBudget(ratio=0, burst=10) for _ in self.backends]
        self.rates = [RateLimit(6_000, 1_000_000) for _ in self.backends]
        self.routes = [
            Route(one, budget=budget, rate=rate, on_break="restart")
            for one, budget, rate in zip(self.backends, self.budgets, self.rates, strict=True)
        ]
        self.llm = client(*self.routes, timeout=60)
        self.tasks = living_tasks()

    def is_as_before(self) -> None:
        """But for what was sent, which counts."""
        assert_nothing_held(self.llm, *self.backends)
        assert living_tasks() == self.tasks
        for backend, budget, rate in zip(self.backends, self.budgets, self.rates, strict=True):
            repeats = max(0, len(backend.requests) - 1)
            assert budget.balance == 10 - repeats
            if not backend.requests:
                assert rate.snapshot(anyio.current_time())[2:] == (0, 0.0), "room for what was never sent"


async def everywhere(make: Callable[[], Any], work: Work, second: int | None) -> int:
    """Cancels it at every checkpoint, and once more so many later. How many checkpoints there are."""
    for number in range(1, 200):
        world = make()
        doing = work(world.llm)
        reached = await (cancelled_at(number, doing) if second is None else left_twice(number, second, doing))
        world.is_as_before()
        if not reached:
            return number
    raise AssertionError("there is no end to it")


@pytest.mark.invariant(1, 3, 16, 40)
@pytest.mark.parametrize("work", [chat, stream])
@pytest.mark.parametrize("fault", FAULTS)
async def test_in_every_kind_of_fault_a_cancellation_or_two_leave_all_as_it_was(fault: str, work: Work) -> None:
    for second in (None, 0, 2):
        assert await everywhere(lambda: World(FAULTS[fault]()), work, second) > 2


class Probing(World):
    """Its one route is half-open: what is sent is a probe."""

    def __init__(self, fault: Any) -> None:
        super().__init__(fault)
        now, self.breaker = anyio.current_time(), CircuitBreaker(failures=1, cooldown=5, successes=2)
        self.breaker.admit(now - 6).failure(now - 6)
        self.backends, self.budgets, self.rates = self.backends[1:], self.budgets[1:], self.rates[1:]
        self.backends[0] = FakeBackend(fault, name="b", connects=1)
        route = Route(self.backends[0], breaker=self.breaker, budget=self.budgets[0], rate=self.rates[0])
        self.llm = client(route, timeout=60)

    def is_as_before(self) -> None:
        super().is_as_before()
        now = anyio.current_time()
        if self.breaker.state(now) == "half-open":  # neither a verdict nor a place taken
            assert self.breaker.check(now) is None
            permit = self.breaker.admit(now)
            assert permit.role == "probe"
            permit.release()


@pytest.mark.invariant(1, 5, 7)
@pytest.mark.parametrize("work", [chat, stream])
@pytest.mark.parametrize("fault", ["ServerError", "a wait that is told", "silence", "a stall", "a cut", "a slow close"])
async def test_a_probe_that_is_cancelled_anywhere_in_a_fault_leaves_its_place_free(fault: str, work: Work) -> None:
    for second in (None, 0, 2):
        assert await everywhere(lambda: Probing(FAULTS[fault]()), work, second) > 2


class Queueing(World):
    """Its one route has one slot, which somebody takes for long as soon as it is free after the fault."""

    def __init__(self, fault: Any) -> None:
        super().__init__(fault)
        self.backends = [FakeBackend(fault, say("a", first=100), name="a", model="m")]
        self.budgets, self.rates = self.budgets[:1], [RateLimit(tokens_per_minute=1_000_000)]
        bulkhead = Bulkhead(1)
        self.llm = client(Route(self.backends[0], budget=self.budgets[0], rate=self.rates[0], bulkhead=bulkhead))

    async def takes_the_slot(self) -> None:
        while not self.backends[0].requests or self.llm.snapshot()["a"]["bulkhead"].inflight:
            await anyio.sleep(0.0001)
        await self.llm.chat("hi", timeout=600)


async def impatient(llm: AsyncClient) -> None:
    await llm.chat("hi", timeout=30)


@pytest.mark.invariant(1, 3, 16, 34)
async def test_who_is_cancelled_in_the_queue_once_or_twice_gives_place_budget_and_rate_back() -> None:
    """It waits there for its repeat, which has drawn on the budget."""
    alone = Queueing(fail(ServerError("no")))
    await error_of(client(Route(alone.backends[0], rate=alone.rates[0]), timeout=0.01).chat("hi"))
    size = alone.rates[0].snapshot(anyio.current_time()).tokens
    assert size > 0
    waited = 0
    for second in (None, 0, 2):
        for number in range(1, 60):
            world = Queueing(fail(ServerError("no")))
            async with anyio.create_task_group() as group:
                group.start_soon(world.takes_the_slot)
                doing = impatient(world.llm)
                reached = await (cancelled_at(number, doing) if second is None else left_twice(number, second, doing))
                waited += len(world.backends[0].requests) == 2
                state = world.llm.snapshot()["a"]
                assert state["bulkhead"].queued == 0
                assert world.budgets[0].balance == 10
                sent = len(world.backends[0].requests)
                assert world.rates[0].snapshot(anyio.current_time()).tokens == sent * size
                group.cancel_scope.cancel()
            assert_nothing_held(world.llm, *world.backends)
            if not reached:
                break
        assert number > 3
    assert waited > 4
