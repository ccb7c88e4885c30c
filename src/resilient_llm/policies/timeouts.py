"""How long each phase of an attempt may take. A phase that ends too late has an error of its own.

    phase          local (Ollama)            hosted                    error
    connect        2 s                       5 s                       ConnectTimeout
    load           170 s                     -                         LoadTimeout
    first_token    60 s, once in memory      60 s; reasoning 300 s     FirstTokenTimeout
    between_tokens 30 s                      30 s                      StreamStalled

Reasons: a local server answers its connect at once or not at all; a model of 70 GB takes a minute from a fast disk and
two from a slow one; 30 s is far beyond the gap between two tokens of the slowest useful model. A limit that is longer
than what is left of the deadline is clamped, not refused. Without a stream to watch (`streams=False`) there is no
first-token and no gap limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from resilient_llm._deadline import seconds

DEADLINE_CHAT = {True: 180.0, False: 120.0}  # by local; seconds to the first token if the user sets no deadline
DEADLINE_EMBED = {True: 60.0, False: 30.0}
FIRST_TOKEN_REASONING = 300.0  # hosted reasoning models think before they say anything


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of the phases of one attempt, in seconds; `None` takes the default of the table above.

    Args:
        connect: name look-up, TCP and TLS.
        load: until the model is in memory (Ollama). Ends the waiting, not the load.
        first_token: from sending, or from when the model is in memory, to the first content or reasoning.
        between_tokens: between two of them. Comments and keep-alives keep nothing alive.

    Raises:
        ConfigError: a limit is not above 0.
    """

    connect: float | None = None
    load: float | None = None
    first_token: float | None = None
    between_tokens: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect", "load", "first_token", "between_tokens"):
            seconds(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Limits:
    """`Timeouts` with every default filled in."""

    connect: float
    load: float
    first_token: float
    between_tokens: float

    def unary(self) -> Limits:
        """The limits of an attempt that cannot be watched: only connect, load and the deadline."""
        return Limits(self.connect, self.load, math.inf, math.inf)


def resolve(given: Timeouts | None, *, local: bool, reasoning: bool = False) -> Limits:
    """The limits in force, for a local or a hosted route."""
    given = given or Timeouts()
    first = FIRST_TOKEN_REASONING if reasoning and not local else 60.0
    return Limits(
        connect=given.connect or (2.0 if local else 5.0),
        load=given.load or 170.0,
        first_token=given.first_token or first,
        between_tokens=given.between_tokens or 30.0,
    )
