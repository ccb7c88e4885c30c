"""Breaker and rate limit in one step: an attempt gets both, or nothing is taken. Time is an argument."""

from __future__ import annotations

import math

import pytest

from resilient_llm._errors import CircuitOpen, DeadlineUnattainable, RateLimited
from resilient_llm.policies._admission import LOOK, Admission, Ticket
from resilient_llm.policies.breaker import CircuitBreaker
from resilient_llm.policies.rate import RateLimit, Reservation


def ticket(admission: Admission, now: float) -> Ticket:
    given = admission.take(now)
    assert isinstance(given, Ticket)
    return given


def opened() -> CircuitBreaker:
    """A breaker that opened at 0 for 5 s."""
    breaker = CircuitBreaker(failures=1)
    breaker.admit(0).failure(0)
    return breaker


def test_with_room_and_a_closed_breaker_an_attempt_gets_both() -> None:
    rate = RateLimit(tokens_per_minute=100)
    given = ticket(Admission(CircuitBreaker(), rate, tokens=70), 0)
    assert given.permit.role == "normal"
    assert given.reservation is not None
    assert rate.snapshot(0).tokens == given.reservation.tokens == 70
    assert repr(given) == "Ticket(Permit(normal, generation 0), Reservation(70 tokens, open))"


def test_who_names_no_tokens_takes_none() -> None:
    rate = RateLimit(tokens_per_minute=100)
    ticket(Admission(CircuitBreaker(), rate), 0)
    assert rate.snapshot(0).tokens == 0


def test_without_a_rate_limit_the_breaker_decides_alone() -> None:
    given = ticket(Admission(CircuitBreaker(), tokens=10**9), 0)
    assert given.reservation is None
    given.release()
    assert given.permit.settled
    with pytest.raises(CircuitOpen):
        Admission(opened()).take(4)
    assert isinstance(Admission(opened()).peek(4), CircuitOpen)
    assert ticket(Admission(opened()), 5).permit.role == "probe"


def test_without_room_it_is_told_when_to_ask_again_and_the_breaker_is_not_asked() -> None:
    breaker, rate = opened(), RateLimit(requests_per_minute=10)
    rate.reserve(0, 3)
    assert Admission(breaker, rate).take(5) == 9
    assert breaker.snapshot(5).state == "half-open"
    assert breaker.check(5) is None  # the place of the probe is not taken
    assert ticket(Admission(breaker, rate), 9).permit.role == "probe"


def test_an_open_breaker_refuses_at_once_and_takes_nothing_of_the_rate() -> None:
    breaker, rate = opened(), RateLimit(requests_per_minute=10)
    for admission in (Admission(breaker, rate), Admission(breaker, rate, deadline=0)):
        with pytest.raises(CircuitOpen):
            admission.take(4)
        assert isinstance(admission.peek(4), CircuitOpen)
    assert rate.room(0, 4) == 4
    rate.reserve(0, 4)
    assert isinstance(Admission(breaker, rate).peek(4.5), CircuitOpen)  # sooner told than that there is no room


def test_a_breaker_that_refuses_in_the_last_moment_gives_the_room_back() -> None:
    breaker = opened()

    class Slow(RateLimit):
        """While it is asked, another thread's call takes the place of the probe."""

        def reserve(self, tokens: int, now: float) -> Reservation | float:
            breaker.admit(now)
            return super().reserve(tokens, now)

    rate = Slow(requests_per_minute=10, tokens_per_minute=100)
    with pytest.raises(CircuitOpen, match="probe"):
        Admission(breaker, rate, tokens=100).take(5)
    assert rate.room(100, 5) == 5


def test_waiting_in_vain_for_the_rate_is_refused() -> None:
    rate = RateLimit(requests_per_minute=10, tokens_per_minute=100)
    rate.reserve(50, 0)
    admission = Admission(CircuitBreaker(), rate, tokens=10, deadline=5.5)
    assert isinstance(admission.peek(1), DeadlineUnattainable)
    with pytest.raises(DeadlineUnattainable, match="in 5 s"):
        admission.take(1)
    assert Admission(CircuitBreaker(), rate, tokens=10, deadline=6).take(1) == 6
    with pytest.raises(RateLimited, match="101 tokens"):
        Admission(CircuitBreaker(), rate, tokens=101, deadline=math.inf).take(1)
    assert rate.snapshot(1).tokens == 50


def test_what_is_released_leaves_no_trace_and_what_had_its_verdict_keeps_it() -> None:
    breaker, rate = CircuitBreaker(failures=1), RateLimit(requests_per_minute=10, tokens_per_minute=100)
    ticket(Admission(breaker, rate, tokens=100), 0).release()
    assert (breaker.snapshot(0).outcomes, rate.room(100, 0)) == (0, 0)
    used = ticket(Admission(breaker, rate, tokens=100), 0)
    assert used.reservation is not None
    used.permit.failure(1)
    used.reservation.settle(30, 1)
    used.release()
    assert breaker.state(1) == "open"
    assert (rate.snapshot(1).tokens, rate.room(0, 1)) == (30, 6)


def started_slowly() -> CircuitBreaker:
    """A breaker that has just closed: one call at once."""
    breaker = CircuitBreaker(failures=1, successes=1)
    breaker.admit(0).failure(0)
    breaker.admit(5).success(5)
    return breaker


@pytest.mark.parametrize("limited", [False, True])
def test_while_a_breaker_starts_slowly_who_has_no_other_route_waits_for_its_turn(limited: bool) -> None:
    breaker, rate = started_slowly(), RateLimit(tokens_per_minute=100) if limited else None
    first = ticket(Admission(breaker, rate, tokens=60), 5)
    elsewhere, here = Admission(breaker, rate, tokens=20), Admission(breaker, rate, tokens=20, waits=True)
    assert isinstance(elsewhere.peek(5), CircuitOpen)
    with pytest.raises(CircuitOpen, match="slow start, one call at once"):
        elsewhere.take(5)
    assert here.peek(5) is None
    assert here.take(5) == 5 + LOOK
    assert rate is None or rate.snapshot(5).tokens == 60  # nothing was taken
    first.permit.success(5)
    assert ticket(here, 5).permit.role == "normal"


def test_who_waits_does_not_wait_for_a_breaker_that_is_open() -> None:
    with pytest.raises(CircuitOpen):
        Admission(opened(), waits=True).take(4)
    assert isinstance(Admission(opened(), waits=True).peek(4), CircuitOpen)
