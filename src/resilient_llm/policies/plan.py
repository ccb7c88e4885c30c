"""In which order the routes of a call are tried.

Rules:
  1. The order that the user wrote.
  2. A conversation stays on the route that it is on, while that one is not put aside.
  3. A route that was put aside (429, quota, 404) is tried last. One that is alone is always tried.
  4. While later routes are left, some of the deadline is kept for them: a hang must not starve the next route.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from resilient_llm._errors import LLMError, ModelNotFound, QuotaExhausted, RateLimited

R = TypeVar("R")
RESERVE = 5.0  # seconds of the deadline that are kept for later routes, or half of what is left if that is less
ASIDE = 30.0  # seconds, where the server does not say how long
_ASIDE_FOR = (RateLimited, QuotaExhausted, ModelNotFound)


def order(routes: Sequence[R], aside: Callable[[R], bool], stays: R | None = None) -> list[R]:
    """The routes in the order in which they are tried.

    Args:
        routes: those that may take the call, as the user ordered them.
        aside: whether a route is put aside now.
        stays: the route that the conversation is on.
    """
    if len(routes) < 2:
        return list(routes)
    return sorted(routes, key=lambda route: (aside(route), route is not stays))


def reserve(left: float) -> float:
    """Of these seconds until the first token must be there, how many are kept for later routes."""
    return max(0.0, min(RESERVE, left / 2))


def aside_for(error: LLMError) -> float | None:
    """Seconds that this error puts its route aside, or `None` if it does not."""
    if isinstance(error, RateLimited) and error.oversize:
        return None  # this request is too large for the route, which is fine for others
    if isinstance(error, _ASIDE_FOR):
        hint = error.retry_after
        return hint if hint is not None and 0 <= hint < math.inf else ASIDE
    return None
