"""What the end of an attempt says: to the breaker, to the limits of the server, and into the record.

Rules of the file: nothing here raises or waits, and nothing is given back; that is `Run`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._errors import (
    ConnectFailed,
    ConnectTimeout,
    DeadlineExceeded,
    FirstTokenTimeout,
    LLMError,
    Overloaded,
    RateLimited,
    Rejected,
)
from resilient_llm._events import SlotsChanged
from resilient_llm._replies import Attempt, Usage
from resilient_llm.policies._admission import Ticket
from resilient_llm.policies._permits import SILENT, Permit
from resilient_llm.policies.breaker import SLOW
from resilient_llm.policies.bulkhead import Slot

if TYPE_CHECKING:
    from resilient_llm._run import Run

THROTTLES = (RateLimited, Overloaded)  # a server's way of saying that there is too much at once
UNSENT = (ConnectFailed, ConnectTimeout, Rejected)
LIMITS = (ConnectTimeout, FirstTokenTimeout)  # nobody's fault where the deadline left no more than that
NOTHING = Usage()


def judge(run: Run, permit: Permit, error: BaseException | None, now: float) -> None:
    """What the attempt says about the server's health."""
    if error is None:
        permit.success(now)
        return
    fault = error.fault if isinstance(error, LLMError) else None
    in_a_hurry = isinstance(error, DeadlineExceeded) or (isinstance(error, LIMITS) and fault is None)
    cut = in_a_hurry or not isinstance(error, LLMError)
    if fault == "caller":
        permit.success(now)
    elif fault == "backend" and isinstance(error, LLMError):
        permit.failure(now, slow=isinstance(error, SILENT), retry_after=error.retry_after)
    elif cut and run.heard is not None and now - _silent_since(run) < SLOW:
        permit.success(now)  # it was answering when the caller left
    elif cut and run.watch is not None and run.watch.phase != "load":
        permit.slow(now, since=_silent_since(run))
    else:
        permit.release()


def settle(run: Run, slot: Slot[Ticket], error: BaseException | None, now: float) -> None:
    """What the attempt says about the server's limits."""
    bulkhead, change = run.leg.bulkhead, 0
    if error is None:
        change = bulkhead.answered(now)
    elif isinstance(error, THROTTLES) and not getattr(error, "oversize", False):
        change = bulkhead.throttled(slot, now)
    if change and bulkhead.slots is not None and run.call.tell is not None:
        run.call.tell(SlotsChanged(run.leg.name, bulkhead.slots - change, bulkhead.slots))
    if slot.held.reservation is not None and not (error is not None and _unsent(run, error)):
        usage = _usage(run, error)
        counted = usage.input_tokens
        slot.held.reservation.settle(None if counted is None else counted + (usage.output_tokens or 0), now)


def _unsent(run: Run, error: BaseException) -> bool:
    """The server has not counted it: whoever left, or ran out of time, had not come to sending it."""
    return isinstance(error, UNSENT) or (run.watch is not None and run.watch.phase in ("load", "connect"))


def _usage(run: Run, error: BaseException | None) -> Usage:
    """The tokens that the server counted, as far as it said before the end."""
    if isinstance(error, LLMError) and error.usage is not None:
        return error.usage
    said = run.gathered.done or run.gathered.vectors
    if said is not None:
        return said.usage
    return getattr(run.batches, "usage", None) or NOTHING


def _silent_since(run: Run) -> float:
    if run.heard is not None:
        return max(run.heard, run.watch.asked)  # while its reader is busy, nobody waits for the server
    loaded = run.watch.spent.get("load", 0.0)  # a model that is being loaded is not silent
    return run.begun + run.queue + loaded


def record_of(run: Run, error: LLMError | None, now: float) -> Attempt:
    """What is told of it in `reply.attempts`."""
    spent = run.watch.spent if run.watch is not None else {}
    first_token = spent.get("first_token") if run.heard is not None else None
    return Attempt(
        run.leg.name, run.number, run.kind, error, run.begun - run.call.started, run.queue, spent.get("connect"),
        spent.get("load"), first_token, now - run.begun, _usage(run, error),
    )  # fmt: skip
