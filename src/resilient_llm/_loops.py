"""The event loop that runs here: an alarm on its clock, and the way back to it, for a thread that wakes a task of it.

Nothing here waits, and nothing takes a lock that a finaliser could meet again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import Callable
from contextvars import Context
from functools import cache
from typing import Any

import anyio
from anyio.lowlevel import current_token


def here() -> Callable[[Callable[[], object]], None]:
    """A function that runs a callback soon on the event loop which is running now.

    It may be called from any thread, any loop and any finaliser, and returns at once. The callback runs in an empty
    context: the caller's may belong to another kind of loop. For a loop that is over it is dropped: nobody is left
    there to be woken.

    Raises:
        RuntimeError: no event loop is running in this thread.
    """
    task = _task()
    if task is not None:
        return _asyncio(task.get_loop())
    loop: Any = current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        return _asyncio(loop)
    return _trio(loop)


class Alarm:
    """Cancels its scope at an instant on the clock of the event loop that runs here, which may be put off at any time.

    A scope of anyio's takes a timer of asyncio for each deadline that it is given, and an answer gives it one for every
    token: 3 to 4 µs. Here there is one timer, which is left alone while the end is put off: when it rings too soon, it
    is set anew. On trio it is the scope's own deadline.

    Attributes:
        scope: to be entered, once.
        born: the instant at which it was made, on the loop's clock.
    """

    __slots__ = ("_at", "_loop", "_rings", "_timer", "born", "scope")

    def __init__(self) -> None:
        task = _task()
        self._timer: asyncio.TimerHandle | None = None
        self._at = self._rings = math.inf
        self._loop = None if task is None else task.get_loop()
        if self._loop is None:
            self.scope, self.born = anyio.CancelScope(), anyio.current_time()
        else:
            self.scope, self.born = _scope_of_asyncio()(), self._loop.time()

    def put(self, at: float) -> None:
        """It rings at that instant, be it sooner or later than was said before."""
        self._at = at
        if self._loop is None:
            self.scope.deadline = at
        elif self._timer is None or at < self._rings:
            self._set(self._loop)

    def again(self) -> anyio.CancelScope:
        """Another scope in place of the last, which was left. `put` says when it ends."""
        self.scope = type(self.scope)()  # to ask anyio for one takes five times as long
        return self.scope

    def off(self) -> None:
        """It does not ring any more. To be called on its own loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self.off()
        if self._at <= loop.time():
            self.scope.cancel()
        elif self._at < math.inf:
            self._rings, self._timer = self._at, loop.call_at(self._at, self._set, loop)

    def __repr__(self) -> str:
        return f"Alarm(at {self._at:.6g})"


def _task() -> asyncio.Task[Any] | None:
    """The task of asyncio that runs here; `None` on trio, be it a guest of asyncio's loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


@cache
def _scope_of_asyncio() -> type[anyio.CancelScope]:
    return type(anyio.CancelScope())


def _asyncio(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], object]], None]:
    def soon(callback: Callable[[], object]) -> None:
        try:
            loop.call_soon_threadsafe(callback, context=Context())
        except RuntimeError:
            if not loop.is_closed():
                raise

    return soon


def _trio(token: Any) -> Callable[[Callable[[], object]], None]:
    finished: type[Exception] = sys.modules["trio"].RunFinishedError

    def soon(callback: Callable[[], object]) -> None:
        with contextlib.suppress(finished):
            token.run_sync_soon(callback)

    return soon
