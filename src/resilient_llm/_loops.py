"""The event loop that runs here: its clock, and the way back to it, so that one thread wakes a task of another.

Nothing here waits, and nothing takes a lock that a finaliser could meet again.
"""

from __future__ import annotations

import asyncio
import contextlib
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


def timing() -> tuple[type[anyio.CancelScope], float]:
    """The class of cancel scopes and the instant, on the event loop that runs here.

    Anyio gives both, but finds out anew each time which library runs, which takes longer than all the rest of it: 4 µs
    a call, where this takes 0.5.
    """
    task = _task()
    if task is None:
        return anyio.CancelScope, anyio.current_time()
    return _scope_of_asyncio(), task.get_loop().time()


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
