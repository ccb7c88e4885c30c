"""A model in memory: its process, its slots and what is in their caches.

A request that was given this runner is rendered and counted, waits for a slot (first come, first served, without
bound), and has its `Turn` there. Rules of the file: what a stopped process would do waits until it goes on; a client
that waits for a slot and leaves is gone at once, one that has a slot gives it back between two batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resilient_llm.testing._host import lines
from resilient_llm.testing._host.asked import Wants
from resilient_llm.testing._host.cut import Fitted, fit, fit_inputs
from resilient_llm.testing._host.facts import Pulled
from resilient_llm.testing._host.job import Job
from resilient_llm.testing._host.turn import Turn

if TYPE_CHECKING:
    from resilient_llm.testing._host.agenda import Entry
    from resilient_llm.testing._host.world import World

DIED = "an error was encountered while running the model: unexpected EOF"
GONE = "{} process no longer running: -1"
ALIKE = 0.1  # of a prompt must be in a slot's cache for the slot to be chosen for it (llama-server's default)
OVERHEAD = (0.001, 0.02)  # seconds of rendering and counting


@dataclass(slots=True)
class Slot:
    """A slot: who has it, what its cache holds, and when it was used."""

    turn: Turn | None = None
    text: str = ""
    used: float = 0.0


class Runner:
    """One process with one model.

    Attributes:
        pulled: the model.
        wants: what it was loaded with.
        size: bytes of it in memory.
        vram: bytes of them on the GPU.
        refs: requests that use it.
        session: seconds that it stays once nobody does.
        timer: of those seconds.
        expires: when they end.
        dead: it runs no more, which nobody has noticed yet.
        stopped: it stands still.
        garbled: its arithmetic is broken; only another process helps.
    """

    def __init__(self, world: World, pulled: Pulled, wants: Wants, *, parallel: int, size: int, vram: int) -> None:
        self.world = world
        self.pulled, self.wants, self.size, self.vram = pulled, wants, size, vram
        self.refs = 0
        self.session = world.settings.keep_alive
        self.timer: Entry | None = None
        self.expires: float | None = None
        self.dead = self.stopped = self.garbled = False
        self._since = world.agenda.now
        self._slots = [Slot() for _ in range(parallel)]
        self._waiting: deque[Job] = deque()
        self._held: list[Callable[[], None]] = []

    @property
    def cpu(self) -> float:
        """The share that is not on the GPU."""
        return 1 - self.vram / self.size

    @property
    def active(self) -> int:
        """The slots that are in use."""
        return sum(slot.turn is not None for slot in self._slots)

    # -- its process

    def later(self, seconds: float, action: Callable[[], None]) -> Entry:
        """What the process does then, unless it is stopped; a stopped one does it when it goes on."""
        return self.world.agenda.after(seconds, lambda: self._held.append(action) if self.stopped else action())

    def resume(self) -> None:
        """SIGCONT."""
        self.stopped = False
        held, self._held = self._held, []
        for action in held:
            action()

    def die(self, text: str = DIED) -> None:
        """SIGKILL, or a crash: everybody whom it answers, or who waits for that, hears of it."""
        self.dead, self.stopped, self._held = True, False, []
        now = self.world.agenda.now
        for slot in self._slots:
            if slot.turn is not None:
                lines.fail(slot.turn.job.exchange, now, text)
        for job in tuple(self._waiting):
            self._gone(job)

    def slowness(self) -> float:
        """How much longer a step takes than alone on the GPU."""
        machine = self.world.machine
        crowd = machine.serial * self.world.active() + 1 - machine.serial
        return crowd * (1 - self.cpu + self.cpu * machine.slow)

    def hours(self) -> float:
        """Since it was loaded."""
        return (self.world.agenda.now - self._since) / 3600

    # -- its requests

    def enter(self, job: Job) -> None:
        """A request that was given this runner."""
        world = self.world
        job.truth.window, job.truth.cpu = self.wants.num_ctx, round(self.cpu, 6)
        world.agenda.after(world.chance.uniform(*OVERHEAD), lambda: self._queue(job))

    def forget(self, job: Job) -> None:
        """A request that is over. Where nothing more would have come, its slot is free now."""
        if job in self._waiting:
            self._waiting.remove(job)
        for slot in self._slots:
            if slot.turn is not None and slot.turn.job is job and slot.turn.frozen:
                self.free(slot.turn)

    def free(self, turn: Turn) -> None:
        """The turn is over: the next may start."""
        slot = next((one for one in self._slots if one.turn is turn), None)
        if slot is not None:
            slot.turn, slot.used = None, self.world.agenda.now
            if self._waiting and not self.dead:
                self._start(self._waiting.popleft())

    def _queue(self, job: Job) -> None:
        job.truth.overhead = job.lap(self.world.agenda.now)
        if job.exchange.over:
            return
        if self.dead:
            self._gone(job)
        elif self.active < len(self._slots):
            self._start(job)
        else:
            self._waiting.append(job)

    def _gone(self, job: Job) -> None:
        lines.fail(job.exchange, self.world.agenda.now, GONE.format(self.world.version.runner))

    def _start(self, job: Job) -> None:
        job.truth.slot = job.lap(self.world.agenda.now)
        fitted = job.fitted = self._fitted(job)
        truth = job.truth
        truth.prompt, truth.kept, truth.dropped = fitted.tokens, fitted.kept, fitted.dropped
        turn = Turn(self, job)
        slot = self._choose(fitted.text)
        slot.turn = turn
        if fitted.refusal is not None:
            lines.refuse(job.exchange, self.world.agenda.now, 400, fitted.refusal)
            self.free(turn)
            return
        if job.asked.kind != "embed":
            same = common(slot.text, fitted.text)
            if same and same >= ALIKE * len(fitted.text):
                truth.cached = max(min(self.pulled.tokenizer(fitted.text[:same]), fitted.kept - 1), 0)
            slot.text = fitted.text
        turn.begin()

    def _fitted(self, job: Job) -> Fitted:
        window, version = self.wants.num_ctx, self.world.version
        if job.asked.kind == "embed":
            return fit_inputs(job.asked, window, version)
        return fit(job.asked, window, version, shift=self.wants.shift)

    def _choose(self, text: str) -> Slot:
        """The free slot whose cache has most of the prompt, if that is a tenth, else the one that rested longest."""
        free = [slot for slot in self._slots if slot.turn is None]
        if len(free) > 1 and text:
            shares = [(common(slot.text, text), slot) for slot in free]
            best, slot = max(shares, key=lambda one: one[0])
            if best >= ALIKE * len(text):
                return slot
        return min(free, key=lambda slot: slot.used)


def common(one: str, other: str) -> int:
    """The length of the longest common prefix."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
