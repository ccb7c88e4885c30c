"""The stream of `Client`: one task of the loop opens, reads and closes it and fills a bounded queue.

An event costs a queue's hand-over instead of a hop to the loop and back (16 µs instead of 80). The gap limit counts
only while the task reads: when the queue is full, nobody's clock runs.
"""

from __future__ import annotations

import queue
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import anyio

from resilient_llm._errors import ConfigError
from resilient_llm._loops import here
from resilient_llm._portal import TICK, Errand
from resilient_llm._replies import ChatReply, Done, Event, Restarted, TextDelta
from resilient_llm._stream import ChatStream

AHEAD = 64  # events that are read ahead of the consumer
_OPENED, _END = object(), object()


class _Pump:
    """The half of a stream that lives on the loop: one task that opens it, reads it, closes it and fills a queue.

    It does not know the half that the user holds, so that dropping that one ends this one.
    """

    def __init__(self, stream: ChatStream) -> None:
        self.stream = stream
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._full = False
        self._room: anyio.Event
        self._soon: Callable[[Callable[[], object]], None]

    async def run(self) -> None:
        """Opens, reads, closes."""
        put, size = self.queue.put, self.queue.qsize
        self._soon = here()
        try:
            async with self.stream as stream:
                put(_OPENED)
                async for event in stream:
                    if size() >= AHEAD:
                        await self._wait_for_room()
                    put(event)
        finally:
            put(_END)

    async def _wait_for_room(self) -> None:
        self._room = anyio.Event()
        self._full = True
        if self.queue.qsize() >= AHEAD // 2:  # asked again: all may have been taken before `_full` could be seen
            await self._room.wait()
        self._full = False

    def get(self) -> Any:
        """The next thing, in the consumer's thread."""
        while True:
            try:
                event = self.queue.get(timeout=TICK)
                break
            except queue.Empty:
                continue
        if self._full and self.queue.qsize() < AHEAD // 2:
            self._full = False
            self._soon(self._room.set)
        return event


class Stream:
    """`ChatStream` without `await`: enter it with `with`, iterate over events or over `text()`.

    It may be entered, read and closed by different threads; each event goes to one of them.
    """

    _errand: Errand[None] | None = None

    def __init__(self, begin: Callable[[Errand[None]], None], stream: ChatStream) -> None:
        self._begin, self._pump = begin, _Pump(stream)
        self._closed = False
        self._ended = False  # its end was told
        self._whole = False  # its last event was handed over

    def __enter__(self) -> Self:
        if self._errand is not None:
            raise ConfigError("stream: it was entered before; ask for a new one")
        self._errand = Errand(self._pump.run())
        try:
            self._begin(self._errand)
            if self._pump.get() is _END:
                self._errand.result()
        except BaseException:
            self.close()
            raise
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        errand = self._errand
        if errand is None or errand.portal is None:
            raise ConfigError("stream: enter it first: with llm.stream(…) as stream")
        if self._closed:
            raise StopIteration
        errand.portal.check()
        event = self._pump.get()
        if event is _END:
            self._pump.queue.put(_END)  # for other threads that read
            if not self._ended:
                self._ended = True
                errand.result()
            raise StopIteration
        if type(event) is Done:
            self._whole = True
        return event  # type: ignore[no-any-return]  # the queue carries marks beside events

    def text(self) -> Iterator[str]:
        """Only the pieces of the answer's text, as strings.

        Raises:
            LLMError: as iterating the events. Also where the route says `on_break="restart"`: strings cannot tell that
                the answer begins anew, and nobody would know what to forget.
        """
        for event in self:
            if type(event) is TextDelta:
                yield event.text
            elif type(event) is Restarted:
                raise event.error

    def close(self) -> None:
        """Hangs up, if it has not ended yet. Nothing is handed over after it."""
        self._closed = True
        if self._errand is not None:
            self._errand.end("the stream was closed while it was read")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def reply(self) -> ChatReply:
        """The whole answer, once the last event was handed over. See `ChatStream.reply`."""
        if not self._whole:
            raise ConfigError("stream: there is no reply before the last event; use stream.partial")
        return self._pump.stream.reply

    @property
    def partial(self) -> str:
        """The text that has arrived so far; up to 64 events of it may not have been handed over yet."""
        return self._pump.stream.partial

    @property
    def route(self) -> str | None:
        """The name of the route that answers."""
        return self._pump.stream.route

    def __del__(self) -> None:
        if self._errand is None or self._errand.done:
            return
        shown = repr(self)  # first: what is cancelled may be over before the next line
        self._errand.cancel("the stream was dropped")
        warnings.warn(f"{shown} was dropped without being closed; use with", ResourceWarning, 2, source=self)

    def __repr__(self) -> str:
        return repr(self._pump.stream).replace("ChatStream", "Stream", 1)
