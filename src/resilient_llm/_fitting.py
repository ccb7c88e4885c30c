"""What of a request an attempt sends: as its route can take it, as it fits the window, and how much that is.

Counting may not hold up the loop: what fits even if every byte were a token is not counted, and what would take more
than 20 ms or so is counted in a thread, until the deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from resilient_llm._call import Call
from resilient_llm._errors import DeadlineExceeded, OutputInvalid
from resilient_llm._events import PromptTrimmed
from resilient_llm._leg import Leg
from resilient_llm._types import ChatRequest, Request
from resilient_llm.policies.guard import ANSWER
from resilient_llm.policies.tokens import estimate, size

T = TypeVar("T")
HEAVY = 256_000  # characters that are counted on the loop


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
    if leg.guard.fits_surely(request, leg.window):
        return request
    fitted = await _aside(
        call, partial(leg.guard.fit, request, leg.window, call.estimates.by(leg.family)), size(request)
    )
    if call.tell is not None and fitted is not request:
        call.tell(PromptTrimmed(call.number, leg.name, len(request.messages), len(fitted.messages)))
    return fitted


async def tokens(call: Call, leg: Leg, request: Request) -> int:
    """About how many tokens the attempt may use, prompt and answer together; 0 where no limit wants to know."""
    if leg.rate is None or leg.rate.tokens_per_minute is None:
        return 0
    if isinstance(request, ChatRequest):
        answer = ANSWER if request.max_tokens is None else request.max_tokens
        return answer + await _aside(call, partial(call.estimates, request, leg.family), size(request))
    texts = request.texts
    return await _aside(call, lambda: sum(estimate(text, leg.family) for text in texts), sum(map(len, texts)))


async def _aside(call: Call, count: Callable[[], T], chars: int) -> T:
    """What `count` gives, which is done in a thread if there is much to count."""
    if chars <= HEAVY:
        return count()
    with anyio.move_on_after(call.deadline.first_by - call.clock()):
        return await anyio.to_thread.run_sync(count, abandon_on_cancel=True)
    raise DeadlineExceeded("the deadline came while the prompt was counted", phase="queue")


def _reseeded(request: ChatRequest, call: Call, leg: Leg) -> ChatRequest:
    """With another seed, if what the model wrote on this route before could not be used.

    A server that gets no seed draws one itself. But a model of Ollama's may have one in its Modelfile.
    """
    here = call.attempts[call.earlier :]
    spoiled = sum(isinstance(one.error, OutputInvalid) and one.route == leg.name for one in here)
    if not spoiled or (request.seed is None and not leg.local):
        return request
    return replace(request, seed=((request.seed or 0) + spoiled) % 2**31)
