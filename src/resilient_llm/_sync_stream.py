"""The stream of `Client`: one task of the loop opens, reads and closes it and fills a bounded queue.

An event costs a queue's hand-over instead of a hop to the loop and back (16 µs instead of 80). The gap limit counts
only while the task reads: when the queue is full, nobody's clock runs.
"""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import anyio

from resilient_llm._errors import ConfigError
from resilient_llm._loops import here
from resilient_llm._replies import ChatReply, Event, TextDelta
from resilient_llm._stream import ChatStream

AHEAD = 64  # events that are read ahead of the consumer
GRACE = 1.0  # seconds to wait for what was cancelled to have ended
Start = Callable[[Callable[[], Awaitable[None]]], "Future[None]"]


class _End:
    """The last thing in the queue: why the stream is over."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


_OPENED = object()


class _Pump:
    """The half of a stream that lives on the loop: one task that opens it, reads it, closes it and fills a queue.

    It does not know the half that the user holds, so that dropping that one ends this one.
    """

    def __init__(self, stream: ChatStream) -> None:
        self.stream = stream
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.over = threading.Event()
        self._full = False
        self._room: anyio.Event | None = None
        self._soon: Callable[[Callable[[], object]], None] | None = None

    async def run(self) -> None:
        """Opens, reads, closes."""
        put, size = self.queue.put, self.queue.qsize
        self._soon = here()
        error: BaseException | None = None
        try:
            async with self.stream as stream:
                put(_OPENED)
                async for event in stream:
                    if size() >= AHEAD:
                        await self._wait_for_room()
                    put(event)
        except BaseException as failure:
            error = failure
            if not isinstance(failure, Exception):
                raise
        finally:
            put(_End(error))
            self.over.set()

    async def _wait_for_room(self) -> None:
        self._room = anyio.Event()
        self._full = True
        if self.queue.qsize() >= AHEAD // 2:  # asked again: all may have been taken before `_full` could be seen
            await self._room.wait()
        self._full = False

    def get(self) -> Any:
        """The next thing, in the consumer's thread."""
        event = self.queue.get()
        if self._full and self.queue.qsize() < AHEAD // 2:
            self._full = False
            if self._soon is not None and self._room is not None:
                self._soon(self._room.set)
        return event


class Stream:
    """`ChatStream` without `await`: enter it with `with`, iterate over events or over `text()`."""

    def __init__(self, start: Start, stream: ChatStream) -> None:
        self._start, self._pump = start, _Pump(stream)
        self._task: Future[None] | None = None

    def __enter__(self) -> Self:
        if self._task is not None:
            raise ConfigError("stream: it was entered before; ask for a new one")
        self._task = self._start(self._pump.run)
        try:
            first = self._pump.get()
        except BaseException:
            self.close()
            raise
        if isinstance(first, _End):
            self._ended(first)
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._task is None:
            raise ConfigError("stream: enter it first: with llm.stream(…) as stream")
        if self._pump.over.is_set() and self._pump.queue.empty():
            raise StopIteration
        event = self._pump.get()
        if isinstance(event, _End):
            self._ended(event)
            raise StopIteration
        return event  # type: ignore[no-any-return]  # the queue carries marks beside events

    def _ended(self, end: _End) -> None:
        self._pump.over.wait(GRACE)
        if end.error is not None:
            raise end.error

    def text(self) -> Iterator[str]:
        """Only the pieces of the answer's text, as strings."""
        for event in self:
            if type(event) is TextDelta:
                yield event.text

    def close(self) -> None:
        """Hangs up, if it has not ended yet."""
        if self._task is not None and not self._pump.over.is_set():
            self._task.cancel()
            self._pump.over.wait(GRACE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def reply(self) -> ChatReply:
        """The whole answer, once the last event is there. See `ChatStream.reply`."""
        return self._pump.stream.reply

    @property
    def partial(self) -> str:
        """The text that has arrived so far."""
        return self._pump.stream.partial

    @property
    def route(self) -> str | None:
        """The name of the route that answers."""
        return self._pump.stream.route

    def __del__(self) -> None:
        if self._task is not None and not self._pump.over.is_set():
            warnings.warn(f"{self!r} was dropped without being closed; use with", ResourceWarning, 2, source=self)
            self._task.cancel()

    def __repr__(self) -> str:
        return repr(self._pump.stream).replace("ChatStream", "Stream", 1)
