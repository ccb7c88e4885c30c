"""Where a model goes: how much of it is on the GPU, whether there is room beside others, how long it takes to read.

Rules of the file: no time of its own; bytes. Predicted is what the scheduler believes (weights and window), 80 % of
what is free is what it allows itself (server/sched.go).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

from resilient_llm.testing._host.asked import Wants
from resilient_llm.testing._host.facts import KV_CACHE, Machine, Pulled, Settings

ALLOWED: Final = 0.8


class Occupant(Protocol):
    """What takes memory."""

    size: int
    vram: int


class Memory:
    """The memory of a machine, and which files are still in it.

    Attributes:
        leaked: bytes of the GPU that no process owns any more.
    """

    def __init__(self, machine: Machine, settings: Settings) -> None:
        self._machine, self._settings = machine, settings
        self._read: OrderedDict[str, int] = OrderedDict()  # the page cache: files by their last use
        self.leaked = 0

    def parallel(self, pulled: Pulled) -> int:
        """How many requests at once a model gets slots for."""
        return self._settings.num_parallel if pulled.parallel and not pulled.embeds_only else 1

    def predicted(self, pulled: Pulled, wants: Wants) -> int:
        """Bytes that a model takes."""
        kept = pulled.kv_bytes * KV_CACHE[self._settings.kv_cache_type]
        return pulled.size + round(kept * wants.num_ctx * self.parallel(pulled))

    def fits(self, pulled: Pulled, wants: Wants, others: Iterable[Occupant]) -> bool:
        """There is room beside these."""
        machine, taken = self._machine, list(others)
        if machine.vram and wants.num_gpu != 0:
            free = machine.vram - self.leaked - sum(one.vram for one in taken)
        else:
            free = machine.ram - sum(one.size - one.vram for one in taken)
        return self.predicted(pulled, wants) <= ALLOWED * free

    def place(self, pulled: Pulled, wants: Wants, others: Iterable[Occupant]) -> tuple[int, int, int]:
        """Bytes of the model, those of them on the GPU, and those that are missing."""
        taken = list(others)
        size = self.predicted(pulled, wants)
        free = max(self._machine.vram - self.leaked - sum(one.vram for one in taken), 0)
        vram = 0 if wants.num_gpu == 0 else min(size, free)
        ram = self._machine.ram - sum(one.size - one.vram for one in taken)
        return size, vram, max(size - vram - ram, 0)

    def seconds(self, pulled: Pulled) -> float:
        """How long a load takes: a process starts, and reads the file from the disk or from where it was read to."""
        machine = self._machine
        rate = machine.cached if pulled.name in self._read else machine.disk
        return machine.spawn + pulled.size / rate

    def was_read(self, pulled: Pulled) -> None:
        """Its file is in the page cache now; the ones that were used longest ago make room."""
        self._read[pulled.name] = pulled.size
        self._read.move_to_end(pulled.name)
        while sum(self._read.values()) > self._machine.ram and len(self._read) > 1:
            self._read.popitem(last=False)
