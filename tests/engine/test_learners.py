"""Static numbers decide; what was learned is shown, and decides only where a route says `adapt=True`."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from resilient_llm import AsyncClient, ContextGuard, LLMError, Ollama, Route, Timeouts, drop_oldest
from resilient_llm.errors import ServerError
from resilient_llm.policies.truncation import POSSIBLE
from resilient_llm.testing import FakeBackend, OllamaModel, fail, say

from .kit import Ask, client

pytestmark = pytest.mark.anyio
PROMPTS = [["a word " * many] * turns for many in (10, 200, 500) for turns in (1, 3, 7)]


async def decisions(ask: Ask, llm: AsyncClient, *backends: FakeBackend) -> list[Any]:
    """What becomes of calls of all sizes: who was tried, how each ended, when, and what was sent."""
    found: list[Any] = []
    for prompts in PROMPTS:
        try:
            reply: Any = await ask(llm, prompts, timeout=60)
        except LLMError as error:
            reply = error
        found.append([(one.route, one.kind, type(one.error), one.started, one.total) for one in reply.attempts])
    found.append([[len(request.messages) for request in one.requests] for one in backends])  # type: ignore[union-attr]
    return found


async def story(ask: Ask, *, poisoned: bool, adapt: bool = False) -> list[Any]:
    near = FakeBackend(fail(ServerError("no")), say("yes"), name="near", local=True, window=4096)
    far = FakeBackend(say("yes"), name="far", window=2048)
    guard = ContextGuard(overflow=drop_oldest)
    llm = client(Route(near, guard=guard, adapt=adapt), Route(far, guard=guard, adapt=adapt))
    for leg in llm._legs if poisoned else ():
        for _ in range(60):
            leg.counted._add("words", POSSIBLE[1], 1000)  # as if the server counted twelve tokens where there is one
    return await decisions(ask, llm, near, far)


async def test_a_poisoned_count_of_tokens_changes_no_decision(ask: Ask) -> None:
    assert await story(ask, poisoned=True) == await story(ask, poisoned=False)


async def test_where_a_route_says_so_it_does(ask: Ask) -> None:
    assert await story(ask, poisoned=True, adapt=True) != await story(ask, poisoned=False, adapt=True)


@pytest.mark.parametrize("seconds", [0.001, 1e9])
async def test_poisoned_load_times_change_no_limit(ask: Ask, seconds: float) -> None:
    found = []
    for poison in (None, seconds):
        http = httpx2.AsyncClient(transport=OllamaModel().transport())
        backend = Ollama("llama3.2", base_url="http://127.0.0.1:11434", http_client=http)
        if poison is not None:
            for _ in range(5):
                backend._memory.loads.add(poison)
        async with client(Route(backend, timeouts=Timeouts(load=90))) as llm:
            reply = await ask(llm, timeout=120)
            found.append(
                [
                    (one.route, one.kind, one.error, round(one.load or 0, 6), round(one.total, 6))
                    for one in reply.attempts
                ]
            )
    assert found[0] == found[1]
