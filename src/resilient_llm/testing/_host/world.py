"""What all parts of a model's Ollama share: its time, its chance, what it runs on and how it was set up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from resilient_llm.testing._host.agenda import Agenda
from resilient_llm.testing._host.facts import Machine, Settings, Version
from resilient_llm.testing._host.faults import Fault, Faults, Point
from resilient_llm.testing._host.truth import Truth


@dataclass(slots=True)
class World:
    """See `OllamaModel`.

    Attributes:
        agenda: its time.
        chance: all that is left to chance.
        machine: under it.
        settings: of it.
        version: of it.
        faults: that may strike.
        active: the slots that are in use, of all its models.
    """

    agenda: Agenda
    chance: Random
    machine: Machine
    settings: Settings
    version: Version
    faults: Faults
    active: Callable[[], int] = lambda: 0

    def fault(self, point: Point, truth: Truth) -> Fault | None:
        """What goes wrong with this request at this point."""
        return self.faults.choose(point, truth.number, truth.model, self.agenda.now)
