"""The scripts of the fake servers behind respx, which mocks the connections of httpx: no socket is opened.

What a step does on the wire is played as what httpx makes of it: a reset is a `ReadError`, a torn body a
`RemoteProtocolError`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import anyio
import httpx

from resilient_llm.testing import FakeServer
from resilient_llm.testing._failures import Refuse
from resilient_llm.testing._script import Action, Call, Chunk, Drop, End, Head, Wait

URL = "http://fake.test"


class Mocked:
    """Answers requests as the fake server would that it is made of; that one is never started."""

    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake
        self.bodies: list[Body] = []
        self.chats = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body, headers = request.content, {name.lower(): value for name, value in request.headers.items()}
        content = json.loads(body) if body else None
        call = Call(request.method, request.url.path, headers, content)
        plan = self._fake._dialect.plan(call)
        step = plan.step or self._fake._script.take()
        self.chats += plan.kind == "chat"
        if isinstance(step, Refuse):
            raise httpx.ConnectError("All connection attempts failed")
        actions = iter(step.actions(plan.answer))
        for action in actions:
            if isinstance(action, Wait):
                await anyio.sleep(action.seconds)
            elif isinstance(action, Drop):
                raise httpx.ReadError("")
            elif isinstance(action, Head):
                self.bodies.append(Body(actions))
                return httpx.Response(action.status, headers=list(action.headers), stream=self.bodies[-1])
        raise AssertionError("the step has no head")


class Body(httpx.AsyncByteStream):
    """The rest of the actions, as the body of a response. No generator: trio wants to see those closed."""

    def __init__(self, actions: Iterator[Action]) -> None:
        self._actions = actions
        self.closed = anyio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for action in self._actions:
            if isinstance(action, Wait):
                await anyio.sleep(action.seconds)
            elif isinstance(action, Chunk) and action.data:
                return action.data
            elif isinstance(action, Drop):
                raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
            elif isinstance(action, End):
                break
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed.set()
