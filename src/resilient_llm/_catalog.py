"""What is known of the models of a route: from its server, from the user, from a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec

import anyio.to_thread

from resilient_llm._leg import Leg
from resilient_llm._models import ModelInfo, best, told
from resilient_llm._watch import Watch


async def models_of(leg: Leg, watch: Watch) -> tuple[ModelInfo, ...]:
    """The models of the route's server. What is said of the route's own holds for its calls from then on.

    Raises:
        LLMError: the server could not be asked.
    """
    ask = getattr(leg.backend, "models", None)
    if ask is None:
        return ()
    listed = [one if isinstance(one, ModelInfo) else ModelInfo(one) for one in await ask(watch)]
    own = best(
        told(leg.model, "user", window=leg.guard.window, price=leg.route.price),
        told(leg.model, "backend", window=getattr(leg.backend, "window", None)),
    )
    if find_spec("genai_prices") is not None:  # in a thread: the first look takes it 0.2 s
        names = [one.name for one in listed]
        catalogue = await anyio.to_thread.run_sync(_looked_up, leg.provider, [leg.model, *names])
    else:
        catalogue = {}
    found = tuple(best(one, *([own] if one.name == leg.model else []), *catalogue.get(one.name, ())) for one in listed)
    mine = next((one for one in found if one.name == leg.model), None)
    leg.known = mine or best(own, *catalogue.get(leg.model, ()))
    return found


def _looked_up(provider: str, names: Sequence[str]) -> dict[str, list[ModelInfo]]:
    from resilient_llm.policies.prices import catalogued

    now = datetime.now(UTC)  # a list price has a date from which it holds; nothing else here asks the calendar
    known = {name: catalogued(provider, name, now) for name in names}
    return {name: [replace(one, name=name)] for name, one in known.items() if one is not None}
