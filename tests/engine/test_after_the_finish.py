"""After the last word of an answer its usage is worth a second of waiting, and no more, whatever the server does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest

from resilient_llm import OpenAICompatible, Route, Timeouts

from .kit import Ask, client

pytestmark = pytest.mark.anyio
WORD = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"all"}}]}\n\n'
FINISH = b'data: {"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"
ALIVE = b": keep-alive\n\n"
STEP = 0.4  # virtual seconds between two pieces; after the last word only 0.05 are spent on the end of the body
FOREVER = 10_000  # pieces


@dataclass
class Scripted:
    """A user's HTTP client whose one answer consists of these pieces, or failures, a step of time apart."""

    pieces: list[bytes | Exception]
    timeout: Any = field(default_factory=lambda: SimpleNamespace(pool=None))
    status_code: int = 200
    is_closed: bool = False
    headers: Any = field(default_factory=lambda: SimpleNamespace(raw=[]))
    closed: int = 0

    def build_request(self, *_: Any, **__: Any) -> None:
        pass

    async def send(self, _: Any, **__: Any) -> Scripted:
        return self

    @property
    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
            await anyio.sleep(STEP)

    async def aclose(self) -> None:
        self.closed += 1


def route(http: Scripted, timeouts: Timeouts = Timeouts(between_tokens=30)) -> Route:  # noqa: B008  # it is frozen
    backend = OpenAICompatible("m", base_url="http://127.0.0.1:9/v1", api_key="k", http_client=http)
    return Route(backend, timeouts=timeouts)


@pytest.mark.parametrize(
    ("after", "input_tokens", "seconds"),
    [
        pytest.param([USAGE, DONE], 11, 3 * STEP + 0.05, id="the usage comes, and the last word"),
        pytest.param([USAGE], 11, 3 * STEP, id="the usage comes, and the end of the body"),
        pytest.param([], None, 2 * STEP, id="the body ends"),
        pytest.param([httpx2.ReadError("gone")], None, 2 * STEP, id="the connection breaks"),
        pytest.param([USAGE, httpx2.ReadError("gone")], 11, 3 * STEP, id="the usage comes, and the connection breaks"),
        pytest.param([ALIVE] * FOREVER, None, STEP + 1, id="signs of life for ever"),
        pytest.param([USAGE, *[ALIVE] * FOREVER], 11, STEP + 1, id="the usage, then signs of life for ever"),
        pytest.param([ALIVE, ALIVE, ALIVE, USAGE], None, STEP + 1, id="the usage comes too late"),
    ],
)
async def test_the_usage_after_the_finish_is_worth_a_second(
    ask: Ask, after: list[bytes | Exception], input_tokens: int | None, seconds: float
) -> None:
    http = Scripted([WORD, FINISH, *after])
    llm = client(route(http))
    began = anyio.current_time()
    reply = await ask(llm)
    assert (reply.text, reply.finish_reason, reply.usage.input_tokens) == ("all", "stop", input_tokens)
    assert anyio.current_time() - began == pytest.approx(seconds, abs=0.01)
    assert http.closed == 1


@pytest.mark.parametrize("after", [[ALIVE] * FOREVER, [DONE, *[ALIVE] * FOREVER]], ids=["no last word", "no end"])
@pytest.mark.parametrize("limit", ["deadline", "between tokens"])
async def test_a_whole_answer_does_not_fail_for_what_may_still_come(ask: Ask, limit: str, after: list[bytes]) -> None:
    http = Scripted([WORD, FINISH, *after])
    short = 2 * STEP + 0.03 if DONE in after else STEP + 0.5
    timeouts = Timeouts(between_tokens=30 if limit == "deadline" else 0.45)
    llm = client(route(http, timeouts))
    began = anyio.current_time()
    reply = await ask(llm, timeout=short if limit == "deadline" else None)
    assert (reply.text, reply.finish_reason) == ("all", "stop")
    assert anyio.current_time() - began < STEP + 0.5
    assert http.closed == 1
