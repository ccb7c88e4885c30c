"""What is in force, and what state it is in: `explain()` and `snapshot()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient_llm._leg import Leg


def explain(legs: Sequence[Leg]) -> str:
    """The pipeline in force, with every number, one route a paragraph."""
    return "\n".join(_explain(number, leg) for number, leg in enumerate(legs, 1))


def snapshot(legs: Sequence[Leg], now: float) -> dict[str, dict[str, Any]]:
    """The state of every breaker, queue and budget, by route."""
    return {
        leg.name: {
            "breaker": leg.breaker.snapshot(now),
            "bulkhead": leg.bulkhead.snapshot(),
            "budget": leg.budget.balance,
            "rate": leg.rate.snapshot(now) if leg.rate is not None else None,
            "aside": max(0.0, leg.aside_until - now),
            **leg.state(),
        }
        for leg in legs
    }


def _window(leg: Leg) -> str:
    window, by = leg.window_by
    return "unknown" if window is None else f"{window} by {by}"


def _counting(leg: Leg) -> str:
    """Whose vocabulary prompts are measured by, and what the server's own counts say of that."""
    if leg.guard.counter is not None:
        return ""
    seen = str(leg.counted)
    use = "" if leg.route.adapt else ", not used without adapt=True"
    return f", with the vocabulary of {leg.family}" + (f" (the server's counts: {seen}{use})" if seen else "")


def _explain(number: int, leg: Leg) -> str:
    limits, retry = leg.learned(leg.limits), leg.retry
    attempts = retry.attempts or (2 if leg.local else 3)
    learned = getattr(leg.backend, "load_budget", None)
    used = "" if leg.route.adapt else ", not used without adapt=True"
    seen = f" ({learned:.3g} s by its last loads{used})" if learned is not None else ""
    spoken = getattr(leg.backend, "dialect", None)
    dialect = f"\n   dialect: {spoken}" if spoken else ""
    whole = "" if leg.streams else "\n   streams: no, each answer is asked for in one piece"
    model = f"\n   model: {leg.known}" if leg.known is not None else ""
    if not model and leg.route.price is not None:
        model = f"\n   price: {leg.route.price}"
    load = f" load {limits.load:g} s{seen}," if leg.ready is not None else ""
    return (
        f"{number}. {leg.name} ({'local' if leg.local else 'hosted'}, zone {leg.zone or 'asked on connecting'},"
        f" window {_window(leg)})\n"
        f"   timeouts: connect {limits.connect:g} s,{load} first token {limits.first_token:g} s,"
        f" between tokens {limits.between_tokens:g} s\n"
        f"   retry: {attempts} attempt{'s' * (attempts > 1)}, patience {retry.patience:g} s; {leg.budget!r}\n"
        f"   breaker: {leg.breaker!r}\n   bulkhead: {leg.bulkhead!r}\n"
        + (f"   rate: {leg.rate!r}\n" if leg.rate is not None else "")
        + f"   guard: {leg.guard!r}{_counting(leg)}{dialect}{whole}{model}"
    )
