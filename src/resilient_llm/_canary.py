"""A request that is no caller's: whether a server answers again, asked in the one place that there is for asking.

At a half-open breaker one request reaches the server, whoever sends it, and what is sent has a slot of the queue. So a
canary waits for both like a call. Unlike one it may keep the place when it got no answer, while something is done about
that: calls that came then would hang, too, and hold up what is done. They are refused at once and go to the next route.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import anyio

from resilient_llm._deadline import Clock
from resilient_llm._errors import CircuitOpen, LLMError
from resilient_llm.policies._permits import Permit
from resilient_llm.policies.breaker import CircuitBreaker
from resilient_llm.policies.bulkhead import Bulkhead, Slot

LEAST = 0.01  # seconds between two looks at a breaker


class Canary:
    """The canary of one route.

    Args:
        breaker: of the route.
        bulkhead: of the route.
        clock: of the client.
    """

    def __init__(self, breaker: CircuitBreaker, bulkhead: Bulkhead, clock: Clock) -> None:
        self._breaker, self._bulkhead, self.clock = breaker, bulkhead, clock
        self._permit: Permit | None = None
        self._slot: Slot[Canary] | None = None

    async def begin(self) -> bool:
        """Waits until it has the place; false if there is none any more: the breaker closed, or its owner decides."""
        while True:
            now = self.clock()
            seen = self._breaker.snapshot(now)
            if seen.state == "closed" or seen.mode != "auto":
                return False
            refusal = self._breaker.check(now)
            if refusal is None:
                try:
                    self._slot = await self._acquire(self._take, self._breaker.check)
                except CircuitOpen:
                    continue  # a call was faster, and asks the same
                return self._permit is not None and self._permit.role == "probe"
            await anyio.sleep(max(refusal.retry_after or 0.0, LEAST))

    async def ask(self, request: Callable[[], Awaitable[LLMError | None]]) -> LLMError | None:
        """Has a request sent, with a slot. What came of it, as `request` says."""
        if self._slot is None:
            self._slot = await self._acquire(lambda now: self, lambda now: None)
        try:
            return await request()
        finally:
            self._free()

    def keep(self, seconds: float) -> None:
        """Keeps the place for so long from now, at the least."""
        if self._permit is not None:
            self._permit.keep(self.clock() + seconds)

    def end(self, error: LLMError | None) -> None:
        """Tells the breaker what came of it: nothing more is to be done."""
        if self._permit is not None:
            self._permit.judge(error, self.clock())

    def leave(self) -> None:
        """Gives back what it still holds; the breaker hears nothing."""
        self._free()
        if self._permit is not None:
            self._permit.release()

    def release(self) -> None:
        """The slot is free; the place is kept until the end."""

    async def _acquire(self, take: Callable[[float], Canary], peek: Callable[[float], LLMError | None]) -> Slot[Canary]:
        return await self._bulkhead.acquire(take, peek, deadline=math.inf, clock=self.clock)

    def _take(self, now: float) -> Canary:
        self._permit = self._breaker.admit(now)
        return self

    def _free(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release(self.clock())

    def __repr__(self) -> str:
        return f"Canary({self._permit!r})"
