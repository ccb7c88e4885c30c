"""List prices and windows from a catalogue: the extra `[prices]`, which is pydantic's genai-prices.

Rules of the file: it is imported when it is first asked, which takes 0.2 s and 40 MB; without it nothing is known, and
nothing fails; a catalogue is the last that is believed, and every figure of it carries its name, version and day.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from resilient_llm._models import ModelInfo, Price, told

_THEIRS = {"gemini": "google", "moonshot": "moonshotai", "xai": "x-ai"}  # providers by the catalogue's names


def catalogued(provider: str, model: str, now: datetime) -> ModelInfo | None:
    """What the catalogue says of a model now; `None` if it is not installed or does not know it."""
    try:
        import genai_prices
        from genai_prices import data_snapshot
    except ImportError:
        return None
    try:
        _, found = data_snapshot.get_snapshot().find_provider_model(model, None, _THEIRS.get(provider, provider), None)
    except LookupError:
        return None
    source = f"genai-prices {genai_prices.__version__}"
    return told(model, source, window=found.context_window, price=_price(found.get_prices(now), source, now))


def _price(prices: Any, source: str, now: datetime) -> Price | None:
    into, out, cached = (getattr(prices, name, None) for name in ("input_mtok", "output_mtok", "cache_read_mtok"))
    if into is None or out is None:
        return None
    starts = sorted({tier.start for one in (into, out) for tier in getattr(one, "tiers", ())})
    return Price(
        _at(into, 0),
        _at(out, 0),
        cached_input=None if cached is None else _at(cached, 0),
        tiers=tuple((start, _at(into, start), _at(out, start)) for start in starts),
        source=source,
        as_of=now.date().isoformat(),
    )


def _at(price: Any, tokens: int) -> float:
    """A price at so many tokens of prompt."""
    if not hasattr(price, "base"):
        return float(price)
    return float(next((tier.price for tier in reversed(price.tiers) if tier.start <= tokens), price.base))
