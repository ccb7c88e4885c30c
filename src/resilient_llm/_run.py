"""One attempt of a call: what it holds, what it gathered, and the account of it.

A `Run` is an attempt while it runs. However it ends (an answer, an error, a cancellation, a stream that was dropped),
its end comes once, is synchronous, and gives back the slot, tells the breaker and writes the record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import anyio
import anyio.to_thread

from resilient_llm._call import Call, outcome_of
from resilient_llm._errors import (
    BackendFailed,
    DeadlineExceeded,
    FirstTokenTimeout,
    LLMError,
    Overloaded,
    StreamInterrupted,
)
from resilient_llm._events import AttemptEnded, AttemptStarted, FirstToken, PromptTrimmed
from resilient_llm._gathered import Gathered
from resilient_llm._leg import Leg
from resilient_llm._replies import (
    Attempt,
    AttemptKind,
    ChatReply,
    ServedBy,
    Timings,
)
from resilient_llm._types import ChatRequest, Request
from resilient_llm._watch import Watch
from resilient_llm.backends.base import Batches
from resilient_llm.policies.breaker import Permit
from resilient_llm.policies.bulkhead import Slot
from resilient_llm.policies.tokens import size
from resilient_llm.wire import WireEvent

T = TypeVar("T")
HEAVY = 256_000  # characters that are counted on the loop: about 50 ms
SLOW = 5.0  # seconds without an event after which an attempt that someone cuts says something about the server
log = logging.getLogger("resilient_llm")


class Run:
    """One attempt.

    Attributes:
        batches: what the backend gives, once it is open.
        first: the first events, to be handed over when the attempt is committed.
        stack: what must be left when the stream ends; `None` once it was.
        gathered: the answer so far.
        sent: the request, as the guard let it through.
    """

    __slots__ = (
        "batches", "begun", "call", "ended", "first", "gathered", "heard", "kind", "leg", "number", "queue", "sent",
        "slot", "stack", "watch",
    )  # fmt: skip

    def __init__(self, call: Call, leg: Leg, kind: AttemptKind) -> None:
        self.call, self.leg, self.kind = call, leg, kind
        self.number = len(call.attempts) + 1
        self.begun = call.clock()
        self.queue = 0.0
        self.heard: float | None = None  # when the last event came
        self.slot: Slot[Permit] | None = None
        self.watch: Watch = None  # type: ignore[assignment]  # there is one as soon as it is admitted
        self.batches: Batches | None = None
        self.stack: AsyncExitStack | None = None
        self.first: Sequence[WireEvent] = ()
        self.gathered = Gathered()
        self.sent: Request = call.request
        self.ended = False
        if call.tell is not None:
            call.tell(AttemptStarted(call.number, leg.name, self.number, kind))

    async def fit(self) -> Request:
        """The request as it fits the route, and the window that is known now.

        Counting may not hold up the loop: what takes more than 50 ms or so goes to a thread, until the deadline.

        Raises:
            NoEligibleRoute: the route lacks what it needs.
            ContextOverflow: it does not fit, and the guard's rule does not make it.
            DeadlineExceeded: it was still being counted when the deadline came.
        """
        call, leg = self.call, self.leg
        request = leg.suited(call.request)
        if not isinstance(request, ChatRequest) or leg.guard.fits_surely(request, leg.window):
            return request
        fit = partial(leg.guard.fit, request, leg.window, call.estimates)
        fitted = fit() if size(request) <= HEAVY else await self._in_thread(fit)
        if call.tell is not None and fitted is not request:
            call.tell(PromptTrimmed(call.number, leg.name, len(request.messages), len(fitted.messages)))
        return fitted

    async def _in_thread(self, work: Callable[[], T]) -> T:
        with anyio.move_on_after(self.call.deadline.first_by - self.call.clock()):
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        raise DeadlineExceeded("the deadline came while the prompt was counted", phase="queue")

    async def admit(self, reserve: float) -> None:
        """Waits for its turn at the origin, then takes slot and permit in one step.

        Raises:
            CircuitOpen: the breaker is open, or opened while it waited.
            Overloaded: no slot in time, and `reserve` seconds are kept for the next route.
            DeadlineExceeded: no slot by the deadline.
        """
        call, leg = self.call, self.leg
        self.slot = leg.bulkhead.try_acquire(leg.breaker.admit, self.begun)
        if self.slot is None:
            by = call.deadline.first_token_by(reserve)
            try:
                self.slot = await leg.bulkhead.acquire(
                    leg.breaker.admit, leg.breaker.check, deadline=by, clock=call.clock
                )
            except DeadlineExceeded:
                self.queue = call.clock() - self.begun
                if not reserve:
                    raise
                raise Overloaded(f"no free slot within {self.queue:.3g} s", fault="nobody", retryable=False) from None
            self.queue = call.clock() - self.begun
        if self.slot.held.role == "probe":
            self.kind = "probe"
        limits = leg.thinking if isinstance(call.request, ChatRequest) and call.request.reasoning else leg.limits
        if not leg.streams or not isinstance(call.request, ChatRequest):
            limits = limits.unary()
        self.watch = Watch(call.deadline, limits, call.clock, reserve=reserve, zone=call.zone)

    def first_token(self, batch: Sequence[WireEvent]) -> None:
        """The first events are there: from now on the attempt owns all the time that is left."""
        self.watch.enter("stream")
        self.heard = self.call.clock()
        self.call.deadline = self.call.deadline.begun()
        self.first = batch
        self.gathered.add(batch)
        if self.slot is not None and self.slot.held.role == "probe":
            self.slot.held.success(self.heard)
        call = self.call
        if call.tell is not None:
            call.tell(FirstToken(call.number, self.leg.name, self.number, self.heard - call.started))

    def broken(self, error: LLMError) -> LLMError:
        """What an error means that ends an answer which had begun: whatever the backend did, the stream broke."""
        if self.heard is None:
            return error
        partial = "".join(self.gathered.texts)
        if isinstance(error, BackendFailed) and not isinstance(error, StreamInterrupted):
            broke = StreamInterrupted(
                f"the answer broke off: {error.message}", retryable=error.retryable, falls_back=error.falls_back,
                retry_after=error.retry_after, status=error.status, code=error.code, request_id=error.request_id,
            )  # fmt: skip
            broke.__cause__, error.__traceback__ = error, None
            error = broke
        if isinstance(error, (StreamInterrupted, DeadlineExceeded)):
            error.partial = partial
        return error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Its end. The second time nothing happens."""
        if self.ended:
            return
        self.ended = True
        now = self.call.clock()
        if self.watch is not None:
            self.watch.finish()
        failure = error if isinstance(error, LLMError) else None
        if self.slot is not None:
            self._judge(self.slot.held, error, now)
            self.slot.release(now)
            self.slot = None
        call = self.call
        record = self._record(failure, now)
        if error is None or failure is not None or self.heard is not None:
            call.attempts.append(record)
        if call.tell is not None:
            left = error is None and not self.gathered.over
            call.tell(AttemptEnded(call.number, record, outcome_of(error, left=left)))
        if failure is not None:
            failure.route = failure.route or self.leg.name
            failure.attempts = tuple(call.attempts)
            self.leg.failed(failure)
            log.debug("%s: attempt %d: %s", self.leg.name, self.number, type(failure).__name__)

    def _judge(self, permit: Permit, error: BaseException | None, now: float) -> None:
        """What the attempt says about the server's health."""
        fault = error.fault if isinstance(error, LLMError) else None
        cut = error is not None and (isinstance(error, DeadlineExceeded) or not isinstance(error, LLMError))
        if error is None or fault == "caller":
            permit.success(now)
        elif fault == "backend" and isinstance(error, LLMError):
            permit.failure(now, slow=isinstance(error, FirstTokenTimeout), retry_after=error.retry_after)
        elif cut and self.heard is not None and now - self.heard < SLOW:
            permit.success(now)  # it was answering when the caller left
        elif cut and self.watch is not None and self.watch.phase != "load" and now - self._silent_since() >= SLOW:
            permit.slow(now)
        else:
            permit.release()

    def _silent_since(self) -> float:
        return self.heard if self.heard is not None else self.begun + self.queue

    def _record(self, error: LLMError | None, now: float) -> Attempt:
        spent = self.watch.spent if self.watch is not None else {}
        return Attempt(
            route=self.leg.name,
            number=self.number,
            kind=self.kind,
            error=error,
            started=self.begun - self.call.started,
            queue=self.queue,
            connect=spent.get("connect"),
            load=spent.get("load"),
            first_token=spent.get("first_token") if self.heard is not None else None,
            total=now - self.begun,
        )

    def timings(self) -> Timings:
        """Where the time of the call went. The parts add up to the total; what is left over is the reading."""
        total = self.call.clock() - self.call.started
        last = self.call.attempts[-1]
        failed = sum(one.total for one in self.call.attempts[:-1])
        connect, load, first = last.connect or 0.0, last.load or 0.0, last.first_token
        stream = total - failed - self.call.backoff - last.queue - connect - load - (first or 0.0)
        done = self.gathered.done
        told = (None, None) if done is None else (done.server_queue, done.load)
        return Timings(total, last.queue, load, told[0], first, self.call.backoff, connect, failed, stream, told[1])

    def reply(self) -> ChatReply:
        """The whole answer; once the attempt has ended."""
        gathered, leg, done = self.gathered, self.leg, self.gathered.done
        assert done is not None
        request = self.call.request
        seed = request.seed if isinstance(request, ChatRequest) else None
        degraded = (*done.degraded, "restarted") if self.call.restarted else done.degraded
        return ChatReply(
            text="".join(gathered.texts),
            reasoning="".join(gathered.thoughts) or None,
            tool_calls=tuple(gathered.calls),
            finish_reason=done.finish_reason,
            usage=done.usage,
            model=done.model or leg.model,
            route=leg.name,
            served_by=ServedBy(
                route=leg.name, model=done.model or leg.model, provider=leg.provider, seed=seed,
                fingerprint=done.fingerprint, **leg.served(),
            ),
            attempts=tuple(self.call.attempts),
            timings=self.timings(),
            degraded=degraded,
            request_id=self.request_id,
        )  # fmt: skip

    @property
    def request_id(self) -> str | None:
        """The server's id of the request, where its headers had one."""
        value: str | None = getattr(self.batches, "request_id", None)
        return value

    def __repr__(self) -> str:
        return f"Run({self.leg.name}, attempt {self.number})"
