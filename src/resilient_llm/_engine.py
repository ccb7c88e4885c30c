"""The path of a call: plan, route, attempt. One loop, for chat and stream and embed.

Rules of the file:
  S1  No cancel scope, task group or context token is held across a yield or a hand-over.
  S2  What outlives `_attempt` is held by its `Run`, which gives it back unless it is `kept` by a stream.
  S3  Decisions stand in policies; here is only their order.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Sequence

import anyio
import anyio.lowlevel
from cachetools import TTLCache

from resilient_llm._call import Call
from resilient_llm._deadline import INSIDE, Clock
from resilient_llm._errors import AllRoutesFailed, DeadlineExceeded, LLMError, NoEligibleRoute, Rejected, Truncated
from resilient_llm._events import FellBack, RetryPlanned
from resilient_llm._fitting import fit, tokens
from resilient_llm._leg import Leg
from resilient_llm._replies import AttemptKind
from resilient_llm._route import Plan
from resilient_llm._run import Run
from resilient_llm._types import EmbedRequest
from resilient_llm._verdict import accept
from resilient_llm._zones import beyond
from resilient_llm.policies import plan
from resilient_llm.wire import ToolPiece

STAYS = 3600.0  # seconds that a conversation is remembered to be on a route


class Engine:
    """Runs the calls of one client."""

    def __init__(self, legs: Sequence[Leg], plan: Plan | None, clock: Clock, rng: random.Random) -> None:
        self.legs = list(legs)
        self._user_plan, self._clock, self._rng = plan, clock, rng
        self._stays: TTLCache[str, Leg] = TTLCache(10_000, STAYS, timer=clock)

    async def open(self, call: Call) -> Run:
        """Tries the routes until one answers: wholly if `call.whole`, else with its first event.

        Raises:
            LLMError: none did: the error itself if one route was tried, else `AllRoutesFailed`.
        """
        if call.left() <= 0:
            await anyio.lowlevel.checkpoint()  # a scope of the caller's that has ended ends us here, in its own way
            if call.deadline.first_by <= self._clock():
                raise DeadlineExceeded("the deadline had passed before anything was sent", phase="queue")
        return await self._through(call, self._plan(call))

    async def reopen(self, run: Run, error: LLMError) -> Run | None:
        """Begins anew after a stream broke, if its route asks for that; `None` if it does not.

        The routes that this call has not tried come first, then the one that broke, as if that were a repeat.

        Raises:
            LLMError: no route answered.
        """
        call, broke = run.call, run.leg
        if broke.route.on_break != "restart" or not (error.retryable or error.falls_back):
            return None
        again = [leg for leg in self._plan(call) if not call.tried(leg) and leg.takes_over(error, broke)]
        if self._wait(broke, call, error, others=False) is not None:
            again.append(broke)
        if not again:
            return None
        call.failed(broke, error)
        call.restarted = True
        return await self._through(call, again)

    async def only(self, leg: Leg, call: Call) -> Run:
        """Tries this route and no other.

        Raises:
            LLMError: it did not answer.
        """
        return await self._through(call, [leg])

    async def _through(self, call: Call, routes: Sequence[Leg]) -> Run:
        """Tries these routes in turn."""
        waiting = deque(routes)
        while waiting:
            leg = waiting.popleft()
            if call.tried(leg) and not leg.budget.draw():
                break
            try:
                return await self._on(leg, call, waiting)
            except LLMError as error:
                call.failed(leg, error)
                if not leg.goes_on(error):
                    break
                waiting = deque(other for other in waiting if other.takes_over(error, leg))
                if waiting and call.tell is not None:
                    call.tell(FellBack(call.number, leg.name, waiting[0].name, error))
        raise self._verdict(call)

    async def _on(self, leg: Leg, call: Call, waiting: Collection[Leg]) -> Run:
        """Tries one route, and again as long as its policy says so. `waiting` are the routes after it."""
        kind: AttemptKind = "retry" if call.tried(leg) else "fallback" if call.failures else "first"
        last: LLMError | None = None
        while True:
            others = bool(waiting) and any(other.eligible(self._clock()) for other in waiting)
            sent = call.sent
            try:
                return await self._attempt(leg, call, kind, others=others)
            except LLMError as error:
                unsent = isinstance(error, Rejected) or call.sent == sent
                if last is not None and unsent and not isinstance(error, DeadlineExceeded):
                    raise last from last.__cause__  # the repeat was refused here; what the server said counts
                wait = self._wait(leg, call, error, others=others)
                if wait is None or not leg.budget.draw():
                    raise
                last = error
            kind = "retry"
            if call.tell is not None:
                call.tell(RetryPlanned(call.number, leg.name, wait, last))
            await self._back_off(call, wait, leg)

    def _wait(self, leg: Leg, call: Call, error: LLMError, *, others: bool) -> float | None:
        """Seconds until the next attempt on this route, or `None` to leave it."""
        # A field was refused by name, or the prompt with numbers: this once it goes without, or shorter, at once.
        learned = leg.learns(call.request, error) or (leg.trims(error) and call.overflows(leg) == 1)
        if INSIDE.get() is not None:
            return None  # inside another client's attempt: that one retries, or it would be three times three
        tried = call.tried(leg)
        left = call.left() - self._reserve(call, others=others)  # no wait eats what is kept for later routes
        if learned:
            return 0.0 if left > 0 else None
        wait = leg.retry.delay(tried, error, self._rng, local=leg.local, left=left, others=others)
        return wait if wait is not None and leg.breaker.check(self._clock() + wait) is None else None

    @staticmethod
    def _reserve(call: Call, *, others: bool) -> float:
        """Seconds of the deadline that belong to later routes."""
        return plan.reserve(call.left()) if others else 0.0

    async def _back_off(self, call: Call, wait: float, leg: Leg) -> None:
        began = self._clock()
        try:
            await anyio.sleep(wait)
        except BaseException:
            leg.budget.refund()
            raise
        finally:
            call.backoff += self._clock() - began

    async def _attempt(self, leg: Leg, call: Call, kind: AttemptKind, *, others: bool) -> Run:
        """One request on the wire, up to its commit point."""
        reserve = self._reserve(call, others=others)
        run = Run(call, leg, kind)
        try:
            try:
                request = await fit(call, leg)
                await run.admit(reserve, await tokens(call, leg, request) if leg.rate is not None else 0)
            except BaseException:
                if kind == "retry":
                    leg.budget.refund()  # it was never sent
                raise
            call.sent += 1
            if kind != "retry":
                leg.budget.deposit()  # not before: a call that was refused here puts no load on the server
            token = INSIDE.set(run.watch.left)
            sent = call.trace.attempt(run) if call.trace is not None else None
            try:
                with run.watch.scope as scope:
                    if call.zone is not None:
                        await self._look_where(leg, run)
                    if leg.ready is not None:
                        before = leg.window
                        await leg.ready(request, run.watch)
                        if leg.window != before:
                            request = await fit(call, leg)
                    await run.open(request)
                    await self._read(run, whole=call.whole)
            except LLMError as error:
                broke = run.broken(error)
                if broke is error:
                    raise
                raise broke from broke.__cause__
            finally:
                if sent is not None:
                    sent.leave()
                INSIDE.reset(token)
            if scope.cancelled_caught:
                raise run.broken(run.watch.late())
            run.check()
        except BaseException as error:
            await run.leave(error)
            raise
        if call.whole:
            await run.leave()
        else:
            run.kept = True
        if call.conversation is not None:
            self._stays[call.conversation] = leg
        return run

    async def _read(self, run: Run, *, whole: bool) -> None:
        """Waits for the first events and, if it is to be whole, for all of them."""
        batches, gathered = run.batches, run.gathered
        assert batches is not None
        try:
            run.first_token(await anext(batches))
            add, progress = gathered.add, run.watch.progress
            if not whole:
                # Nothing to be handed over yet: what breaks now is repeated.
                while run.first and type(run.first[0]) is ToolPiece:
                    run.heard = progress()
                    run.first = await anext(batches)
                    add(run.first)
                return
            while not gathered.over:
                run.heard = progress()
                add(await anext(batches))
            accept(run)
        except StopAsyncIteration:
            raise Truncated("the answer ended without the server saying that it was done") from None

    async def _look_where(self, leg: Leg, run: Run) -> None:
        """Before anything private is sent: the model itself may be somewhere else than the server."""
        if leg.locate is None or leg.route.zone is not None:
            return
        zone = await leg.locate(run.watch)
        if zone is not None and beyond(zone, run.call.zone):
            raise NoEligibleRoute(
                f"the model runs in zone {zone!r}; local_only allows {run.call.zone!r}", falls_back=True
            )

    def _plan(self, call: Call) -> list[Leg]:
        """The routes that may take this call, in order."""
        legs = self.legs
        if self._user_plan is not None:
            by_route = {id(leg.route): leg for leg in legs}
            chosen = self._user_plan(call.request, [leg.route for leg in legs])
            legs = [by_route[id(route)] for route in chosen if id(route) in by_route]
        if isinstance(call.request, EmbedRequest) and any(leg.route.space for leg in self.legs):
            legs = [leg for leg in legs if leg.route.space]
        if isinstance(call.request, EmbedRequest) and legs:
            legs = [leg for leg in legs if leg.space == legs[0].space]
        allowed = legs
        if call.zone is not None:
            allowed = [leg for leg in legs if leg.zone is None or not beyond(leg.zone, call.zone)]
        if not allowed:
            raise NoEligibleRoute(_why(legs, call))
        now = self._clock()
        stays = self._stays.get(call.conversation) if call.conversation is not None else None
        return plan.order(allowed, lambda leg: leg.aside(now), stays)

    def _verdict(self, call: Call) -> LLMError:
        """What the call raises: its deadline's end and the error of a lone route bare, the others together."""
        failures = list(call.failures.values())
        if len(failures) == 1 or isinstance(failures[-1], DeadlineExceeded):
            return failures[-1]
        every = AllRoutesFailed(failures=failures)
        every.attempts = tuple(call.attempts)
        every.__cause__ = failures[-1]
        return every

    def __repr__(self) -> str:
        return f"Engine({', '.join(leg.name for leg in self.legs)})"


def _why(legs: Sequence[Leg], call: Call) -> str:
    if not legs:
        return "the plan left no route for this call"
    zones = ", ".join(f"{leg.name} is in {leg.zone!r}" for leg in legs)
    return f"local_only allows {call.zone!r}, but {zones}; add a route inside, or set Route(zone=…) if you know better"
