"""A whole answer: is it one to what was asked?

The server said that it was done, which proves that nothing of the answer is missing. It does not prove that the model
saw all of the question.
"""

from __future__ import annotations

from resilient_llm._errors import ContextOverflow, OutputInvalid
from resilient_llm._events import AnswerDegraded
from resilient_llm._run import Run
from resilient_llm._types import ChatRequest

_CUT = {
    "prompt_truncated": "the server cut the prompt without a word",
    "context_shifted": "the server dropped the middle of the context while it wrote",
}


def accept(run: Run) -> None:
    """Takes an answer that is whole, and tells in what it is less than what was asked for.

    Raises:
        ContextOverflow: the context was cut, and the route says that this is a failure.
        OutputInvalid: the model thought until its limit, and the route's sentinel says that this is one.
    """
    done, leg, call, sent = run.gathered.done, run.leg, run.call, run.sent
    if done is None or not isinstance(sent, ChatRequest):
        return
    window, estimate, extent = leg.cuts_at, call.estimates.by(leg.family), call.estimates.extent(sent)
    counted, whole, refuses = done.usage.input_tokens, leg.counts_whole, leg.refuses(sent)
    # As far as we know by now, and by what may make it an error on this route:
    learned = leg.counted.cut(sent, counted, window, estimate, whole=whole, refuses=refuses, extent=extent)
    decided = learned
    if leg.route.on_truncation != "warn" and not leg.route.adapt:
        decided = leg.counted.alone(
            sent, counted, window, estimate, learned=learned, whole=whole, refuses=refuses, extent=extent
        )
    if not (learned or decided or done.degraded):
        return
    decides = (*done.degraded, "prompt_truncated") if decided else done.degraded
    if learned or decided:
        done.degraded = (*done.degraded, "prompt_truncated")
    if call.tell is not None:
        call.tell(AnswerDegraded(call.number, leg.name, run.number, done.degraded, done.cause))
    if leg.sentinel.empty == "fail" and "thinking_ate_budget" in done.degraded:
        raise OutputInvalid("the model used its limit up in thinking and said nothing", kind="empty")
    if leg.route.on_truncation == "warn":
        return
    what = next((text for name, text in _CUT.items() if name in decides), None)
    if what is not None:
        tokens = estimate(sent)
        seen = f"it counted {done.usage.input_tokens} of about {tokens} tokens; its window is {window or 'unknown'}"
        raise ContextOverflow(f"{what}: {seen}", tokens=max(tokens, (window or 0) + 1), limit=window)
