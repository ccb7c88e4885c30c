"""The event loop under a `Client`: an asyncio loop in a thread of its own, and work on it that others wait for.

anyio has a portal for that, but each start goes there and back before the work begins: an empty call costs 160 µs of
CPU time on the machine where this one costs 60.

Rules of the file:
  1. Who stops waiting, by Ctrl-C at whatever moment, ends what it waited for.
  2. What a finaliser may call (`Errand.cancel`, `Portal.stop`) takes no lock and waits for nothing.
  3. Nothing waits for the thread when the interpreter ends: it is a daemon, and what it holds ends with the process.
  4. In a child of `os.fork` there is neither thread nor loop: the portal is `gone`, and nobody speaks to it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import anyio

from resilient_llm._errors import ClientClosed, ConfigError
from resilient_llm._loops import here

T = TypeVar("T")
TICK = 0.1  # seconds: Python sees a signal that came just before a wait, and any on Windows, only when the wait is over
_ENDED = "the client's event loop has ended"
GRACE = 1.0  # seconds to wait for what was cancelled, and for the thread: a name look-up cannot be cancelled


class Portal:
    """An event loop in a thread.

    Attributes:
        gone: this process is a child of the one that the thread runs in.
    """

    def __init__(self) -> None:
        self.gone = False
        self._errands: set[Errand[Any]] = set()
        self._loop: asyncio.AbstractEventLoop
        self._soon: Callable[[Callable[[], object]], None] | None = None
        self._stopped: asyncio.Event
        self._over = False
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="resilient_llm", daemon=True)
        try:
            self._thread.start()
            ready.result()
        except BaseException:
            self.stop()
            raise

    def _run(self, ready: Future[None]) -> None:
        try:
            anyio.run(self._live, ready)
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _live(self, ready: Future[None]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._soon = here()
        ready.set_result(None)
        if not self._over:  # or `stop` came before there was anything to wake
            await self._stopped.wait()
        # What still runs is cancelled when the loop ends.

    @property
    def ended(self) -> bool:
        """Nothing runs there any more."""
        return self.gone or not self._thread.is_alive()

    @property
    def here(self) -> bool:
        """This is the loop's own thread."""
        return threading.get_ident() == self._thread.ident

    def check(self) -> None:
        """Whether someone may wait here for what happens there.

        Raises:
            ConfigError: this is the loop's own thread.
            ClientClosed: the loop is in another process.
        """
        if self.gone:
            raise ClientClosed("this belongs to the process that was forked; begin anew in the child")
        if self.here:
            raise ConfigError("Client: this is its own event loop's thread (a plan, a tool or a callback), which would "
                              "wait for itself; use AsyncClient here")  # fmt: skip

    def begin(self, errand: Errand[T]) -> None:
        """Starts it, in a copy of the caller's context. The caller sees to it that `end` does not come in between.

        Raises:
            ClientClosed: the loop has ended.
        """
        errand.portal = self
        self._errands.add(errand)
        try:
            self._loop.call_soon_threadsafe(self._start, errand, context=copy_context())
        except RuntimeError:
            raise ClientClosed(_ENDED) from None

    def _start(self, errand: Errand[Any]) -> None:
        """On the loop, in the errand's own context."""
        sniffio = sys.modules.get("sniffio")
        if sniffio is not None:  # the caller may be in a thread of another kind of loop, and its context says so
            sniffio.current_async_library_cvar.set("asyncio")
        errand.task = self._loop.create_task(errand.run())
        errand.task.add_done_callback(lambda _: self._errands.discard(errand))

    def soon(self, callback: Callable[[], object]) -> None:
        """Runs it on the loop; nothing, where there is none."""
        if self._soon is not None and not self.gone:
            self._soon(callback)

    def stop(self) -> None:
        """Ends loop and thread soon, wherever it is called from: by the garbage collector, on the loop itself."""
        self._over = True
        self.soon(lambda: self._stopped.set())

    def end(self, last: Coroutine[Any, Any, None]) -> None:
        """Ends all errands with `ClientClosed`, runs the last one, then ends loop and thread."""
        errand = Errand(last)
        running = list(self._errands)
        try:
            for one in running:
                one.cancel("the client was closed during this call")
            if self._answers():
                until = time.monotonic() + GRACE
                for one in running:
                    one.wait(until - time.monotonic())
                self.begin(errand)
                errand.result()
                self.stop()
                self._thread.join(GRACE)
        finally:
            errand.cancel("closing the client was interrupted")
            self.stop()

    def _answers(self) -> bool:
        """The loop runs. Somebody's plan or callback may block it; then it ends when that does, without us."""
        answer = threading.Event()
        self.soon(answer.set)
        return answer.wait(GRACE)


class Errand(Generic[T]):
    """A coroutine that a portal runs while someone waits for its end.

    Attributes:
        portal: where it runs; `None` before it has begun.
        task: that runs it, once the loop has seen it.
    """

    _result: T

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.portal: Portal | None = None
        self.task: asyncio.Task[None] | None = None
        self._work = work
        self._scope: anyio.CancelScope | None = None
        self._why = ""  # it was cancelled
        self._error: BaseException | None = None
        self._running = threading.Lock()  # free when it has ended: the cheapest thing that a thread can wait for
        self._running.acquire()

    @property
    def done(self) -> bool:
        """It has ended, or was never begun, or is in another process."""
        return self.portal is None or self.portal.gone or not self._running.locked()

    async def run(self) -> None:
        """Runs it, on the loop."""
        try:
            with anyio.CancelScope() as scope:
                self._scope = scope
                if self._why:  # it was cancelled before there was a scope
                    scope.cancel()
                self._result = await self._work
            if scope.cancelled_caught:
                self._error = ClientClosed(self._why)
        except asyncio.CancelledError:
            self._error = ClientClosed(_ENDED)
            raise
        except BaseException as error:  # noqa: BLE001  # also `sys.exit` in a plan: here it would end the loop for all
            self._error = error
        finally:
            self._running.release()

    def wait(self, seconds: float) -> bool:
        """Waits so long for its end at most. Whether it has ended."""
        if not self._running.acquire(timeout=max(0.0, seconds)):
            return False
        self._running.release()  # for others that wait
        return True

    def result(self) -> T:
        """Waits for its end; gives what it returned or raises what it raised.

        Raises:
            ClientClosed: it was cancelled, or its loop has ended.
        """
        assert self.portal is not None
        while not self.wait(TICK):
            if self.portal.ended and not self.wait(0):
                self._work.close()
                raise ClientClosed(_ENDED)
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # it holds this frame, and all that stand below it
        return self._result

    def cancel(self, why: str) -> None:
        """Asks it to end. Who waits for it gets `ClientClosed`."""
        if self.portal is None:
            self._work.close()
        elif not self.done:
            self._why = self._why or why
            if self._scope is not None:
                self.portal.soon(self._scope.cancel)

    def end(self, why: str) -> None:
        """Cancels it and waits for its end, `GRACE` seconds at most; not where that would be waiting for itself."""
        self.cancel(why)
        if self.portal is not None and not self.portal.here and not self.done:
            self.wait(GRACE)
