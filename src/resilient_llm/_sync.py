"""`Client`: the same without `await`, as a thin facade over one event loop in a thread of its own.

Not generated twins: a blocking socket cannot keep a deadline (its timeout is per read, and a dribbling server restarts
it with each byte), the async engine can. Deadlines, `local_only` and other context variables cross over with the call.
What it takes to wait for another thread, and to leave it, stands in `_portal`.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from resilient_llm._client import AsyncClient
from resilient_llm._deadline import Clock, carried
from resilient_llm._errors import ClientClosed, LLMError
from resilient_llm._events import Listener
from resilient_llm._fork import forgets
from resilient_llm._models import ModelInfo
from resilient_llm._options import ChatOptions
from resilient_llm._portal import Errand, Portal
from resilient_llm._replies import ChatReply, EmbedReply, ParsedReply
from resilient_llm._route import Plan, Route
from resilient_llm._sync_stream import Stream
from resilient_llm._types import Messages
from resilient_llm._zones import LocalOnly
from resilient_llm.backends.base import Backend

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from resilient_llm.telemetry import Telemetry

T = TypeVar("T")


class Client:
    """`AsyncClient` without `await`: the same arguments, the same replies, the same errors.

        with Client("ollama:llama3.2", "openai:gpt-5-mini") as llm:
            print(llm.chat("Why is the sky blue?").text)

    It may be used from many threads at once, and where an event loop is already running (a notebook).

    Raises:
        ConfigError: an argument has no meaning; the message names it.
    """

    def __init__(
        self,
        *routes: str | Backend | Route,
        plan: Plan | None = None,
        timeout: float | None = None,
        local_only: LocalOnly = False,
        on_event: Listener | Iterable[Listener] = (),
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._llm = AsyncClient(
            *routes, plan=plan, timeout=timeout, local_only=local_only, on_event=on_event, clock=clock, rng=rng,
            tracer_provider=tracer_provider, meter_provider=meter_provider, telemetry=telemetry,
        )  # fmt: skip
        self._portal: Portal | None = None
        self._lock = threading.Lock()  # between beginning and closing; never waited for by the loop's thread
        self._closed = False
        forgets(self)

    # What is asked stands in a coroutine before anything can fail: a traceback shows the locals of these frames.

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatReply:
        """As `AsyncClient.chat`."""
        work, timeout = self._llm.chat(messages, **options), options.get("timeout")
        del messages, options
        return self._wait(work, timeout)

    def parse(self, messages: Messages, type: type[T], **options: Unpack[ChatOptions]) -> ParsedReply[T]:
        """As `AsyncClient.parse`."""
        work, timeout = self._llm.parse(messages, type, **options), options.get("timeout")
        del messages, options
        return self._wait(work, timeout)

    def embed(
        self, texts: str | Sequence[str], *, timeout: float | None = None, local_only: LocalOnly = None
    ) -> EmbedReply:
        """As `AsyncClient.embed`."""
        work = self._llm.embed(texts, timeout=timeout, local_only=local_only)
        del texts
        return self._wait(work, timeout)

    def stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> Stream:
        """As `AsyncClient.stream`: `with llm.stream(…) as stream`."""
        try:
            begin = partial(self._begin, timeout=options.get("timeout"))
            return Stream(begin, self._llm.stream(messages, **options))
        finally:
            del messages, options

    def models(self) -> dict[str, tuple[ModelInfo, ...]]:
        """As `AsyncClient.models`."""
        return self._wait(self._llm.models())

    def warm_up(self) -> None:
        """As `AsyncClient.warm_up`."""
        self._wait(self._llm.warm_up())

    def health(self, *, timeout: float = 10) -> dict[str, LLMError | None]:
        """As `AsyncClient.health`."""
        return self._wait(self._llm.health(timeout=timeout))

    def explain(self) -> str:
        """As `AsyncClient.explain`."""
        return self._llm.explain()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """As `AsyncClient.snapshot`."""
        return self._llm.snapshot()

    def _wait(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs it on the loop and waits; who stops waiting ends it."""
        errand = Errand(work)
        try:
            self._begin(errand, timeout)
            return errand.result()
        except BaseException:
            errand.cancel("the caller has left")
            raise

    def _begin(self, errand: Errand[Any], timeout: float | None = None) -> None:
        self._check_thread()
        given = self._llm._timeout if timeout is None else timeout
        with carried(given, self._llm._clock), self._lock:
            if self._closed:
                raise ClientClosed("the client was closed; make a new one")
            if self._portal is None:
                self._portal = Portal()
                weakref.finalize(self, self._portal.stop).atexit = False
            self._portal.begin(errand)

    def _check_thread(self) -> None:
        """Before the lock: who holds it may be waiting for the loop's thread, which must not wait for it in turn."""
        portal = self._portal
        if portal is not None:
            portal.check()

    def close(self) -> None:
        """Closes the client, its connections, its loop and its thread.

        Calls after it raise `ClientClosed`, and so do calls of other threads that are under way.
        """
        self._check_thread()
        with self._lock:
            portal, self._portal, self._closed = self._portal, None, True
        if portal is not None:
            portal.end(self._llm.aclose())

    def after_fork(self) -> None:
        """In the child there is no loop yet, and nobody holds the lock."""
        if self._portal is not None:
            self._portal.gone = True
        self._portal, self._lock = None, threading.Lock()

    def __enter__(self) -> Self:
        if self._closed:
            raise ClientClosed("the client was closed; make a new one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._llm).replace("AsyncClient", "Client", 1)
