"""What really happened, as no client can see it: one `Truth` for each request, one `LoadTruth` for each load.

A detector of silent failures is worth what it finds of this: a test scores it against the log instead of against a mock
that knows the answer. Rules of the file: seconds and tokens; texts of prompts and answers are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["running", "complete", "refused", "failed", "broken", "disconnected"]


@dataclass(slots=True)
class Truth:
    """One request.

    Attributes:
        number: the first is 1.
        path: of the request.
        model: its full name, or empty.
        began: when it came.
        ended: when its answer, or the patience of its client, ended.
        outcome: `complete`; `refused` (the caller's mistake, or a full queue); `failed` (an error with a status);
            `broken` (an error or an end in mid-answer); `disconnected` (the client left first).
        status: of the answer, once there is one.
        error: what the server said, or what it did not say.
        pending: seconds until the scheduler looked at it: other loads, and room made for its own.
        load: seconds of the load that it started.
        ping: seconds until it had its runner otherwise.
        overhead: seconds in no phase: rendering, counting.
        slot: seconds it waited for a slot.
        prefill: seconds its prompt was read.
        decode: seconds its answer was written.
        reloaded: why a model that was in memory had to be loaded again, naming options with both values; else `None`.
        evicted: the models that had to leave for it.
        window: tokens of the window that it got.
        prompt: tokens of the prompt as it was sent.
        kept: tokens of it that the model read.
        dropped: messages that were left out.
        cached: tokens of `kept` that were in the cache.
        output: tokens written.
        shifts: how often the middle of the context was thrown away while it was written.
        cpu: the share of the model that was not on the GPU.
        fault: the fault that was injected, by its name.
        tenant: another program sent it.
    """

    number: int
    path: str
    model: str
    began: float
    ended: float | None = None
    outcome: Outcome = "running"
    status: int | None = None
    error: str | None = None
    pending: float = 0.0
    load: float = 0.0
    ping: float = 0.0
    overhead: float = 0.0
    slot: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    reloaded: str | None = None
    evicted: tuple[str, ...] = ()
    window: int | None = None
    prompt: int = 0
    kept: int = 0
    dropped: int = 0
    cached: int = 0
    output: int = 0
    shifts: int = 0
    cpu: float = 0.0
    fault: str | None = None
    tenant: bool = False

    @property
    def truncated(self) -> int:
        """The tokens of the prompt that the model never saw."""
        return self.prompt - self.kept

    @property
    def cold(self) -> bool:
        """It started a load."""
        return self.load > 0

    @property
    def total(self) -> float:
        """Seconds from its coming to its end; so far, the sum of its phases."""
        phases = (self.pending, self.load, self.ping, self.overhead, self.slot, self.prefill, self.decode)
        return sum(phases) if self.ended is None else self.ended - self.began


@dataclass(slots=True)
class LoadTruth:
    """One load.

    Attributes:
        model: its full name.
        request: the number of the request that started it, and without which it is aborted.
        began: when.
        ended: when it was over, however that was.
        outcome: how: `completed`, `aborted` (that request went away) or `failed`.
        why: `cold`, or what made a model that was in memory be loaded again.
        window: tokens of the window.
        cpu: the share of it that did not fit on the GPU.
    """

    model: str
    request: int
    began: float
    ended: float | None = None
    outcome: Literal["running", "completed", "aborted", "failed"] = "running"
    why: str = "cold"
    window: int = 0
    cpu: float = 0.0
