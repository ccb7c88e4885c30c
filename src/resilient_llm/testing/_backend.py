"""`FakeBackend`: a backend in process, for tests without network, sockets or sleep.

It sleeps by anyio's clock alone, so that it runs on asyncio, on trio and on trio's virtual time alike.

Rules of the file: the contract of `Backend` to the letter; every entering and every reading is a checkpoint, as those
of a socket are; an attempt is given back at one synchronous place, however it ends.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from resilient_llm._errors import ConfigError
from resilient_llm._numbers import finite, whole
from resilient_llm._types import ZONES, ChatRequest, Request, Zone
from resilient_llm._watch import Watch
from resilient_llm.backends.base import Batches
from resilient_llm.testing._play import PLAYED, Asked, Batch, Move, Opened, Played, moves
from resilient_llm.testing._script import Script, Wait
from resilient_llm.testing._steps import Echo
from resilient_llm.wire import WireEvent

_WANTED = "a FakeBackend, which has no wire, takes say(…), hang(), fail(…), stall(…), cut(…), ends(…) and slow_close(…)"


class FakeBackend:
    """A backend for tests, in process.

        local = FakeBackend(fail(ConnectFailed()), hang(), say("hel", "lo"), local=True)

    Without a script it repeats the prompt, word by word. It counts a quarter of the characters of a prompt as its
    tokens, rounded up, and each text of a script as one token of the answer. Embeddings take steps too: a `say` gives
    vectors, the same for the same text.

    Args:
        script: the steps that answer the requests in turn; the last one repeats.
        name: in replies and errors.
        model: the model. Default: the name.
        provider: in `reply.served_by`.
        origin: attempts on one origin share a queue. Default: its own.
        local: treated like an Ollama on one box: other limits, one slot.
        zone: where it pretends to be. Default: `machine` if it is local, else `internet`, as for the real ones.
        window: the context window in tokens. Unknown unless given.
        slots: how many attempts it can serve at once. Default: 1 if it is local, else 64.
        connects: seconds to a connection, for each attempt anew.
        loads: seconds that the model takes into memory, once; nobody's leaving aborts it. `None`: it is there.
        dimensions: of a vector.

    Attributes:
        requests: what it was asked, in order: `ChatRequest`s and `EmbedRequest`s.
        opened: how many attempts were begun.
        closed: how many of them were given back, however they ended.

    Raises:
        ConfigError: an argument has no meaning, or a step needs a wire.
    """

    origin: str  # absent unless given: the name of the route is its origin then
    ready: Callable[[Request, Watch], Awaitable[None]] | None = None

    def __init__(
        self,
        *script: Played,
        name: str = "fake",
        model: str | None = None,
        provider: str = "fake",
        origin: str | None = None,
        local: bool = False,
        zone: Zone | None = None,
        window: int | None = None,
        slots: int | None = None,
        connects: float = 0.0,
        loads: float | None = None,
        dimensions: int = 8,
    ) -> None:
        given = {"window": window, "slots": slots, "dimensions": dimensions, "connects": connects, "loads": loads}
        for what, value in given.items():
            if value is None:
                continue
            if what in ("connects", "loads"):
                finite(what, value, zero=True)
            else:
                whole(what, value)
        if zone not in (None, *ZONES):
            raise ConfigError(f"zone: {zone!r} is not one of {', '.join(ZONES)}")
        self._script: Script[Played] = Script(script, Echo(), lambda step: isinstance(step, PLAYED), _WANTED)
        self.name, self.model, self.provider = name, model or name, provider
        self.local, self.window, self.slots = local, window, slots
        self.zone: Zone = zone or ("machine" if local else "internet")
        if origin is not None:
            self.origin = origin
        self._connects, self._dimensions = connects, dimensions
        if loads is not None:
            self.ready = self._load
        self._loads, self._loaded_at = loads or 0.0, -math.inf
        self.requests: list[Request] = []
        self.opened = self.closed = 0

    @property
    def active(self) -> int:
        """The attempts that are open now."""
        return self.opened - self.closed

    def then(self, *steps: Played) -> None:
        """Adds steps to the script. One that has answered already does not repeat any more.

        Raises:
            ConfigError: a step needs a wire. None was added.
        """
        self._script.then(steps)

    def open(self, request: Request, watch: Watch, *, stream: bool = True) -> AbstractAsyncContextManager[Batches]:
        """One attempt; see `Backend.open`. Entering it takes the next step."""
        return _Attempt(self, request, watch, stream=stream)

    def _begin(self, request: Request, *, stream: bool) -> Iterator[Move]:
        self.opened += 1
        self.requests.append(request)
        streams = stream and isinstance(request, ChatRequest)
        return moves(self._script.take(), Asked(request, streams, self.model, self._dimensions))

    async def _load(self, request: Request, watch: Watch) -> None:
        """Returns when the model is in memory. That instant is set when the load begins, so nobody can abort it."""
        del request
        now = watch.clock()
        if self._loaded_at == -math.inf:
            self._loaded_at = now + self._loads
        if now < self._loaded_at:
            watch.enter("load")
            await anyio.sleep(self._loaded_at - now)
            watch.enter("first_token")

    async def models(self, watch: Watch) -> tuple[str, ...]:
        """The one model."""
        del watch
        await anyio.lowlevel.checkpoint()
        return (self.model,)

    def served(self) -> dict[str, Any]:
        """What is known of the model beside its name."""
        return {"window": self.window}

    def __repr__(self) -> str:
        return f"FakeBackend({self.name!r}, {len(self.requests)} requests, {self.active} active)"


class _Attempt:
    """One attempt: performs the moves of its step on a schedule that begins when it is entered."""

    __slots__ = ("_backend", "_left", "_moves", "_request", "_stream", "_until", "_watch")

    def __init__(self, backend: FakeBackend, request: Request, watch: Watch, *, stream: bool) -> None:
        self._backend, self._request, self._watch, self._stream = backend, request, watch, stream
        self._moves: Iterator[Move] = iter(())
        self._until = -math.inf  # nothing is to be had before; a reader that was cancelled finds it as it was
        self._left = True

    async def __aenter__(self) -> Self:
        backend = self._backend
        self._moves = backend._begin(self._request, stream=self._stream)
        self._left = False
        try:
            if backend._connects:
                self._watch.enter("connect")
                await anyio.sleep(backend._connects)
                self._watch.enter("first_token")
            self._until = anyio.current_time()
            await self._next()
        except BaseException:
            self._leave()
            raise
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[WireEvent]:
        move = await self._next()
        if not isinstance(move, tuple):
            raise StopAsyncIteration
        return move

    async def _next(self) -> Opened | Batch | None:
        """The next move that is no waiting; `None` after the last one."""
        while True:
            await anyio.sleep_until(self._until)
            move = next(self._moves, None)
            if not isinstance(move, Wait):
                return move
            self._until += move.seconds

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self._left:
            self._left, self._moves = True, iter(())
            self._backend.closed += 1
