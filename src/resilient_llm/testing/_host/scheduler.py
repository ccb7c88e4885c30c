"""Ollama's scheduler (server/sched.go): who gets a model that is in memory, what is loaded, and what has to go for it.

    submit   loaded, and as it is wanted: handed over, past the queue of the others; else it waits in the queue, or 503
    queue    one request at a time; its load holds up all others (before 0.30 only those that it concerns). A load
             belongs to the request that started it: when that one leaves it is aborted, and the next starts anew
    release  nobody uses a model: its keep_alive starts to run; at 0 it goes

Rules of the file: what the real one gets wrong is wrong here, too: a keep_alive that meets a model which was to go
revives it, and whoever waits for its going waits on (ollama/ollama#17408).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from resilient_llm.testing._host import lines
from resilient_llm.testing._host.agenda import Entry
from resilient_llm.testing._host.asked import differs
from resilient_llm.testing._host.facts import Pulled
from resilient_llm.testing._host.job import Job
from resilient_llm.testing._host.loader import Load
from resilient_llm.testing._host.memory import Memory
from resilient_llm.testing._host.runner import Runner
from resilient_llm.testing._host.truth import LoadTruth
from resilient_llm.testing._host.world import World

BUSY: Final = "server busy, please try again.  maximum pending requests exceeded"
PING: Final = (
    0.005,
    0.03,
)  # seconds until a model is handed over; load_duration is never 0 (33 ms: ollama/ollama#7740)
UNANSWERED: Final = 10.0  # seconds that the scheduler waits for a runner to say that it is well
RECOVERY: Final = (0.25, 5.0)  # seconds until the memory of a GPU is free again
ENDS: Final = 0.05  # seconds until that of a CPU is


class Scheduler:
    """The scheduler and the models in memory.

    Attributes:
        loaded: by name, in the order of their loads.
        loading: the loads that are under way, by the name of the model.
        leaving: models whose memory is not free yet.
        wedged: it does nothing any more.
        loads: every load there was.
    """

    def __init__(self, world: World, loads: list[LoadTruth] | None = None) -> None:
        self.world = world
        self.memory = Memory(world.machine, world.settings)
        self.loaded: dict[str, Runner] = {}
        self.loading: dict[str, Load] = {}
        self.leaving: list[Runner] = []
        self.loads: list[LoadTruth] = [] if loads is None else loads
        self.wedged = False
        self._pending: deque[Job] = deque()
        self._current: Job | None = None
        self._awaits: Literal["", "unload", "load"] = ""  # what the current one waits for
        world.active = lambda: sum(one.active for one in self.loaded.values())

    # -- requests

    def submit(self, job: Job) -> None:
        """A request that needs its model."""
        runner = self.loaded.get(job.asked.pulled.name)
        if runner is not None and self.world.version.fast:
            self._look(runner, job, lambda why: self._enqueue(job) if why else self._use(job, runner))
        else:
            self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        if job.exchange.over:
            return
        if len(self._pending) >= self.world.settings.max_queue:
            lines.refuse(job.exchange, self.world.agenda.now, 503, BUSY)
            return
        self._pending.append(job)
        self._next()

    def _next(self) -> None:
        """The next in the queue; who has left stays in it until here."""
        while self._current is None and self._pending and not self.wedged:
            job = self._pending.popleft()
            if not job.exchange.over:
                self._current = job
                self._place(job)

    def _place(self, job: Job) -> None:
        """A model for the one whose turn it is: used, loaded, or room made for it."""
        if job.exchange.over:
            self.served()
            return
        runner = self.loaded.get(job.asked.pulled.name)
        if runner is not None:
            self._look(runner, job, lambda why: self._looked(job, runner, why))
        elif job.asked.pulled.name in self.loading or (self.loading and self._full(job)):
            self._awaits = "load"
        elif self._full(job):
            self._evict(self._victim(), job)
        else:
            self._load(job)

    def _load(self, job: Job) -> None:
        fault = self.world.fault("load", job.truth)
        job.truth.fault = job.truth.fault if fault is None else fault.name
        if fault is not None and fault.name == "deadlock":
            self.wedged = True
            return
        if fault is not None and fault.name == "queue full":
            lines.refuse(job.exchange, self.world.agenda.now, 503, BUSY)
            if self._current is job:
                self.served()
            return
        Load(self, job, "" if fault is None else fault.name).begin()
        if self.world.version.apart and self._current is job:
            self.served()

    def _full(self, job: Job) -> bool:
        """Another model has to go first: there are as many as may be, or there is no room beside them."""
        there = len(self.loaded) + len(self.loading)
        if there >= self.world.settings.loaded_at_most(self.world.machine):
            return True
        return there > 0 and not self.memory.fits(job.asked.pulled, job.asked.wants, self.occupants())

    def _looked(self, job: Job, runner: Runner, why: str | None) -> None:
        if why is None:
            self._use(job, runner)
            self.served()
        elif self.loaded.get(runner.pulled.name) is not runner:
            self._place(job)
        else:
            job.reloads = job.truth.reloaded = why
            self._go(runner)

    def _look(self, runner: Runner, job: Job, then: Callable[[str | None], None]) -> None:
        """Whether a loaded model is as the request wants it; one that does not answer holds this up."""
        why = differs(runner.wants, job.asked.wants, self.world.version)
        if why is None and runner.dead:
            why = "the runner had died"
        if why is not None or not runner.stopped:
            then(why)
            return
        asked: list[Entry] = []

        def answered() -> None:
            if asked:
                asked.pop().cancel()
                then(None if not runner.dead else "the runner had died")

        def unanswered() -> None:
            asked.clear()
            then("the runner did not answer")

        asked.append(self.world.agenda.after(UNANSWERED, unanswered))
        runner.later(0.0, answered)

    def load_ended(self, load: Load) -> None:
        """A load is over, however that was: who was waiting for that goes on."""
        if self._current is load.job:
            self.served()
        elif self._current is not None and self._awaits == "load":
            self._awaits = ""
            self._place(self._current)

    def served(self) -> None:
        """The one whose turn it was has a model, or no hope of one."""
        self._current = None
        self._next()

    def _use(self, job: Job, runner: Runner) -> None:
        if job.exchange.over:
            return
        now = self.world.agenda.now
        job.truth.pending += job.lap(now)
        self.hand_over(job, runner)

    def hand_over(self, job: Job, runner: Runner) -> None:
        """The request has its model; a keep_alive that it carries is the model's from now on."""
        runner.refs += 1
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None
        if job.asked.keep_alive is not None:
            runner.session = job.asked.keep_alive
        job.exchange.released = lambda: self._release(job, runner)
        self.world.agenda.after(self.world.chance.uniform(*PING), lambda: self._enter(job, runner))

    def _enter(self, job: Job, runner: Runner) -> None:
        now = self.world.agenda.now
        job.truth.ping = job.lap(now)
        if job.exchange.over:
            return
        if job.asked.texts:
            runner.enter(job)
        else:
            job.truth.window, job.truth.cpu = runner.wants.num_ctx, round(runner.cpu, 6)
            lines.respond(job.exchange, now, 200, lines.loaded(job.asked, now, "load"), "complete")

    # -- models

    def _release(self, job: Job, runner: Runner) -> None:
        runner.forget(job)
        runner.refs -= 1
        if runner.refs > 0 or self.loaded.get(runner.pulled.name) is not runner:
            return
        if runner.session <= 0:
            self._unload(runner)
        elif not math.isinf(runner.session):
            runner.expires = self.world.agenda.now + runner.session
            runner.timer = self.world.agenda.after(runner.session, lambda: self._unload(runner))
        else:
            runner.expires = self.world.agenda.now + lines.FOR_EVER

    def expire(self, name: str) -> None:
        """The model goes as soon as nobody uses it."""
        runner = self.loaded.get(name)
        if runner is not None:
            runner.expires = self.world.agenda.now
            self._expire(runner)

    def _expire(self, runner: Runner) -> None:
        runner.session = 0.0
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None
        if runner.refs <= 0:
            self._unload(runner)

    def _evict(self, victim: Runner, job: Job) -> None:
        job.truth.evicted += (victim.pulled.name,)
        self._go(victim)

    def _go(self, runner: Runner) -> None:
        """The current request waits until this model is gone. It does not look whether it still will be."""
        self._awaits = "unload"
        self._expire(runner)

    def _victim(self) -> Runner:
        """Idle ones first, then the shortest keep_alive, then the name."""
        order = sorted(self.loaded.values(), key=lambda one: (one.session, one.pulled.name))
        return next((one for one in order if one.refs == 0), order[0])

    def _unload(self, runner: Runner) -> None:
        del self.loaded[runner.pulled.name]
        runner.dead = True
        self.leaving.append(runner)
        seconds = self.world.chance.uniform(*RECOVERY) if runner.vram else ENDS
        self.world.agenda.after(seconds, lambda: self._unloaded(runner))

    def _unloaded(self, runner: Runner) -> None:
        self.leaving.remove(runner)
        if self._awaits == "unload" and self._current is not None:
            self._awaits = ""
            self._place(self._current)

    def occupants(self) -> list[Runner]:
        """What takes memory now."""
        return [*self.loaded.values(), *self.leaving, *(one.runner for one in self.loading.values())]

    def find(self, pulled: Pulled) -> Runner | None:
        """The process of a model, loaded or still loading."""
        load = self.loading.get(pulled.name)
        return self.loaded.get(pulled.name) if load is None else load.runner
