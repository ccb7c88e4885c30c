"""The way back to an event loop: what happens in one thread wakes a task that waits in another.

Nothing here waits, and nothing takes a lock that a finaliser could meet again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Any

from anyio.lowlevel import current_token


def here() -> Callable[[Callable[[], object]], None]:
    """A function that runs a callback soon on the event loop which is running now.

    It may be called from any thread, any loop and any finaliser, and returns at once. The callback runs in an empty
    context: the caller's may belong to another kind of loop. For a loop that is over it is dropped: nobody is left
    there to be woken.

    Raises:
        RuntimeError: no event loop is running in this thread.
    """
    loop: Any = current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        return _asyncio(loop)
    return _trio(loop)


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
