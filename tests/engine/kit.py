"""What the tests of the engine share: virtual time on both event loops, clients with a seed, a sweep of cancellations.

Virtual time is for fakes: a loop that jumps over its waits also jumps over those for sockets and threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio
import pytest
import sniffio
import trio
from tests.accounts import accounts_for
from trio.testing import MockClock

from resilient_llm import AsyncClient, ChatReply, LLMError, RetryBudget
from resilient_llm.testing import FakeBackend

T = TypeVar("T")
LATE = 2.0  # seconds over its bound that a call on real sockets is allowed on a busy machine; the promise is 0.05
DEADLOCK = 5.0  # real seconds after which a virtual loop that waits for nothing is taken to be stuck
SENT: ContextVar[list[FakeBackend] | None] = ContextVar("sent", default=None)  # those that a call has reached
REAL = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing: where the loop would sleep, its clock moves on."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(DEADLOCK)
            assert ready, "every task waits, and nothing is scheduled"
            return ready
        ready = super().select(0)
        if not ready:
            self.skipped += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio with a clock that starts at 0 and moves only while nothing else is left to do."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.skipped


def loop_options(name: str) -> tuple[str, dict[str, Any]]:
    """What the fixture `anyio_backend` gives for each of the names."""
    return {
        "asyncio": lambda: ("asyncio", {}),
        "trio": lambda: ("trio", {}),
        "asyncio-virtual": lambda: ("asyncio", {"loop_factory": VirtualLoop}),
        "trio-virtual": lambda: ("trio", {"clock": MockClock(autojump_threshold=0)}),
    }[name]()


def client(*routes: Any, seed: int = 1, **options: Any) -> AsyncClient:
    """A client on the loop's own clock, whose jitter replays."""
    return AsyncClient(*routes, clock=anyio.current_time, rng=random.Random(seed), **options)


class Ask:
    """A call, as `chat` or as `stream`: the same arguments, the same result. It accounts for itself, or else it fails.

    Attributes:
        between: seconds that may pass unnoticed: none in virtual time.
    """

    def __init__(self, way: str, between: float = LATE) -> None:
        self.way, self.between = way, between

    async def __call__(self, llm: AsyncClient, messages: Any = "hi", **options: Any) -> ChatReply:
        clock, sent = llm._engine._clock, list[FakeBackend]()
        between = self.between if clock is anyio.current_time else LATE
        began, token = clock(), SENT.set(sent)
        outcome: ChatReply | LLMError | None = None
        try:
            outcome = await self._ask(llm, messages, **options)
            return outcome
        except LLMError as error:
            outcome = error
            raise
        finally:
            SENT.reset(token)
            if outcome is not None:
                accounts_for(outcome, clock() - began, between=between)
                told = iter(outcome.attempts)
                names = {id(leg.backend): leg.name for leg in llm._legs}
                for backend in sent:
                    name = names.get(id(backend))
                    assert name is None or any(one.route == name for one in told), "an attempt is not told"

    async def _ask(self, llm: AsyncClient, messages: Any, **options: Any) -> ChatReply:
        if self.way == "chat":
            return await llm.chat(messages, **options)
        async with llm.stream(messages, **options) as stream:
            texts = [text async for text in stream.text()]
        assert "".join(texts) == stream.reply.text  # no text twice, none lost
        return stream.reply


async def error_of(call: Awaitable[object], kind: type[LLMError] = LLMError) -> Any:
    """The error that this call ends with."""
    with pytest.raises(kind) as caught:
        await call
    return caught.value


async def seconds_of(call: Awaitable[object], kind: type[BaseException] | None = None) -> float:
    """How long it takes until the call gives its result, or raises this."""
    began = anyio.current_time()
    if kind is None:
        await call
    else:
        with pytest.raises(kind):
            await call
    return anyio.current_time() - began


def unlimited() -> RetryBudget:
    """A budget that never runs out within a test."""
    return RetryBudget(burst=1000)


def assert_nothing_held(llm: AsyncClient, *backends: FakeBackend) -> None:
    """No slot, no place in a queue, no permit and no attempt is held."""
    for name, state in llm.snapshot().items():
        assert state["bulkhead"].inflight == 0, name
        assert state["bulkhead"].queued == 0, name
    for leg in llm._legs:
        assert not leg.breaker._places, leg.name
        assert not leg.bulkhead._read, leg.name
    for backend in backends:
        assert backend.active == 0, backend


def living_tasks() -> int:
    """The tasks of the running loop."""
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def at_checkpoint(number: int | None, work: Coroutine[Any, Any, T], act: Callable[[], object]) -> Awaitable[T]:
    """Runs `work`, and calls `act` at its checkpoint of this number, the first being 1."""
    return _Steps(number, work, act)


class _Steps(Awaitable[T]):
    def __init__(self, number: int | None, work: Coroutine[Any, Any, T], act: Callable[[], object]) -> None:
        self._number, self._work, self._act = number, work, act

    def __await__(self) -> Generator[Any, Any, T]:
        go_on, argument, passed = self._work.send, None, 0
        while True:
            try:
                awaited = go_on(argument)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            passed += 1
            if passed == self._number:
                self._act()
            try:
                go_on, argument = self._work.send, (yield awaited)
            except BaseException as error:
                go_on, argument = self._work.throw, error  # type: ignore[assignment]


async def cancelled_at(number: int, work: Coroutine[Any, Any, object]) -> bool:
    """Cancels `work` at this checkpoint. False if it came to its end before; what it raises by itself is let go."""
    reached = []
    with anyio.CancelScope() as scope:
        with contextlib.suppress(LLMError):
            await at_checkpoint(number, work, lambda: (reached.append(number), scope.cancel()))
    return bool(reached)


async def left_twice(first: int, second: int, work: Coroutine[Any, Any, object]) -> bool:
    """Cancels an inner scope at one checkpoint and an outer one so many later. False if it never came to the first."""
    reached: list[anyio.CancelScope] = []

    def leave(scope: anyio.CancelScope) -> None:
        reached.append(scope)
        scope.cancel()

    with anyio.CancelScope() as outer, anyio.CancelScope() as inner, contextlib.suppress(LLMError):
        once = at_checkpoint(first, work, lambda: leave(inner))

        async def again() -> None:
            await once

        await at_checkpoint(first + second, again(), lambda: leave(outer))
    return inner in reached
