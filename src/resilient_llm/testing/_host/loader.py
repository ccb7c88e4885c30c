"""One load: a process starts and reads its model, for the request that asked, and ends with that request's connection.

Rules of the file: it ends once, by itself, by its request or by its timeout, and then the scheduler goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from resilient_llm.testing._host import lines
from resilient_llm.testing._host.asked import Wants
from resilient_llm.testing._host.facts import GIB
from resilient_llm.testing._host.job import Job
from resilient_llm.testing._host.runner import Runner
from resilient_llm.testing._host.truth import LoadTruth

if TYPE_CHECKING:
    from resilient_llm.testing._host.agenda import Entry
    from resilient_llm.testing._host.scheduler import Scheduler

TIERS: Final = (32_768, 4096)  # tokens; a window that nobody asked for becomes the next smaller one where memory ends
TIMED_OUT: Final = "timed out waiting for {} to start - progress 0.00 - "
TERMINATED: Final = "{} process has terminated: exit status 1"
NO_MEMORY: Final = {
    "llama-server": "llama-server reported out-of-memory during startup: failed to allocate buffer of size {need}",
    "llama runner": "model requires more system memory ({need:.1f} GiB) than is available ({free:.1f} GiB)",
}


class Load:
    """A load under way.

    Attributes:
        job: the request that it is for.
        runner: the process that loads.
        truth: what really happens to it.
    """

    def __init__(self, scheduler: Scheduler, job: Job, fault: str = "") -> None:
        world, asked = scheduler.world, job.asked
        self._scheduler, self._world, self.job = scheduler, world, job
        self._fault = fault
        wants = self._shrunk(asked.wants)
        size, vram, self._missing = scheduler.memory.place(asked.pulled, wants, scheduler.occupants())
        if self._fault == "falls back to CPU":
            vram = 0
        parallel = scheduler.memory.parallel(asked.pulled)
        self.runner = Runner(world, asked.pulled, wants, parallel=parallel, size=size, vram=vram)
        why = job.reloads or "cold"
        self.truth = LoadTruth(asked.pulled.name, job.truth.number, world.agenda.now, why=why, window=wants.num_ctx)
        self.truth.cpu = round(self.runner.cpu, 6)
        self._timer: Entry | None = None

    def begin(self) -> None:
        """Starts the process."""
        job, world = self.job, self._world
        job.truth.pending += job.lap(world.agenda.now)
        self._scheduler.loads.append(self.truth)
        self._scheduler.loading[self.runner.pulled.name] = self
        job.exchange.released = self._abort
        seconds = self._scheduler.memory.seconds(job.asked.pulled)
        self._scheduler.memory.was_read(job.asked.pulled)
        self._timer = world.agenda.after(max(world.settings.load_timeout, seconds + 1), self._timed_out)
        if self._fault != "load stalls":
            self.runner.later(seconds, self._read)

    def _shrunk(self, wants: Wants) -> Wants:
        window = self.job.window or wants.num_ctx
        if self._fault == "window shrinks":
            window = smaller(window) or window
        return replace(wants, num_ctx=window)

    def _read(self) -> None:
        if not self._under_way:
            return
        pulled = self.job.asked.pulled
        if self._fault == "load fails":
            self._failed(TERMINATED.format(self._world.version.runner))
        elif self._missing or self._fault == "load runs out of memory":
            self._without_memory()
        else:
            self._scheduler.memory.leaked += pulled.leak
            self._done()

    def _without_memory(self) -> None:
        """Once more with a smaller window, if nobody asked for this one; else an error."""
        job = self.job
        window = smaller(self.runner.wants.num_ctx) if job.asked.wants.auto and self._world.version.tiers else None
        if window is None or job.window is not None:
            free = (self.runner.size - self.runner.vram - self._missing) / GIB
            need = (self.runner.size - self.runner.vram) / GIB
            text = NO_MEMORY[self._world.version.runner]
            self._failed(text.format(need=need, free=free))
            return
        job.window = window
        self._end("failed")
        job.exchange.released = None
        Load(self._scheduler, job).begin()

    def _done(self) -> None:
        job, scheduler = self.job, self._scheduler
        self._end("completed")
        scheduler.loaded[self.runner.pulled.name] = self.runner
        if job.asked.keep_alive is not None:
            self.runner.session = job.asked.keep_alive
        scheduler.hand_over(job, self.runner)
        scheduler.load_ended(self)

    def _timed_out(self) -> None:
        if self._under_way:
            self._failed(TIMED_OUT.format(self._world.version.runner))

    def _failed(self, text: str) -> None:
        job = self.job
        self._end("failed")
        job.exchange.released = None
        lines.fail(job.exchange, self._world.agenda.now, text)
        self._scheduler.load_ended(self)

    @property
    def _under_way(self) -> bool:
        return self._scheduler.loading.get(self.runner.pulled.name) is self

    def die(self) -> None:
        """Its process was killed."""
        self._failed(TERMINATED.format(self._world.version.runner).replace("exit status 1", "signal: killed"))

    def _abort(self) -> None:
        """Its request went away, and with it the load."""
        self._end("aborted")
        self._scheduler.load_ended(self)

    def _end(self, how: str) -> None:
        now = self._world.agenda.now
        del self._scheduler.loading[self.runner.pulled.name]
        if self._timer is not None:
            self._timer.cancel()
        self.job.truth.load += self.job.lap(now)
        self.truth.ended, self.truth.outcome = now, how  # type: ignore[assignment]  # one of its four words
        if how != "completed":
            self.runner.dead = True


def smaller(window: int) -> int | None:
    """The next smaller window of those that Ollama chooses by itself."""
    return next((tier for tier in TIERS if tier < window), None)
