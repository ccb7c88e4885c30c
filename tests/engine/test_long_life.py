"""A client that lives long: after ten thousand calls of every kind it holds no more than after the first thousand."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio
import pytest

from resilient_llm import AsyncClient, Done, EmbedRequest, LLMError, Route, TextDelta
from resilient_llm._replies import Vectors
from resilient_llm.errors import ServerError

from .kit import client

pytestmark = pytest.mark.anyio
CALLS, WARM = 10_000, 1_000
MORE = 100  # objects; a leak of one in a hundred calls is as many


@pytest.fixture(autouse=True)
def told() -> None:
    """An SDK that keeps every span would hold all of them."""


class Weather:
    """A backend that fails before its answer, within it, and late, by turns. It keeps nothing."""

    def __init__(self, name: str, every: int) -> None:
        self.name, self._every, self._turns = name, every, count(1)

    @asynccontextmanager
    async def open(self, request: Any, watch: Any, *, stream: bool = True) -> AsyncIterator[AsyncIterator[Any]]:
        turn = next(self._turns)
        if turn % self._every == 0:
            raise ServerError("no")

        async def events() -> AsyncIterator[Any]:
            await anyio.sleep(0.1 if turn % 5 else 2)
            if isinstance(request, EmbedRequest):
                yield [Vectors([[1.0]])]
                return
            yield [TextDelta("a")]
            if turn % 7 == 0:
                raise ServerError("broken")
            yield [TextDelta("b"), Done()]

        answer = events()
        try:
            yield answer
        finally:
            await answer.aclose()  # type: ignore[attr-defined]


async def chat(llm: AsyncClient, number: int) -> None:
    await llm.chat("hi", timeout=5, conversation=str(number % 50))


async def leave(llm: AsyncClient, number: int) -> None:
    async with llm.stream("hi", tags=(str(number),)) as stream:
        await anext(stream)


async def give_up(llm: AsyncClient, number: int) -> None:
    with anyio.move_on_after(0.5):
        await llm.chat(f"hi {number}")


async def embed(llm: AsyncClient, number: int) -> None:
    await llm.embed([str(number)])


@pytest.mark.invariant(40)
@pytest.mark.parametrize("anyio_backend", ["asyncio-virtual"], indirect=True)
async def test_ten_thousand_calls_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("resilient_llm"), "disabled", True)  # pytest keeps every line
    llm = client(Route(Weather("first", 3), space="s"), Route(Weather("second", 4), space="s"))
    kinds: list[Callable[[AsyncClient, int], Awaitable[None]]] = [chat, leave, give_up, embed]
    failed = 0

    async def some(calls: int) -> int:
        nonlocal failed
        for number in range(calls):
            try:
                await kinds[number % 4](llm, number)
            except LLMError:
                failed += 1
        gc.collect()
        return len(gc.get_objects())

    before = await some(WARM)
    assert await some(CALLS) - before < MORE
    assert 0 < failed < CALLS / 2
