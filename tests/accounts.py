"""What every call must account for, whatever happened to it: looked at by those who ask, so that it holds everywhere.

That the parts of `timings` add up to its total says little by itself, because what is left over counts as reading. So
the total is compared with the caller's own watch, each attempt with its own phases, and what lies between the attempts
with what was waited.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from resilient_llm import Attempt, ChatReply, LLMError
from resilient_llm.errors import AllRoutesFailed

TINY = 1e-6


def accounts_for(outcome: ChatReply | LLMError, seconds: float, *, between: float = TINY) -> None:
    """The reply, or the error, of a call that took so many seconds, tells all that was tried and where the time went.

    Args:
        between: seconds that may pass unnoticed between any two instants: on a machine none, on a busy one some.
    """
    attempts = outcome.attempts
    assert [one.number for one in attempts] == list(range(1, len(attempts) + 1)), attempts
    for one in attempts:
        phases = (one.queue, one.connect or 0.0, one.load or 0.0, one.first_token or 0.0)
        assert min(phases) >= 0, one
        assert sum(phases) <= one.total + TINY, one
        assert one.started + one.total <= seconds + TINY, (one, seconds)
    gaps = [after.started - before.started - before.total for before, after in pairwise(attempts)]
    assert all(gap >= -TINY for gap in gaps), "one attempt at a time"
    if isinstance(outcome, LLMError):
        _explains(outcome, attempts)
    else:
        _adds_up(outcome, gaps, seconds, between)


def _adds_up(reply: ChatReply, gaps: Sequence[float], seconds: float, between: float) -> None:
    *lost, last = reply.attempts
    timings = reply.timings
    assert last.error is None
    assert last.route == reply.route
    assert all(one.error is not None for one in lost), reply.attempts
    phases = timings.queue + timings.connect + timings.load + (timings.first_token or 0.0) + timings.stream
    assert abs(timings.failed + timings.backoff + phases - timings.total) <= TINY, timings
    assert timings.stream >= -TINY, timings
    assert abs(timings.failed - sum(one.total for one in lost)) <= TINY, timings
    assert -TINY <= sum(gaps) - timings.backoff <= between * (len(gaps) + 1), (gaps, timings)
    assert -TINY <= timings.total - (last.started + last.total) <= between, (last, timings)
    assert -TINY <= seconds - timings.total <= between, (seconds, timings)


def _explains(error: LLMError, attempts: Sequence[Attempt]) -> None:
    assert all(isinstance(one.error, LLMError) for one in attempts), attempts
    if not isinstance(error, AllRoutesFailed) or error.route is not None:
        return  # with a route it is what a backend raised that is itself a client of others
    assert len(error.failures) > 1
    assert error.__cause__ is error.failures[-1] is error.last
    for failure in error.failures:
        assert failure.route
        assert any(one.route == failure.route for one in attempts), "a route that failed has been tried"
        assert failure.attempts == attempts[: len(failure.attempts)]
