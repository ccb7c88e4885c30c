"""The thread of a fake server: an event loop of its own, of which other threads ask what they want done.

Rules of the file: whoever misuses it hears of it at once, by a `RuntimeError` that says what to do; stopping leaves no
thread, and stopping twice does nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable

Hook = Callable[[], Awaitable[None]]
PATIENCE = 5.0  # seconds; the thread never blocks, so that only a step which does, or a broken interpreter, needs them


class LoopThread:
    """An event loop in a daemon thread, from `start` to `stop`, as often as that is wanted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()

    @property
    def running(self) -> bool:
        """Between `start` and `stop`."""
        return self._thread is not None

    def start(self, name: str, begin: Hook, end: Hook) -> None:
        """Returns when `begin` has run in the new thread; `end` is the last thing that will.

        Raises:
            RuntimeError: it is running already.
            Exception: what `begin` raised. It is not running then.
        """
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._lock:
            if self._thread is not None:
                raise RuntimeError("the server is running already; close() it first")
            self._thread = threading.Thread(target=self._run, args=(begin, end, ready), name=name, daemon=True)
            self._thread.start()
        try:
            ready.result(PATIENCE)
        except BaseException:
            self._thread = None
            raise

    def _run(self, begin: Hook, end: Hook, ready: concurrent.futures.Future[None]) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # the one kind that tells of a listener
            runner.run(self._main(begin, end, ready))

    async def _main(self, begin: Hook, end: Hook, ready: concurrent.futures.Future[None]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        try:
            await begin()
            ready.set_result(None)
            await self._over.wait()
        except Exception as error:  # noqa: BLE001  # raised again by `start`
            ready.set_exception(error)
        finally:
            await end()

    def ask(self, action: Callable[[], object]) -> None:
        """Runs this in the thread, awaits it if it can be awaited, and returns when it is done.

        Raises:
            RuntimeError: it is not running, or a step of the script asks, which would wait for itself.
        """
        if self._thread is None or self._loop is None:
            raise RuntimeError("the server is not running; start() it first")
        if self._thread is threading.current_thread():
            raise RuntimeError("a step of a script cannot call the server that plays it; call it from the test")

        async def run() -> None:
            result = action()
            if inspect.isawaitable(result):
                await result

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def stop(self) -> None:
        """Ends it.

        Raises:
            RuntimeError: the thread is still there: a step of the script blocks it.
        """
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._over.set)
        thread.join(PATIENCE)
        if thread.is_alive():
            raise RuntimeError("the thread of the server does not end: a step of the script blocks it")
