"""What a call gives: the whole answer, who gave it, and where the time went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._replies import ChatReply, ServedBy, Timings

if TYPE_CHECKING:
    from resilient_llm._run import Run


def reply_of(run: Run) -> ChatReply:
    """The whole answer; once the attempt has ended."""
    gathered, leg, call, done = run.gathered, run.leg, run.call, run.gathered.done
    assert done is not None
    model = done.model or leg.model
    served_by = ServedBy(
        leg.name, model, leg.provider, seed=getattr(run.sent, "seed", None), fingerprint=done.fingerprint,
        **leg.served(),
    )  # fmt: skip
    return ChatReply(
        "".join(gathered.texts), "".join(gathered.thoughts) or None, tuple(gathered.calls), done.finish_reason,
        done.usage, model, leg.name, served_by, tuple(call.attempts), timings_of(run),
        (*done.degraded, "restarted") if call.restarted else done.degraded,
        getattr(run.batches, "request_id", None), call.request.private,
    )  # fmt: skip


def timings_of(run: Run) -> Timings:
    """Where the time of the call went. The parts add up to the total; what is left over is the reading."""
    call, done = run.call, run.gathered.done
    total, attempts, backoff = call.clock() - call.started, call.attempts, call.backoff
    last, failed = attempts[-1], 0.0
    if len(attempts) > 1:
        failed = sum(one.total for one in attempts[:-1])
    connect, load, first = last.connect or 0.0, last.load or 0.0, last.first_token
    stream = total - failed - backoff - last.queue - connect - load - (first or 0.0)
    told = (None, None) if done is None else (done.server_queue, done.load)
    return Timings(total, last.queue, load, told[0], first, backoff, connect, failed, stream, told[1])
