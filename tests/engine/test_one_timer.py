"""An attempt has one timer on asyncio, and however it ends, that timer is not left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resilient_llm import AsyncClient, Retry, Route, StreamInterrupted, Timeouts
from resilient_llm.errors import FirstTokenTimeout, ServerError
from resilient_llm.testing import FakeBackend, cut, fail, hang, say

from .kit import VirtualLoop, client, error_of


class Remembering(VirtualLoop):
    """Keeps every timer that was ever set for a limit: the fake itself waits shorter, or for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_at(self, when: float, *args: Any, **facts: Any) -> asyncio.TimerHandle:
        timer = super().call_at(when, *args, **facts)
        if 10 <= when - self.time() <= 100:
            self.timers.append(timer)
        return timer


async def answers(llm: AsyncClient) -> None:
    assert (await llm.chat("hi")).text == "a" * 50


async def is_streamed(llm: AsyncClient) -> None:
    async with llm.stream("hi") as stream:
        assert [text async for text in stream.text()] == ["a"] * 50


async def is_left(llm: AsyncClient) -> None:
    async with llm.stream("hi") as stream:
        async for _ in stream:
            break


async def is_dropped(llm: AsyncClient) -> None:
    stream = llm.stream("hi")
    await stream.__aenter__()
    with pytest.warns(ResourceWarning):
        del stream
    await asyncio.sleep(0.1)


async def is_cancelled(llm: AsyncClient) -> None:
    task = asyncio.create_task(llm.chat("hi"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def breaks(kind: type[Exception]) -> Callable[[AsyncClient], Awaitable[None]]:
    async def broke(llm: AsyncClient) -> None:
        await error_of(llm.chat("hi"), kind)  # type: ignore[arg-type]
        await error_of(is_streamed(llm), kind)  # type: ignore[arg-type]

    return broke


ENDS: dict[str, tuple[Any, Callable[[AsyncClient], Awaitable[None]], int]] = {
    "an answer": (say(*["a"] * 50, gap=0.5), answers, 1),
    "a stream": (say(*["a"] * 50, gap=0.5), is_streamed, 1),
    "a stream that is left": (say(*["a"] * 50, gap=0.5), is_left, 1),
    "a stream that is dropped": (say(*["a"] * 50, gap=0.5), is_dropped, 1),
    "a cancellation": (hang(), is_cancelled, 1),
    "an error": (fail(ServerError("no")), breaks(ServerError), 2),
    "an answer that breaks off": (cut("a", "b"), breaks(StreamInterrupted), 2),
    "a limit": (hang(), breaks(FirstTokenTimeout), 2),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_attempt_takes_one_timer_and_leaves_none(end: str) -> None:
    step, ends, attempts = ENDS[end]
    with asyncio.Runner(loop_factory=Remembering) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Remembering)

        async def main() -> None:
            backend = FakeBackend(step)
            limits = Timeouts(first_token=60, between_tokens=60)  # longer than the whole answer takes
            await ends(client(Route(backend, timeouts=limits, retry=Retry(attempts=1))))
            assert backend.opened == attempts

        runner.run(main())
        assert len(loop.timers) == attempts
        assert [timer for timer in loop.timers if not timer.cancelled() and timer.when() > loop.time()] == []
