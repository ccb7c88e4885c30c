"""A runner that is wedged: it takes requests and answers none, while all else on the server is green.

`/api/ps` and `/api/tags` answer in microseconds while a generation hangs (ollama/ollama#10119), for hours if nobody
does anything. So one token is asked for, which is the only proof, and then step by step what may help is done, until
a token comes: wait until our own attempts have ended; unload the model and see it gone; load it; call whoever can
restart the server. Meanwhile the breaker is open, and calls go to the next route.

Rules of the file: it begins when a breaker opens, as detached work: no call waits for it. Nothing is unloaded while an
answer of ours is coming. A load in progress is no hang, however long it takes; only one that is longer than Ollama
itself would wait for one is.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import anyio
import anyio.to_thread

from resilient_llm._deadline import Clock
from resilient_llm._detached import Detached, Job, running_loop
from resilient_llm._errors import BackendFailed, LLMError
from resilient_llm._types import Zone
from resilient_llm._watch import Watch, aside
from resilient_llm.backends._ollama_memory import Memory
from resilient_llm.backends._ollama_silence import Loops

TOKEN = 20.0  # seconds for one token of a model that is in memory
OWN = 90.0  # seconds until our own attempts have ended by their own limits: 60 to the first token, 30 between two
GONE = 75.0  # seconds until an unloaded model is gone: Ollama waits for whoever it still answers
LOAD = 330.0  # seconds for a load: Ollama gives one up that does not move for 300 (OLLAMA_LOAD_TIMEOUT)
RESTART = 60.0  # seconds after `on_wedged` within which the server must give a token
LOOK = 1.0  # seconds between two looks
REST = 120.0  # seconds after which it may begin anew
Hook = Callable[[Any], object]
Step = Literal["asking", "waiting", "unloading", "loading", "calling on_wedged"]
log = logging.getLogger("resilient_llm")


class Mender:
    """Mends one model of one server.

    Args:
        backend: is handed to the hook.
        canary: gets one token out of it, or fails.
        hook: of the user, or `None`.

    Attributes:
        step: what it is doing now, or `None`.
    """

    def __init__(
        self, backend: Any, memory: Memory, loops: Loops, detached: Detached,
        canary: Callable[[Watch], Awaitable[None]], hook: Hook | None,
    ) -> None:  # fmt: skip
        self._backend, self._memory, self._loops, self._detached = backend, memory, loops, detached
        self._canary, self._hook = canary, hook
        self._job: Job | None = None
        self._ended = -math.inf
        self.step: Step | None = None

    def suspect(self) -> None:
        """Something is wrong with the answers of the model: finds out what, unless that was done a moment ago."""
        known = self._loops.last
        if known is None or self._job is not None:
            return
        clock, zone = known
        if clock() - self._ended < REST:
            return
        try:
            running_loop()
        except (RuntimeError, KeyError, AttributeError):  # a finaliser on another thread: the next call finds it
            return
        self._job = self._detached.spawn(partial(self._work, clock, zone))

    async def _work(self, clock: Clock, zone: Zone | None) -> None:
        try:
            await self._mend(clock, aside(clock, zone))
        except LLMError as error:
            log.debug("%s: not mended: %s", self._name, type(error).__name__)
        finally:
            self._job, self.step, self._ended = None, None, clock()

    @property
    def _name(self) -> str:
        return self._memory.server.model

    async def _mend(self, clock: Clock, watch: Watch) -> None:
        self.step = "asking"
        if not await self._wedged(clock, watch):
            return
        self._say("%s is wedged: it is in memory and gives no token; unloading it")
        self.step = "waiting"
        if not await self._free(clock):
            self._say("%s: answers of ours are still coming; it stays in memory")
            return
        if await self._reload(clock, watch):
            self._say("%s gives tokens again, after it was loaded anew")
            return
        await self._call(clock, watch)

    def _say(self, words: str, *more: object) -> None:
        """To the log, with what it is doing in the fields of the record."""
        from resilient_llm.telemetry import _semconv as names

        log.warning(words, self._name, *more, extra={names.REQUEST_MODEL: self._name, names.REMEDY: self.step})

    async def _wedged(self, clock: Clock, watch: Watch) -> bool:
        """It is there and silent. A server that is down, that loads or that says what is wrong is not wedged."""
        began = clock()
        while await self._memory.resident(watch) is not True:
            if not self._memory.loading or clock() - began > LOAD:
                return self._memory.loading
            await anyio.sleep(LOOK)
        return await self._token(watch) is None

    async def _token(self, watch: Watch) -> bool | None:
        """Whether one token comes; `None` if there is nothing but silence."""
        with anyio.move_on_after(TOKEN):
            try:
                await self._canary(watch)
            except BackendFailed:
                return False
            except LLMError:
                pass  # it says something, if not what was asked for
            return True
        return None

    async def _free(self, clock: Clock) -> bool:
        """No attempt of ours is under way any more."""
        began = clock()
        while self._loops.under_way:
            if clock() - began > OWN:
                return False
            await anyio.sleep(LOOK)
        return True

    async def _reload(self, clock: Clock, watch: Watch) -> bool:
        memory = self._memory
        self.step = "unloading"
        embed = await memory.only_embeds(watch)
        try:
            await memory.server.load(embed=embed, keep_alive=0, watch=watch, limit=TOKEN)
            end = clock() + GONE
            while await memory.resident(watch) is not False and clock() < end:  # noqa: ASYNC110  # nobody tells
                await anyio.sleep(LOOK)  # the server tells nobody
            self.step = "loading"
            with anyio.move_on_after(LOAD):
                await memory.load(embed=embed, watch=watch)
                return await self._token(watch) is True
        except LLMError as error:
            log.debug("%s: could not be loaded anew: %s", self._name, type(error).__name__)
        return False

    async def _call(self, clock: Clock, watch: Watch) -> None:
        """The last step: whoever can restart the server."""
        if self._hook is None:
            self._say("%s is still wedged; nobody restarts its server: see Ollama(on_wedged=…)")
            return
        self.step = "calling on_wedged"
        try:
            made = self._hook(self._backend) if inspect.iscoroutinefunction(self._hook) else await self._in_thread()
            if inspect.isawaitable(made):
                await made
        except Exception as error:  # noqa: BLE001  # somebody else's code
            self._say("%s: on_wedged raised %s", type(error).__name__)
            return
        began = clock()
        while clock() - began < RESTART:
            if await self._token(watch):
                self._say("%s gives tokens again, after on_wedged")
                return
            await anyio.sleep(LOOK)
        self._say("%s is still wedged after on_wedged")

    async def _in_thread(self) -> object:
        assert self._hook is not None
        return await anyio.to_thread.run_sync(self._hook, self._backend, abandon_on_cancel=True)

    def __repr__(self) -> str:
        return f"Mender({self._name!r}, {self.step or 'at rest'})"
