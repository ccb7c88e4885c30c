"""Work that outlives the call which started it: model loads and slow closes.

Nobody's impatience ends it and nobody waits for it but by choice. Its owner keeps a strong reference (asyncio itself
keeps only a weak one), no exception escapes it, and the owner's `aclose` ends it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import anyio

GRACE = 0.5  # seconds that `aclose` waits for cancelled work to end
log = logging.getLogger("resilient_llm")


def running_loop() -> Any:
    """The asyncio event loop or trio token of this thread, as a key for what belongs to a loop."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return sys.modules["trio"].lowlevel.current_trio_token()


class Job:
    """One piece of detached work.

    Attributes:
        done: is set when it has ended, however it ended.
        error: why it failed, or `None`.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], ended: Callable[[Job], None]) -> None:
        self.done = anyio.Event()
        self.error: Exception | None = None
        self._work = work
        self._ended = ended
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self.task: Any = None  # asyncio: the strong reference

    async def run(self) -> None:
        """Runs the work to its end; cancellation is the only thing that leaves it."""
        try:
            # Made here, not in `__init__`: the callback of a finaliser is in no task, where anyio sees no event loop.
            with anyio.CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                await self._work()
        except Exception as error:  # noqa: BLE001  # nobody is there to catch it; who waits reads `error`
            self.error = error
        finally:
            self.done.set()
            self._ended(self)

    def cancel(self) -> None:
        """Asks it to end."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()


class Detached:
    """The detached work of one owner."""

    def __init__(self) -> None:
        self._jobs: dict[Job, Any] = {}

    def spawn(self, work: Callable[[], Awaitable[None]]) -> Job:
        """Starts `work` on the running loop, outside every cancel scope of the caller and all that is set around it.

        Who happens to begin it may have a deadline, zone or trace of his own, and those after him would live by them.
        """
        job = Job(work, lambda job: self._jobs.pop(job, None) and None)
        loop = self._jobs[job] = running_loop()
        if isinstance(loop, asyncio.AbstractEventLoop):
            job.task = Context().run(loop.create_task, job.run())  # as trio has it for its system tasks
        else:
            sys.modules["trio"].lowlevel.spawn_system_task(job.run)
        return job

    def later(self, seconds: float, work: Callable[[], Awaitable[None]], needed: Callable[[], bool]) -> None:
        """Starts `work` after these seconds, if it is needed then. Closing does not keep `needed` from being asked.

        Until then asyncio has a timer and no task.
        """
        loop = running_loop()
        if isinstance(loop, asyncio.AbstractEventLoop):
            loop.call_later(seconds, lambda: self.spawn(work) if needed() else None)
            return

        async def wait() -> None:
            await anyio.sleep(seconds)
            if needed():
                self.spawn(work)

        sys.modules["trio"].lowlevel.spawn_system_task(wait)

    async def aclose(self) -> None:
        """Cancels what this loop still runs and waits for it, `GRACE` seconds at most."""
        here = running_loop()
        jobs = [job for job, loop in list(self._jobs.items()) if loop is here]  # other threads' loops add and remove
        with anyio.move_on_after(GRACE, shield=True):
            for job in jobs:
                job.cancel()
            for job in jobs:
                await job.done.wait()
