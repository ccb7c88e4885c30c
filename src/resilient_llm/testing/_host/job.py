"""A request on its way: what goes out to its client, where it stands, and what really happened to it.

Rules of the file: an exchange ends once, by itself or because its client left; whoever holds something for it is told
by `released`, once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilient_llm.testing._host.truth import Outcome, Truth
from resilient_llm.testing._script import Action, Drop, End

if TYPE_CHECKING:
    from resilient_llm.testing._host.asked import Asked
    from resilient_llm.testing._host.cut import Fitted


class Exchange:
    """One request and its answer.

    Attributes:
        truth: what really happens to it.
        out: what is to be sent, in order, as far as it was made.
        begun: status and headers are among it already.
        over: nothing more will be.
        left: its client hung up.
        released: called when it is over.
    """

    __slots__ = ("begun", "left", "out", "over", "released", "truth")

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.out: deque[Action] = deque()
        self.begun = self.over = self.left = False
        self.released: Callable[[], None] | None = None

    def put(self, *actions: Action) -> None:
        """Adds to what is sent; nothing once it is over."""
        if not self.over:
            self.begun = self.begun or bool(actions)
            self.out.extend(actions)

    def end(self, now: float, outcome: Outcome, error: str | None = None, *, drop: bool = False) -> None:
        """It is over; `drop`: with its connection."""
        if self.over:
            return
        if outcome != "disconnected":
            self.put(Drop(reset=not self.begun) if drop else End())
        self.over = True
        truth = self.truth
        truth.ended, truth.outcome, truth.error = now, outcome, error or truth.error
        if self.released is not None:
            released, self.released = self.released, None
            released()


class Job:
    """An exchange that needs a model.

    Attributes:
        exchange: of its client.
        asked: what it asks.
        fitted: its prompt, once it has a slot.
        since: when the present phase began.
        reloads: why its model is loaded again, if it is.
        window: tokens of a window that a load which ran out of memory is tried with once more.
    """

    __slots__ = ("asked", "exchange", "fitted", "reloads", "since", "window")

    def __init__(self, exchange: Exchange, asked: Asked, now: float) -> None:
        self.exchange, self.asked, self.since = exchange, asked, now
        self.fitted: Fitted | None = None
        self.reloads: str | None = None
        self.window: int | None = None

    @property
    def truth(self) -> Truth:
        """What really happens to it."""
        return self.exchange.truth

    def lap(self, now: float) -> float:
        """Seconds of the phase that ends here; the next begins."""
        spent, self.since = now - self.since, now
        return spent
