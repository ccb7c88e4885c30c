"""What is in force, and what state it is in: `explain()` and `snapshot()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient_llm._deadline import CEILING
from resilient_llm._leg import Leg
from resilient_llm._route import Route
from resilient_llm.policies import plan
from resilient_llm.policies.guard import ANSWER
from resilient_llm.policies.timeouts import DEADLINE_CHAT, DEADLINE_EMBED

_CHOICES = ("on_break", "on_truncation", "tells_deadline", "adapt", "falls_back_on", "space")


def explain(legs: Sequence[Leg], timeout: float | None) -> str:
    """The pipeline in force, with every number, one route a paragraph.

    Args:
        legs: the routes.
        timeout: the client's, if it has one.
    """
    local = any(leg.local for leg in legs)
    first, whole = (timeout, timeout) if timeout is not None else (DEADLINE_CHAT[local], CEILING)
    lines = [
        f"deadline: {timeout:g} s"
        if timeout is not None
        else f"deadline: {first:g} s to the first token, {whole:g} s in all; {DEADLINE_EMBED[local]:g} s to embed"
    ]
    for number, leg in enumerate(legs, 1):
        kept = plan.reserve(first) if number < len(legs) else 0.0
        lines.append(_explain(number, leg, first - kept, whole))
    return "\n".join(lines)


def snapshot(legs: Sequence[Leg], now: float) -> dict[str, dict[str, Any]]:
    """The state of every breaker, queue and budget, by route."""
    return {
        leg.name: {
            "breaker": leg.breaker.snapshot(now),
            "bulkhead": leg.bulkhead.snapshot(),
            "budget": round(leg.budget.balance, 6),  # a sum of tenths
            "rate": leg.rate.snapshot(now) if leg.rate is not None else None,
            "aside": max(0.0, leg.aside_until - now),
            **leg.state(),
        }
        for leg in legs
    }


def _window(leg: Leg) -> str:
    window, by = leg.window_by
    return "unknown" if window is None else f"{window} by {by}"


def _guard(leg: Leg) -> str:
    """What happens to a prompt that does not fit, and how that is found out."""
    window, (rule, counter) = leg.window, leg.guard.names
    kept = ANSWER if window is None else min(ANSWER, window // 4)
    reserve = f"max_tokens, else {kept}," if leg.guard.reserve is None else f"{leg.guard.reserve}"
    checked = f"{rule}; {reserve} kept for the answer" if window is not None else "nothing to check without a window"
    if leg.guard.counter is not None:
        return f"{checked}; counted by {counter}"
    seen = str(leg.counted)
    use = "" if leg.route.adapt else ", not used without adapt=True"
    told = f" (the server's counts: {seen}{use})" if seen else ""
    return f"{checked}; estimated by the vocabulary of {leg.family}{told}"


def _truncation(leg: Leg) -> str:
    """What makes an error of an answer to a prompt that the server cut, if anything does."""
    if leg.route.on_truncation == "warn":
        return ""
    if leg.route.adapt:
        return "\n   truncation: fail, by each answer and what those before it have taught"
    counted = leg.counted
    seen = f" (by what was learned {counted.more} more and {counted.fewer} fewer; not used without adapt=True)"
    return f"\n   truncation: fail, by each answer alone{seen if counted.more or counted.fewer else ''}"


def _clamped(limit: float, left: float) -> str:
    """A limit, or what the deadline leaves of it."""
    return f"{limit:g} s" if limit <= left else f"{left:g} of {limit:g} s"


def _timeouts(leg: Leg, first: float, whole: float) -> str:
    limits, learned = leg.learned(leg.limits), getattr(leg.backend, "load_budget", None)
    use = "" if leg.route.adapt else ", not used without adapt=True"
    seen = f" ({learned:.3g} s by its last loads{use})" if learned is not None else ""
    phases = {"connect": limits.connect, "load": limits.load, "first token": limits.first_token}
    each = [f"{name} {_clamped(limit, first)}" for name, limit in phases.items() if name != "load" or leg.ready]
    if leg.ready is not None:
        each[1] += seen
    if leg.thinking.first_token != limits.first_token:
        each[-1] += f", where it thinks first {_clamped(leg.thinking.first_token, first)}"
    return ", ".join([*each, f"between tokens {_clamped(limits.between_tokens, whole)}"])


def _chosen(route: Route) -> str:
    """What the user chose for this route beside its parts."""
    usual = {"on_break": "raise", "on_truncation": "warn"}
    given = {name: value for name in _CHOICES if (value := getattr(route, name)) and value != usual.get(name)}
    if route.falls_back_on:
        given["falls_back_on"] = ", ".join(kind.__name__ for kind in route.falls_back_on)
    words = [name if value is True else f"{name} {value}" for name, value in given.items()]
    return f"   chosen: {'; '.join(words)}\n" if words else ""


def _explain(number: int, leg: Leg, first: float, whole: float) -> str:
    spoken = getattr(leg.backend, "dialect", None)
    dialect = f"\n   dialect: {spoken}" if spoken else ""
    unary = "" if leg.streams else "\n   streams: no, each answer is asked for in one piece"
    model = f"\n   model: {leg.known}" if leg.known is not None else ""
    if not model and leg.route.price is not None:
        model = f"\n   price: {leg.route.price}"
    return (
        f"{number}. {leg.name} ({'local' if leg.local else 'hosted'}, zone {leg.zone or 'asked on connecting'},"
        f" window {_window(leg)})\n"
        f"   timeouts: {_timeouts(leg, first, whole)}\n"
        f"   retry: {leg.retry.explain(local=leg.local)}; {leg.budget!r}\n"
        f"   breaker: {leg.breaker!r}\n   bulkhead: {leg.bulkhead!r}\n"
        + (f"   rate: {leg.rate!r}\n" if leg.rate is not None else "")
        + f"   sentinel: {leg.sentinel!r}\n{_chosen(leg.route)}   guard: {_guard(leg)}{_truncation(leg)}"
        + f"{dialect}{unary}{model}"
    )
