"""What a circuit breaker hands out: the right to make one attempt, and what it tells of itself.

The breaker decides; nothing here knows its state. A permit only passes on the first verdict that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Literal, NamedTuple

from resilient_llm._errors import FirstTokenTimeout, LLMError, StreamStalled

SILENT = (FirstTokenTimeout, StreamStalled)  # the server took a request, and what is missing are its tokens
NEVER = -1  # a generation that is never the current one
State = Literal["closed", "open", "half-open"]
Mode = Literal["auto", "forced_open", "observe_only"]
Role = Literal["normal", "probe", "rest"]


class Transition(NamedTuple):
    """A breaker has changed its state at the instant `at`, for this reason.

    Attributes:
        slow: what opened it was silence, and not something that the server said.
    """

    before: State
    after: State
    at: float
    reason: str
    slow: bool = False


class BreakerSnapshot(NamedTuple):
    """What a breaker knows.

    Attributes:
        failures: in a row.
        slow: in a row.
        outcomes: that the failure rate is taken over, `failed` of them failures.
        limit: calls at once; `None` without a limit.
        retry_after: seconds until the next probe; `None` unless it is open.
    """

    state: State
    mode: Mode
    failures: int
    slow: int
    outcomes: int
    failed: int
    limit: int | None
    retry_after: float | None


class Permit:
    """The right to make one attempt. The first verb counts, the later ones do nothing.

    Attributes:
        role: `probe` for a call that finds out whether the server is back, `rest` for what follows its first token.
        generation: of the breaker, when it was given.
        lease: the instant at which its place is free again, even if nobody gave it back.
        settled: the breaker has heard its verdict.
        rest: the permit for what follows, once the answer to a probe has begun.
    """

    __slots__ = ("_hear", "generation", "lease", "rest", "role", "settled")

    def __init__(self, hear: Callable[[Verdict], None], role: Role, generation: int, lease: float = math.inf) -> None:
        self._hear, self.settled = hear, False
        self.role, self.generation, self.lease = role, generation, lease
        self.rest: Permit | None = None

    def begun(self, now: float) -> Permit:
        """The first token of a probe is there, which is its success: its place is free, and the server is back.

        The permit for what follows. A success of that was counted already, its failure is an ordinary one: otherwise a
        server whose every answer breaks off would pass every probe.
        """
        self.rest = rest = Permit(self._hear, "rest", NEVER)  # the breaker gives it its generation when it hears
        self.success(now)
        return rest

    def keep(self, until: float) -> None:
        """It may take until that instant: before, it is not lost."""
        self.lease = max(self.lease, until)

    def success(self, now: float) -> None:
        """The server answered."""
        self._hear((self, now, False, False, None, None))

    def failure(self, now: float, *, slow: bool = False, retry_after: float | None = None) -> None:
        """The server failed; `slow` if it did so by giving no token in time, be it the first or a later one."""
        self._hear((self, now, True, slow, None, retry_after))

    def slow(self, now: float, *, since: float = -math.inf) -> None:
        """Someone cut the attempt, and nothing had come since that instant: no failure, but two in a row open it.

        A silence counts from 5 s on. Shorter ones add up, as far as they do not overlap, until the server is heard.
        """
        self._hear((self, now, None, False, since, None))

    def release(self) -> None:
        """No verdict: it was cancelled, or ended in a way that says nothing about the server."""
        if not self.settled:  # whoever holds one gives it back, and most had their verdict before
            self._hear((self, 0.0, None, False, None, None))

    def judge(self, error: BaseException | None, now: float) -> None:
        """The verdict that an outcome amounts to. A caller's mistake is a success: the server answered."""
        fault = error.fault if isinstance(error, LLMError) else "backend" if isinstance(error, Exception) else None
        if error is None or fault == "caller":
            self.success(now)
        elif fault == "backend":
            hint = error.retry_after if isinstance(error, LLMError) else None
            self.failure(now, slow=isinstance(error, SILENT), retry_after=hint)
        else:
            self.release()

    def __repr__(self) -> str:
        return f"Permit({self.role}, generation {self.generation}{', settled' if self.settled else ''})"


# permit, now, failed, slow, since when nothing had come, retry_after
Verdict = tuple[Permit, float, bool | None, bool, float | None, float | None]


class Guarded:
    """One call under a breaker, as a context manager of either kind. Good for one use."""

    __slots__ = ("_admit", "_clock", "_permit")

    def __init__(self, admit: Callable[[float], Permit], clock: Callable[[], float]) -> None:
        self._admit, self._clock = admit, clock

    def __enter__(self) -> Permit:
        self._permit = self._admit(self._clock())
        return self._permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._permit.judge(error, self._clock())

    def __repr__(self) -> str:
        return f"Guarded({getattr(self, '_permit', 'not entered')!s})"

    async def __aenter__(self) -> Permit:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._permit.judge(error, self._clock())
