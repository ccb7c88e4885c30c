"""What an attempt needs beside a slot, taken at the head of the queue in one step or not at all.

The breaker and the rate limit know nothing of each other, and the queue knows neither: it asks `take`, which gives all
of it, says when to ask again, or refuses. Whatever was taken before a refusal is given back in the same step.
"""

from __future__ import annotations

import math

from resilient_llm._errors import CircuitOpen, LLMError
from resilient_llm.policies._permits import Permit
from resilient_llm.policies.breaker import CircuitBreaker
from resilient_llm.policies.rate import RateLimit, Reservation

LOOK = 0.05  # seconds until it is asked again, while the breaker starts slowly


class Ticket:
    """What an attempt holds beside its slot.

    Attributes:
        permit: of the breaker.
        reservation: of the rate limit, if there is one.
    """

    __slots__ = ("permit", "reservation")

    def __init__(self, permit: Permit, reservation: Reservation | None = None) -> None:
        self.permit, self.reservation = permit, reservation

    def release(self) -> None:
        """Gives back what had no verdict: the breaker hears nothing, the rate limit forgets it."""
        self.permit.release()
        if self.reservation is not None:
            self.reservation.release()

    def __repr__(self) -> str:
        return f"Ticket({self.permit!r}, {self.reservation!r})"


class Admission:
    """Asks breaker and rate limit for one attempt.

    Args:
        breaker: of the route.
        rate: of the route, if it has one.
        tokens: that the attempt may use, prompt and answer together; they matter to the rate limit alone.
        deadline: the instant after which waiting for the rate limit is in vain.
        waits: in the queue, while a breaker that has closed lets only a few through at once. Otherwise, for whom there
            is another route, that is a refusal.
    """

    __slots__ = ("_breaker", "_deadline", "_rate", "_tokens", "_waits")

    def __init__(
        self, breaker: CircuitBreaker, rate: RateLimit | None = None, tokens: int = 0, deadline: float = math.inf,
        *, waits: bool = False,
    ) -> None:  # fmt: skip
        self._breaker, self._rate, self._tokens, self._deadline = breaker, rate, tokens, deadline
        self._waits = waits

    def peek(self, now: float) -> LLMError | None:
        """Why waiting is in vain, or `None`. Takes nothing."""
        refusal = self._breaker.check(now)
        if refusal is not None and self._only_starts_slowly(now):
            refusal = None
        if refusal is not None or self._rate is None:
            return refusal
        return self._rate.check(self._tokens, now, self._deadline)

    def take(self, now: float) -> Ticket | float:
        """All that the attempt needs, or the instant at which it is worth asking again.

        Raises:
            LLMError: it may not be made, or there is no room in time; nothing was taken.
        """
        if self._rate is None:
            permit = self._permit(now)
            return Ticket(permit) if isinstance(permit, Permit) else permit
        if (refusal := self.peek(now)) is not None:
            raise refusal
        room = self._rate.reserve(self._tokens, now)
        if not isinstance(room, Reservation):
            return room
        ticket = None
        try:
            permit = self._permit(now)
            if not isinstance(permit, Permit):
                return permit
            ticket = Ticket(permit, room)
            return ticket
        finally:
            if ticket is None:
                room.release()

    def __repr__(self) -> str:
        return f"Admission({self._breaker!r}, {self._rate!r}, {self._tokens} tokens, by {self._deadline:g})"

    def _permit(self, now: float) -> Permit | float:
        try:
            return self._breaker.admit(now)
        except CircuitOpen:
            if self._only_starts_slowly(now):
                return now + LOOK
            raise

    def _only_starts_slowly(self, now: float) -> bool:
        """What the breaker refuses is no more than its turn, and nobody else would take the call."""
        return self._waits and self._breaker.state(now) == "closed"
