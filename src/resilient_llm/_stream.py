"""`ChatStream`: an answer while it comes.

Rules of the file: every read opens its own cancel scope around one await, and none when a decoded event is waiting;
nothing is held across a hand-over. Once its end has come (the last event, an error, leaving the block, or nobody
holding it any more) everything is given back.
"""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from resilient_llm._answer import reply_of
from resilient_llm._detached import Detached
from resilient_llm._errors import ConfigError, LLMError, StreamInterrupted, Truncated
from resilient_llm._loops import here
from resilient_llm._replies import ChatReply, Done, Event, Restarted, TextDelta
from resilient_llm._run import Run
from resilient_llm._verdict import accept
from resilient_llm.wire import ToolPiece

Start = Callable[[], Awaitable[Run]]
Restart = Callable[[Run, LLMError], Awaitable[Run | None]]
_DROPPED = Detached()  # closes the connections of streams that nobody holds any more


class ChatStream:
    """The events of one answer; enter it with `async with`, then iterate over it.

        async with llm.stream("Tell me a story") as stream:
            async for text in stream.text():
                print(text, end="")
        print(stream.reply.usage)

    Iterating gives `TextDelta`, `ReasoningDelta`, `ToolCall`, `Restarted` and at last `Done`. Leaving the block early
    hangs up: the server stops generating.

    Raises:
        LLMError: on entering, whatever `chat` raises; while iterating, `StreamInterrupted` with `.partial`. After the
            first event nothing is retried, unless the route says `on_break="restart"`.
    """

    def __init__(self, start: Start, restart: Restart) -> None:
        self._start, self._restart = start, restart
        self._run: Run | None = None
        self._entered = False
        self._reading = False
        self._lost: LLMError | None = None  # what ended it while nobody read
        self._waiting: deque[Any] = deque()
        self._reply: ChatReply | None = None
        self._soon: Callable[[Callable[[], object]], None] | None = None

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ConfigError("stream: it was entered before; ask for a new one")
        self._entered = True
        self._soon = here()
        self._begins(await self._start())
        return self

    def _begins(self, run: Run) -> None:
        self._run = run
        self._waiting.extend(run.first)
        if run.slot is not None:
            run.leg.bulkhead.read_by(_Reader(self), run.slot)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._run is None or self._run.ended:
                if not self._entered:
                    raise ConfigError("stream: enter it first: async with llm.stream(…) as stream")
                if self._lost is not None:
                    lost, self._lost = self._lost, None
                    raise lost
                raise StopAsyncIteration
            await self._pull(self._run)
        event: Event = self._waiting.popleft()
        if type(event) is Done and not await self._finish():
            return await self.__anext__()
        return event

    async def _pull(self, run: Run) -> None:
        """Reads the next batch; what breaks here ends the stream, or restarts it where the route says so."""
        assert run.batches is not None
        self._reading = True
        try:
            with run.watch.step() as scope:
                batch = await anext(run.batches)
            if scope.cancelled_caught:
                raise run.watch.late()
            run.heard = run.call.clock()
            run.gathered.add(batch)
            if not batch or type(batch[0]) is not ToolPiece:
                self._waiting.extend(batch)
        except LLMError as error:
            await self._broke(run, run.broken(error))
        except StopAsyncIteration:
            truncated = Truncated("the answer ended without the server saying that it was done")
            await self._broke(run, run.broken(truncated))
        except BaseException as error:
            await run.leave(error)
            run.call.end(error)
            raise
        finally:
            self._reading = False

    async def _broke(self, run: Run, error: LLMError) -> None:
        await run.leave(error)
        try:
            again = await self._restart(run, error)
            if again is None:
                raise error from error.__cause__
        except BaseException as last:
            run.call.end(last)
            raise
        self._waiting.append(Restarted(again.leg.name, error))
        self._begins(again)

    async def _finish(self) -> bool:
        """Ends it well; or, where the route takes what the answer lacks for a failure, as that. False: it restarts."""
        run = self._run
        assert run is not None
        try:
            accept(run)
        except LLMError as error:
            await self._broke(run, error)
            return False
        await run.leave()
        self._reply = reply_of(run)
        run.call.end()
        return True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hangs up, if it has not ended yet."""
        run = self._run
        if run is not None:
            await run.leave()
            run.call.end(left=True)
            if run.call.trace is not None:
                run.call.trace.settle()
        self._waiting.clear()

    def text(self) -> Texts:
        """Only the pieces of the answer's text, as strings.

        Raises:
            LLMError: as iterating the events. Also where the route says `on_break="restart"`: strings cannot tell that
                the answer begins anew, and nobody would know what to forget.
        """
        return Texts(self)

    @property
    def reply(self) -> ChatReply:
        """The whole answer, once the last event is there.

        Raises:
            ConfigError: it is not, yet; `partial` is what there is.
        """
        if self._reply is None:
            raise ConfigError("stream: there is no reply before the last event; use stream.partial")
        return self._reply

    @property
    def partial(self) -> str:
        """The text that has arrived so far."""
        return "".join(self._run.gathered.texts) if self._run is not None else ""

    @property
    def route(self) -> str | None:
        """The name of the route that answers."""
        return self._run.leg.name if self._run is not None else None

    def __del__(self) -> None:
        run = self._run
        if run is None or not run.kept:
            return
        shown = repr(self)
        self._drop(run, GeneratorExit())
        # Last, because where warnings are errors it raises.
        warnings.warn(f"{shown} was dropped without being closed; use async with", ResourceWarning, 2, source=self)

    def _drop(self, run: Run, error: BaseException) -> None:
        """Gives everything back where nothing can be awaited: slot, permit and span now, the connection soon."""
        if not run.kept:
            return
        run.kept = False
        if not self._reading:
            run.watch.asked = run.call.clock()  # nobody waits for the server
        run.end(error)
        run.call.end(error)
        if self._soon is not None:
            self._soon(lambda: _DROPPED.spawn(run.leave))
            if run.call.trace is not None:
                self._soon(run.call.trace.settle)

    def __repr__(self) -> str:
        state = "not entered" if not self._entered else "over" if self._run is None or self._run.ended else "open"
        return f"ChatStream({state}, {len(self.partial)} chars, {self.route})"


class _Reader:
    """What the bulkhead sees of a stream whose slot others wait for. It does not keep a stream that was dropped."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ChatStream) -> None:
        self._stream = weakref.ref(stream)

    def progress(self) -> object:
        """Changes whenever an event is read; `None` while the stream waits for the server."""
        stream = self._stream()
        if stream is None or stream._run is None or stream._reading:
            return None
        return stream._run.heard, len(stream._waiting)

    def revoke(self) -> None:
        """Ends the stream; its reader is told when he comes back."""
        stream = self._stream()
        if stream is not None and stream._run is not None:
            lost = StreamInterrupted(
                "nobody read it for 60 s while others waited for its slot", fault="nobody", retryable=False
            )
            stream._lost = stream._run.broken(lost)
            stream._drop(stream._run, lost)


class Texts:
    """The text of a stream, piece by piece."""

    def __init__(self, stream: ChatStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while True:
            event = await self._stream.__anext__()
            if type(event) is TextDelta:
                return event.text
            if type(event) is Restarted:
                raise event.error
