"""What of a request an attempt sends: as its route can take it, as it fits the window, and how much that is.

Counting may not hold up the loop: what fits even if every byte were a token is not counted, and what would take more
than 20 ms or so is counted in a thread, until the deadline; as is what a counter or a rule of the user's does, which
may take any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from resilient_llm._call import Call
from resilient_llm._errors import DeadlineExceeded, LLMError, OutputInvalid
from resilient_llm._events import PromptTrimmed
from resilient_llm._leg import Leg
from resilient_llm._types import ChatRequest, Request
from resilient_llm._watch import aside
from resilient_llm.policies.guard import ANSWER, MARGIN
from resilient_llm.policies.tokens import estimate

T = TypeVar("T")
_THREADS: RunVar[anyio.CapacityLimiter] = RunVar("resilient_llm.counting")
HEAVY = 256_000  # characters that are counted on the loop
THREADS = 8  # that count at a time
NEAR = 0.15  # of the room for a prompt: so near to it the server is asked, if it can count
COUNTED = 1 - 1e-9  # what the server counted is believed; this is so that no fraction of a token is rounded up


async def fit(call: Call, leg: Leg) -> Request:
    """The request as it fits the route, and the window that is known now.

    Raises:
        NoEligibleRoute: the route lacks what it needs.
        ContextOverflow: it does not fit, and the guard's rule does not make it.
        DeadlineExceeded: it was still being counted when the deadline came.
    """
    request = leg.suited(call.request)
    if not isinstance(request, ChatRequest):
        return request
    request = _reseeded(request, call, leg)
    window, by = leg.window_by
    if leg in call.refused:
        fitted = await _refit(request, call, leg)
    elif leg.guard.fits_surely(request, window, call.estimates.extent(request)):
        return request
    else:
        fitted = await _fit(request, call, leg, window, by, await _factor(request, call, leg, window))
    if call.tell is not None and fitted is not request:
        call.tell(PromptTrimmed(call.number, leg.name, len(request.messages), len(fitted.messages)))
    return fitted


async def _fit(
    request: ChatRequest, call: Call, leg: Leg, window: int | None, by: str | None, factor: float
) -> ChatRequest:
    ours = call.estimates.by(leg.family)

    def work() -> ChatRequest:
        fitted = leg.guard.fit(request, window, ours, factor=factor, by=by)
        if leg.guard.counter is not None:
            ours(fitted)  # with which the server's count is compared, on the loop: there it is known by then
        return fitted

    return await _aside(call, work, call.estimates.extent(request).chars, ours=leg.guard.ours)


async def _refit(request: ChatRequest, call: Call, leg: Leg) -> ChatRequest:
    """As the guard's rule makes it fit what the server said when it refused it: the window, and what it counted.

    Raises:
        ContextOverflow: the rule leaves what was refused as it was.
    """
    refusal, sent = call.refused[leg]
    assert refusal.limit is not None
    window, factor = min(leg.window or refusal.limit, refusal.limit), MARGIN
    if refusal.tokens is not None and refusal.tokens > window:
        guess = await _estimate(call, leg, sent)
        factor *= refusal.tokens / guess  # what is left of it may have another ratio, by a little
    fitted = await _fit(request, call, leg, window, "the server", factor)
    if fitted.messages == sent.messages:
        raise refusal
    return fitted


async def _factor(request: ChatRequest, call: Call, leg: Leg, window: int | None) -> float:
    """What the estimate is multiplied by: as the server counts, if it can and that may decide, else so as not to err.

    A server is asked only if the estimate is within 15 % of what there is room for.
    """
    learned = leg.counted.factor(request, window or 0) if leg.route.adapt else None
    factor = MARGIN if learned is None else learned
    space = leg.guard.room(request, window)
    if leg.count is None or leg.guard.counter is not None or space is None or leg.breaker.check(call.clock()):
        return factor
    guess = await _estimate(call, leg, request)
    if abs(guess * factor / max(space[0], 1) - 1) > NEAR:
        return factor
    with anyio.move_on_after(call.deadline.first_by - call.clock()):
        try:
            counted = await leg.count(request, aside(call.clock, call.zone))
        except LLMError:
            return factor
        return counted / guess * COUNTED if counted is not None and counted > 0 else factor
    raise DeadlineExceeded("the deadline came while the server counted the prompt", phase="queue")


async def tokens(call: Call, leg: Leg, request: Request) -> int:
    """About how many tokens the attempt may use, prompt and answer together; 0 where no limit wants to know."""
    if leg.rate is None or leg.rate.tokens_per_minute is None:
        return 0
    if isinstance(request, ChatRequest):
        answer = ANSWER if request.max_tokens is None else request.max_tokens
        return answer + await _estimate(call, leg, request)
    texts = request.texts
    return await _aside(call, lambda: sum(estimate(text, leg.family) for text in texts), sum(map(len, texts)))


async def _estimate(call: Call, leg: Leg, request: ChatRequest) -> int:
    """About how many tokens it has for this route's model."""
    return await _aside(call, partial(call.estimates, request, leg.family), call.estimates.extent(request).chars)


async def _aside(call: Call, count: Callable[[], T], chars: int, *, ours: bool = True) -> T:
    """What `count` gives, which is done in a thread if there is much to count, or if it is not ours."""
    if ours and chars <= HEAVY:
        return count()
    with anyio.move_on_after(call.deadline.first_by - call.clock()):
        return await anyio.to_thread.run_sync(count, abandon_on_cancel=True, limiter=_threads())
    raise DeadlineExceeded("the deadline came while the prompt was counted", phase="queue")


def _threads() -> anyio.CapacityLimiter:
    """Our own few of this loop: counters that hang take none of those that the application has."""
    try:
        return _THREADS.get()
    except LookupError:
        _THREADS.set(anyio.CapacityLimiter(THREADS))
        return _THREADS.get()


def _reseeded(request: ChatRequest, call: Call, leg: Leg) -> ChatRequest:
    """With another seed, if what the model wrote on this route before could not be used.

    A server that gets no seed draws one itself. But a model of Ollama's may have one in its Modelfile.
    """
    if not call.attempts:
        return request
    here = call.attempts[call.earlier :]
    spoiled = sum(isinstance(one.error, OutputInvalid) and one.route == leg.name for one in here)
    if not spoiled or (request.seed is None and not leg.local):
        return request
    return replace(request, seed=((request.seed or 0) + spoiled) % 2**31)
