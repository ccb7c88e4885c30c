"""`Client`: the same without `await`, as a thin facade over one event loop in a thread of its own.

Not generated twins: a blocking socket cannot keep a deadline (its timeout is per read, and a dribbling server restarts
it with each byte), the async engine can. Deadlines, `local_only` and other context variables cross over with the call.

Rules of the file:
  1. Whoever stops waiting (Ctrl-C) cancels what runs: the server must not go on generating for nobody.
  2. After `os.fork` the child begins anew: threads, loops and slots did not come along.
  3. Nothing keeps the interpreter from ending.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from resilient_llm._client import AsyncClient
from resilient_llm._errors import ClientClosed, ConfigError
from resilient_llm._options import ChatOptions
from resilient_llm._replies import ChatReply, EmbedReply, ParsedReply
from resilient_llm._route import Route
from resilient_llm._sync_stream import Stream
from resilient_llm._types import Messages
from resilient_llm._zones import LocalOnly
from resilient_llm.backends.base import Backend

T = TypeVar("T")


class _Loop:
    """The event loop in its thread."""

    def __init__(self) -> None:
        self._context: AbstractContextManager[BlockingPortal] = start_blocking_portal(name="resilient_llm")
        self.portal = self._context.__enter__()

    def stop(self) -> None:
        """Ends loop and thread, wherever it is called from: at exit, by the garbage collector, on the loop itself."""
        try:
            self.portal.start_task_soon(self.portal.stop, True)
        except RuntimeError:  # it has ended, or this is its own thread
            return

    def close(self) -> None:
        """Ends them and waits for it."""
        self._context.__exit__(None, None, None)


class Client:
    """`AsyncClient` without `await`: the same arguments, the same replies, the same errors.

        with Client("ollama:llama3.2", "openai:gpt-5-mini") as llm:
            print(llm.chat("Why is the sky blue?").text)

    It may be used from many threads at once, and where an event loop is already running (a notebook).

    Raises:
        ConfigError: an argument has no meaning; the message names it.
    """

    def __init__(self, *routes: str | Backend | Route, **options: Any) -> None:
        self._make: Callable[[], AsyncClient] = lambda: AsyncClient(*routes, **options)
        self._llm = self._make()
        self._loop: _Loop | None = None
        self._lock = threading.Lock()
        self._closed = False
        _ALIVE.add(self)

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatReply:
        """As `AsyncClient.chat`."""
        return self._wait(lambda: self._llm.chat(messages, **options))

    def parse(self, messages: Messages, type: type[T], **options: Unpack[ChatOptions]) -> ParsedReply[T]:
        """As `AsyncClient.parse`."""
        return self._wait(lambda: self._llm.parse(messages, type, **options))

    def embed(
        self, texts: str | Sequence[str], *, timeout: float | None = None, local_only: LocalOnly = None
    ) -> EmbedReply:
        """As `AsyncClient.embed`."""
        return self._wait(lambda: self._llm.embed(texts, timeout=timeout, local_only=local_only))

    def stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> Stream:
        """As `AsyncClient.stream`: `with llm.stream(…) as stream`."""
        return Stream(self._start, self._llm.stream(messages, **options))

    def models(self) -> dict[str, tuple[str, ...]]:
        """As `AsyncClient.models`."""
        return self._wait(self._llm.models)

    def warm_up(self) -> None:
        """As `AsyncClient.warm_up`."""
        self._wait(self._llm.warm_up)

    def explain(self) -> str:
        """As `AsyncClient.explain`."""
        return self._llm.explain()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """As `AsyncClient.snapshot`."""
        return self._llm.snapshot()

    def _portal(self) -> BlockingPortal:
        with self._lock:
            if self._closed:
                raise ClientClosed("the client was closed; make a new one")
            if self._loop is None:
                self._loop = _Loop()
                weakref.finalize(self, _Loop.stop, self._loop)
            return self._loop.portal

    def _wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs it on the loop and waits; who stops waiting cancels it."""
        future = self._start(work)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def _start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        async def run() -> T:
            return await work()

        try:
            return self._portal().start_task_soon(run)
        except RuntimeError as error:
            if "event loop thread" not in str(error):
                raise
            raise ConfigError("Client: this is its own event loop's thread (a plan, a tool or a callback), which would "
                              "wait for itself; use AsyncClient here") from None  # fmt: skip

    def close(self) -> None:
        """Closes the client, its connections, its loop and its thread."""
        with self._lock:
            loop, self._loop, self._closed = self._loop, None, True
        if loop is not None:
            try:
                loop.portal.call(self._llm.aclose)
            finally:
                loop.close()

    def _after_fork(self) -> None:
        self._loop, self._lock = None, threading.Lock()
        self._llm = self._make()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._llm).replace("AsyncClient", "Client", 1)


_ALIVE: weakref.WeakSet[Client] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for client in list(_ALIVE):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
