"""One attempt of a call: what it holds, what it gathered, and the account of it.

A `Run` is an attempt while it runs. However it ends (an answer, an error, a cancellation, a stream that was dropped),
its end comes once, is synchronous, and gives back the slot, tells the breaker and writes the record.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from resilient_llm._answer import reply_of
from resilient_llm._call import Call, outcome_of
from resilient_llm._ending import NOTHING, judge, record_of, settle
from resilient_llm._errors import (
    BackendFailed,
    CircuitOpen,
    CircuitOpenTooLong,
    ContextOverflow,
    DeadlineExceeded,
    DeadlineUnattainable,
    LLMError,
    OutputInvalid,
    Overloaded,
    StreamInterrupted,
)
from resilient_llm._events import AnswerDegraded, AttemptEnded, AttemptStarted, FirstToken
from resilient_llm._gathered import Gathered
from resilient_llm._leg import Leg
from resilient_llm._quotes import unquote
from resilient_llm._replies import AttemptKind
from resilient_llm._types import ChatRequest, Request
from resilient_llm._watch import Watch
from resilient_llm.backends.base import Batches
from resilient_llm.policies._admission import Admission, Ticket
from resilient_llm.policies.bulkhead import Slot
from resilient_llm.sentinels import Lookout
from resilient_llm.wire import WireEvent
from resilient_llm.wire._patience import say_left

log = logging.getLogger("resilient_llm")


class Run:
    """One attempt.

    Attributes:
        batches: what the backend gives, once it is open.
        first: the first events, to be handed over when the attempt is committed.
        kept: by a stream, which leaves it when it ends.
        gathered: the answer so far.
        sent: the request, as the guard let it through.
        output: what the call's check made of the answer.
    """

    __slots__ = (
        "_opened", "batches", "begun", "call", "ended", "first", "gathered", "heard", "kept", "kind", "leg", "number",
        "output", "queue", "sent", "slot", "watch",
    )  # fmt: skip

    def __init__(self, call: Call, leg: Leg, kind: AttemptKind) -> None:
        self.call, self.leg, self.kind = call, leg, kind
        self.number = len(call.attempts) + 1
        self.begun = call.clock()
        self.queue = 0.0
        self.heard: float | None = None  # when the last event came
        self.slot: Slot[Ticket] | None = None
        self.watch: Watch = None  # type: ignore[assignment]  # there is one as soon as it is admitted
        self.batches: Batches | None = None
        self._opened: AbstractAsyncContextManager[Batches] | None = None
        self.kept = False
        self.first: Sequence[WireEvent] = ()
        self.gathered = Gathered()
        self.sent: Request = call.request
        self.output: Any = None
        self.ended = False
        if call.tell is not None:
            call.tell(AttemptStarted(call.number, leg.name, self.number, kind))

    async def admit(self, reserve: float, tokens: int) -> None:
        """Waits for its turn at the origin, then takes slot, permit and room in the rate limit in one step.

        Raises:
            CircuitOpen: the breaker is open, or opened while it waited; `CircuitOpenTooLong` if it will be open still
                when the time is over.
            DeadlineUnattainable: the server said that it answers again after the deadline, or the rate limit has no
                room before it.
            RateLimited: `oversize`; the request alone is over the rate limit.
            Overloaded: no slot in time, and `reserve` seconds are kept for the next route.
            DeadlineExceeded: no slot by the deadline.
        """
        call, leg, now = self.call, self.leg, self.call.clock()
        by = call.deadline.first_token_by(reserve)
        end = min(by, call.deadline.ambient)
        if leg.told_until > now and leg.told_until > end:
            wait, left = leg.told_until - now, end - now
            raise DeadlineUnattainable(
                f"the server said to come back in {wait:.3g} s, but {left:.3g} s are left", retry_after=wait
            )
        admission = Admission(leg.breaker, leg.rate, tokens, by, waits=not reserve)
        # The wait before this attempt may have ended late: what comes after the deadline is not sent.
        try:
            self.slot = leg.bulkhead.try_acquire(admission.take, now) if now < by else None
            if self.slot is None:
                try:
                    self.slot = await leg.bulkhead.acquire(
                        admission.take, admission.peek, deadline=by, clock=call.clock, lane=leg.lane
                    )
                finally:
                    self.queue = call.clock() - self.begun
        except CircuitOpen as refusal:
            raise self._reckoned(refusal, end) from None
        except DeadlineExceeded:
            if not reserve:
                raise
            raise Overloaded(f"no free slot within {self.queue:.3g} s", fault="nobody", retryable=False) from None
        if self.slot.held.permit.role == "probe":
            self.kind = "probe"
            self.slot.held.permit.keep(call.deadline.first_by)  # it is not lost while its first token may still come
        limits = leg.limits_for(call.request)
        self.watch = Watch(call.deadline, limits, call.clock, reserve=reserve, zone=call.zone)

    def _reckoned(self, refusal: CircuitOpen, end: float) -> CircuitOpen:
        """With what is left until then, where the breaker is open for longer."""
        now = self.call.clock()
        wait, left = refusal.retry_after, max(end - now, 0.0)
        if wait is None or wait <= left or self.leg.breaker.state(now) != "open":
            return refusal
        return CircuitOpenTooLong(f"{refusal.message}; {left:.3g} s are left", retry_after=wait)

    async def open(self, request: Request) -> None:
        """Sends the request, and waits until there is an answer to be read."""
        leg, deadline = self.leg, self.call.deadline
        self.sent = request
        if leg.route.tells_deadline:
            left = say_left(min(deadline.at, deadline.ambient) - self.call.clock())
            self.watch.headers += tuple((name.encode(), value.encode()) for name, value in left.items())
        if isinstance(request, ChatRequest):
            self.gathered.watched(partial(_lookout, leg, request))
        opened = leg.backend.open(request, self.watch, stream=leg.streams)
        self.batches = await opened.__aenter__()
        self._opened = opened

    def check(self) -> None:
        """Makes of the whole answer what the call asked for.

        Raises:
            OutputInvalid: it is no such thing.
        """
        check, done = self.call.check, self.gathered.done
        if check is None or done is None:
            return
        try:
            self.output, repaired = check("".join(self.gathered.texts))
        except OutputInvalid as error:
            if done.finish_reason == "length":
                error.retryable = False  # the same limit would cut the next one, too
                error.args = (f"{error.message} (the limit of tokens cut it off)",)
            raise
        if repaired:
            done.degraded = (*done.degraded, "repaired")
            if self.call.tell is not None:
                self.call.tell(AnswerDegraded(self.call.number, self.leg.name, self.number, ("repaired",)))

    def first_token(self, batch: Sequence[WireEvent]) -> None:
        """The first events are there: from now on the attempt owns all the time that is left."""
        call = self.call
        self.heard = self.watch.enter("stream")
        call.deadline = call.deadline.begun()
        self.first = batch
        self.gathered.add(batch)
        if self.slot is not None and self.slot.held.permit.role == "probe":
            self.slot.held.permit = self.slot.held.permit.begun(self.heard)
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
        if isinstance(error, (StreamInterrupted, DeadlineExceeded, OutputInvalid)):
            error.partial = partial
        return error

    async def leave(self, error: BaseException | None = None) -> None:
        """Gives back the connection, then all else; `error` is how it ended. The second time nothing happens."""
        opened, self._opened, self.kept = self._opened, None, False
        if self.watch is not None:
            self.watch.off()
        try:
            if opened is not None:
                kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
                await opened.__aexit__(kind, error, trace)
        except BaseException as last:
            self.end(last)
            raise
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """Gives back all but the connection, tells the breaker and writes the record. Once; never waits."""
        if self.ended:
            return
        self.ended = True
        now = self.call.clock()
        if self.watch is not None:
            self.watch.finish(now)
        failure = error if isinstance(error, LLMError) else None
        if failure is not None:
            unquote(failure, self.call.request)
        slot, self.slot = self.slot, None
        try:
            if slot is not None:
                judge(self, slot.held.permit, error, now)
                settle(self, slot, error, now)
        finally:  # a listener of the breaker may be interrupted, or raise what is no `Exception`
            if slot is not None:
                slot.release(now)
            self._account(error, failure, now)

    def _account(self, error: BaseException | None, failure: LLMError | None, now: float) -> None:
        call = self.call
        record = record_of(self, failure, now)
        if failure is not None and failure.usage is None and record.usage != NOTHING:
            failure.usage = record.usage
        if error is None or failure is not None or self.heard is not None:
            call.attempts.append(record)
        if call.tell is not None:
            left = error is None and not self.gathered.over
            call.tell(AttemptEnded(call.number, record, outcome_of(error, left=left)))
        if failure is not None:
            failure.route = failure.route or self.leg.name
            failure.attempts = tuple(call.attempts)
            if self.leg.trims(failure) and isinstance(failure, ContextOverflow) and isinstance(self.sent, ChatRequest):
                call.refused[self.leg] = failure, self.sent
            if isinstance(failure, OutputInvalid) and self.gathered.done is not None:
                failure.reply = reply_of(self)
            self.leg.failed(failure)
            log.debug("%s: attempt %d: %s", self.leg.name, self.number, type(failure).__name__)

    def __repr__(self) -> str:
        return f"Run({self.leg.name}, attempt {self.number})"


def _lookout(leg: Leg, request: ChatRequest) -> Lookout:
    return leg.sentinel.lookout(request, leg.window)
