"""Whether the routes can answer, found out by an answer: of one token. Metadata is green while generations hang."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from resilient_llm._call import Call
from resilient_llm._engine import Engine
from resilient_llm._errors import DeadlineExceeded, EmptyReply, LLMError, LoadTimeout
from resilient_llm._leg import Leg
from resilient_llm._types import ChatRequest, EmbedRequest, Message, Request
from resilient_llm._watch import Watch

_LEAST = {True: 1, False: 16}  # tokens, by local: reasoning models of hosted services refuse to answer in fewer


async def health(engine: Engine, legs: Sequence[Leg], call: Callable[[Request], Call]) -> dict[str, LLMError | None]:
    """Asks each of these routes for one token, all at once. What is wrong, by route; `None` if nothing is."""
    found: dict[str, LLMError | None] = {leg.name: None for leg in legs}

    async def ask(leg: Leg) -> None:
        try:
            with call(_vector() if leg.route.space else _token(local=leg.local)) as one:
                one.quiet = True  # asked every ten seconds, it would drown the calls that were lost
                await engine.only(leg, one)
        except EmptyReply:
            pass  # it said that it was done
        except LLMError as error:
            busy = isinstance(error, DeadlineExceeded) and error.phase == "queue"
            found[leg.name] = None if busy else error

    async with anyio.create_task_group() as group:
        for leg in legs:
            group.start_soon(ask, leg)
    return found


def _token(*, local: bool) -> Request:
    return ChatRequest((Message(role="user", content="a"),), max_tokens=_LEAST[local])


def _vector() -> Request:
    return EmbedRequest(("a",))


async def warm_up(legs: Sequence[Leg], watch: Callable[[], Watch]) -> None:
    """Brings the models of these routes into memory, one after the other.

    Raises:
        LLMError: one could not be loaded.
    """
    for leg in legs:
        if leg.ready is None:
            continue
        try:
            with anyio.move_on_after(leg.limits.load) as scope:
                await leg.ready(None, watch())
            if scope.cancelled_caught:
                raise LoadTimeout(f"the model was not in memory within {leg.limits.load:g} s; its load goes on")
        except LLMError as error:
            error.route = leg.name
            raise
