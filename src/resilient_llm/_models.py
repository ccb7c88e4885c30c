"""What is known of a model: its window, its output cap, its price, and who said so.

The order of truth: the server, the user, a catalogue. A window cannot be wished larger than the server's; a smaller one
of the user's is a choice, and holds. What nobody knows is `None`, never a guess and never 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace

from resilient_llm._needs import Need
from resilient_llm._numbers import finite
from resilient_llm._replies import Usage

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What tokens cost, in US dollars per million.

    Args:
        input: of the prompt.
        output: of the answer, reasoning included.
        cached_input: of the part of the prompt that came from the server's cache. Default: as `input`.
        tiers: prices of calls with more than so many tokens of prompt: `(tokens, input, output)`, the smallest first.
        source: who says so.
        as_of: the day on which it was so.

    Raises:
        ConfigError: a price is not a finite number of 0 or more.
    """

    input: float
    output: float
    _: KW_ONLY
    cached_input: float | None = None
    tiers: tuple[tuple[int, float, float], ...] = ()
    source: str = "user"
    as_of: str | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_input"):
            value = getattr(self, name)
            if value is not None or name != "cached_input":
                finite(name, value, zero=True)

    def of(self, usage: Usage) -> float | None:
        """What a call cost, in US dollars; `None` if the server did not count its tokens."""
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        into, out = self.input, self.output
        for tokens, higher_in, higher_out in self.tiers:
            if usage.input_tokens > tokens:
                into, out = higher_in, higher_out
        cached = min(usage.cached_tokens or 0, usage.input_tokens)
        if self.cached_input is None or not self.input:
            cached = 0
        discount = 1 - (self.cached_input or 0) / self.input if cached else 0.0  # the same share in every tier
        return ((usage.input_tokens - cached * discount) * into + usage.output_tokens * out) / _MILLION

    def __str__(self) -> str:
        when = f", {self.as_of}" if self.as_of else ""
        return f"{self.input:g} $ in, {self.output:g} $ out a million tokens ({self.source}{when})"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model, as far as it is known.

    Attributes:
        name: by which the server knows it.
        window: tokens of its context window.
        max_output: tokens that an answer may have.
        price: what its tokens cost.
        lacks: what it does not take, as far as the server says.
        sources: who said it, by the name of the attribute: `server`, `user`, or a catalogue with its version.
    """

    name: str
    window: int | None = None
    max_output: int | None = None
    price: Price | None = None
    lacks: frozenset[Need] = frozenset()
    sources: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        known = [
            f"{what} {value}" + (f" ({self.sources[name]})" if name in self.sources else "")
            for name, what in (("window", "window"), ("max_output", "answers up to"), ("price", "price"))
            if (value := getattr(self, name)) is not None
        ]
        return f"{self.name}: {', '.join(known) or 'nothing known'}"


def told(name: str, source: str, *, window: int | None = None, max_output: int | None = None,
         price: Price | None = None, lacks: Collection[Need] = ()) -> ModelInfo:  # fmt: skip
    """What one source says of a model."""
    said = {"window": window, "max_output": max_output}
    sources = {one: source for one, value in said.items() if value is not None}
    return ModelInfo(name, window, max_output, price, frozenset(lacks), sources)


def best(first: ModelInfo, *others: ModelInfo) -> ModelInfo:
    """What is known of a model from several sources, the surest first.

    A smaller window of the second, which is the user's, is a choice.
    """
    made = first
    for one in others:
        for name in ("window", "max_output", "price"):
            mine, its = getattr(made, name), getattr(one, name)
            smaller = name == "window" and one.sources.get(name) == "user" and mine is not None and (its or mine) < mine
            if its is not None and (mine is None or smaller):
                sources = {**made.sources, **({name: one.sources[name]} if name in one.sources else {})}
                made = replace(made, **{name: its}, sources=sources)
    return made
