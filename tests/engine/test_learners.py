"""Static numbers decide; what was learned is shown, and decides only where a route says `adapt=True`.

Each learner is fed through the public door, once with honest figures and once with absurd ones. Then both clients live
through the same story, in which the server is honest. What is remembered beside this is what a server said of itself or
of one request (docs/architecture.md lists it all), and may decide.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import anyio
import httpx2
import pytest

from resilient_llm import AsyncClient, ChatReply, ContextGuard, LLMError, Ollama, Route, Usage, drop_oldest
from resilient_llm.errors import ServerError
from resilient_llm.testing import FakeBackend, Machine, Pulled, fail, say

from .box import Box
from .kit import Ask, client

pytestmark = pytest.mark.anyio
WORD = "word "


class Told(NamedTuple):
    """What came of a story.

    Attributes:
        decisions: what was asked of the servers and when, who was tried, how each attempt ended, what a caller got.
        shown: what the replies and `explain()` say beside that.
    """

    decisions: list[Any]
    shown: list[Any]


class Story(NamedTuple):
    """A learner, fed and then watched.

    Attributes:
        live: takes whether the figures that it is fed are absurd, and whether the route adapts.
        adapts: there is something that it may decide where a route says so.
    """

    live: Callable[[Ask, bool, bool], Awaitable[Told]]
    adapts: bool = True


class Diary:
    """Asks, and keeps what came of it."""

    def __init__(self, ask: Ask, llm: AsyncClient) -> None:
        self._ask, self._llm = ask, llm
        self.told = Told([], [])

    async def __call__(self, messages: Any = "hi", **options: Any) -> None:
        outcome: ChatReply | LLMError
        try:
            outcome = await self._ask(self._llm, messages, **options)
            self.told.decisions.append((outcome.text, outcome.route, outcome.served_by))
            self.told.shown.append(outcome.degraded)
        except LLMError as error:
            outcome = error
            self.told.decisions.append((type(error), str(error)))
        self.told.decisions.append(
            [
                (one.route, one.kind, repr(one.error), *(round(part or 0, 6) for part in (one.load, one.total)))
                for one in outcome.attempts
            ]
        )

    def sent(self, requests: Any) -> Told:
        self.told.decisions.append(requests)
        self.told.shown.append(self._llm.explain())
        return self.told


def counted(times: float) -> Callable[[Ask, bool, bool], Awaitable[Told]]:
    """Twelve answers whose prompts had so many times the tokens that we think; then prompts of all sizes."""

    async def live(ask: Ask, absurd: bool, adapt: bool) -> Told:
        usage = Usage(round(300 * (times if absurd else 1)), 1)
        fed = [say("fed", usage=usage)] * 12
        near = FakeBackend(*fed, fail(ServerError("no")), say("yes"), name="near", local=True, window=4096)
        far = FakeBackend(say("yes"), name="far", window=2048)
        guard = ContextGuard(overflow=drop_oldest)
        routes = [Route(one, guard=guard, adapt=adapt, on_truncation="fail") for one in (near, far)]
        llm = client(*routes)
        for _ in fed:
            await ask(llm, WORD * 300)
        diary = Diary(ask, llm)
        for words in (10, 400, 1000, 1800, 2500, 3500, 9000):
            for turns in (1, 3, 7):
                await diary([WORD * (words // turns)] * turns, timeout=60)
        return diary.sent([one.requests[len(fed) * (one is near) :] for one in (near, far)])

    return live


async def begun(ask: Ask, absurd: bool, adapt: bool) -> Told:
    """A question that was counted as half as long again; then the same conversation goes on."""
    counts = Usage(4000 if absurd else 2900, 1), Usage(3240, 1)
    near = FakeBackend(*(say("yes", usage=usage) for usage in counts), name="near", local=True, window=4096)
    far = FakeBackend(say("yes"), name="far", window=32_768)
    llm = client(Route(near, adapt=adapt, on_truncation="fail"), far)
    await ask(llm, [WORD * 2800])
    diary = Diary(ask, llm)
    await diary([WORD * 2800, "yes", WORD * 330])
    return diary.sent([near.requests[1:], far.requests])


class Lying(httpx2.AsyncBaseTransport):
    """The way to a server, on which figures are changed as long as `said` is a mapping, and answers are late."""

    def __init__(self, host: Box, *, late: float = 0.0) -> None:
        self._way, self._late = host.transport(), late
        self.said: dict[str, Any] | None = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._way.handle_async_request(request)
        if self.said is None:
            return response
        await anyio.sleep(self._late if request.url.path == "/api/chat" else 0)
        lines = [json.loads(line) async for line in response.aiter_lines()]
        data = "\n".join(json.dumps(self._changed(line)) for line in lines)
        return httpx2.Response(response.status_code, content=data, request=request)

    def _changed(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._changed(one) for one in value]
        if not isinstance(value, dict) or self.said is None:
            return value
        return {key: self.said.get(key, self._changed(one)) for key, one in value.items()}


def ollama_at(way: Lying, **options: Any) -> Ollama:
    return Ollama("llama3.2", http_client=httpx2.AsyncClient(transport=way), **options)


async def asked_of(host: Box, diary: Diary, times: int) -> Told:
    """Asks so often, every ten seconds, after which what was asked of the server is known."""
    paths, bodies = len(host.paths), len(host.bodies)
    for _ in range(times):
        await diary(timeout=300)
        await anyio.sleep(10)
    return diary.sent((host.paths[paths:], host.bodies[bodies:]))


async def loaded(ask: Ask, absurd: bool, adapt: bool) -> Told:
    """A load that seemed to take a hundred seconds; then one that takes 200."""
    host = Box(Pulled(size=2 * 10**9), machine=Machine(disk=4e9, cached=2e9 / 199.5))
    way = Lying(host, late=100.0 if absurd else 0.0)
    async with client(Route(ollama_at(way), adapt=adapt)) as llm:
        await llm.warm_up()
        way.said = None
        host.evict()
        await anyio.sleep(100)
        return await asked_of(host, Diary(ask, llm), 1)


async def warm(ask: Ask, absurd: bool, adapt: bool) -> Told:
    """Answers that spent nearly a second on a load that there was not; then one that really spent so long on one."""
    host = Box(Pulled(size=2 * 10**9), machine=Machine(disk=2e9 / 0.3, cached=2e9 / 0.3))
    way = Lying(host)
    async with client(Route(ollama_at(way, keep_alive="1h"), adapt=adapt)) as llm:
        await llm.warm_up()
        way.said = {"load_duration": 900_000_000} if absurd else {}
        for _ in range(20):
            await ask(llm)
        way.said = None
        host.evict()
        await anyio.sleep(5)
        return await asked_of(host, Diary(ask, llm), 3)


async def spilled(ask: Ask, absurd: bool, adapt: bool) -> Told:
    """A GPU that is not there."""
    host = Box(machine=Machine(vram=0))
    way = Lying(host)
    way.said = {"size_vram": 10**9} if absurd else {}
    async with client(Route(ollama_at(way), adapt=adapt)) as llm:
        await ask(llm)
        way.said = None
        await anyio.sleep(61)
        return await asked_of(host, Diary(ask, llm), 8)


LEARNERS = {
    "twelve tokens for one": Story(counted(12.0)),
    "a third of a token for one": Story(counted(0.31)),
    "the beginning of a conversation": Story(begun),
    "loads": Story(loaded),
    "what a warm answer spends on loading": Story(warm, adapts=False),
    "the share of the CPU": Story(spilled, adapts=False),
}
every = pytest.mark.parametrize("story", LEARNERS.values(), ids=LEARNERS)


@every
async def test_poisoned_learners_change_nothing_without_adapt(story: Story, ask: Ask) -> None:
    absurd, honest = await story.live(ask, True, False), await story.live(ask, False, False)
    assert repr(absurd.decisions) == repr(honest.decisions)
    assert absurd.shown != honest.shown  # the poison was taken


@every
async def test_where_a_route_adapts_they_do_if_there_is_anything_that_they_may_decide(story: Story, ask: Ask) -> None:
    absurd, honest = await story.live(ask, True, True), await story.live(ask, False, True)
    assert (repr(absurd.decisions) != repr(honest.decisions)) is story.adapts


@pytest.mark.parametrize(("seconds", "looks"), [(0.9, 0), (1.1, 1)])
async def test_whether_it_is_looked_what_is_in_memory_is_decided_by_a_static_second(
    seconds: float, looks: int, ask: Ask
) -> None:
    """Though from the third answer on half a second is more than usual."""
    host = Box()
    way = Lying(host)
    async with client(ollama_at(way, keep_alive="1h")) as llm:
        for _ in range(5):
            await ask(llm)
        way.said = {"load_duration": round(seconds * 1e9)}
        assert (await ask(llm)).degraded == ("reloaded",)
        way.said, paths = None, len(host.paths)
        for _ in range(3):
            await ask(llm)
        assert host.paths[paths:].count("/api/ps") == 2 * looks  # before it is told anew how long to stay, and after
        assert [body.get("keep_alive") for body in host.bodies].count("1h") == 1 + looks
