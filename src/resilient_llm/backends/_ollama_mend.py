"""A runner that is wedged: it takes requests and answers none, while all else on the server is green.

`/api/ps` and `/api/tags` answer in microseconds while a generation hangs (ollama/ollama#10119), for hours if nobody
does anything. So one token is asked for, which is the only proof, and then step by step what may help is done, until
a token comes: end our own attempts that are as silent, and wait for those that are not; unload the model and see it
gone; load it; call whoever can restart the server.

Rules of the file: it begins when a breaker opens because no tokens came, as detached work: no call waits for it. A
server that is down or says what is wrong is not wedged. What is asked takes the place of a half-open breaker's probe,
and keeps it while the model is mended. Nothing is unloaded while an answer of ours is coming. A load in progress is no
hang, however long it takes; only one that is longer than Ollama itself would wait for one is.
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

from resilient_llm._canary import Canary
from resilient_llm._deadline import Clock, Deadline
from resilient_llm._detached import Detached, Job, running_loop
from resilient_llm._errors import EmptyReply, FirstTokenTimeout, LLMError, LoadTimeout
from resilient_llm._watch import Watch, aside
from resilient_llm.backends._ollama_memory import Memory
from resilient_llm.backends._ollama_silence import Loops
from resilient_llm.policies.timeouts import Limits

TOKEN = 20.0  # seconds for one token of a model that is in memory
OWN = 90.0  # seconds until our own attempts have ended by their own limits: 60 to the first token, 30 between two
GONE = 75.0  # seconds until an unloaded model is gone: Ollama waits for whoever it still answers
LOAD = 330.0  # seconds for a load: Ollama gives one up that does not move for 300 (OLLAMA_LOAD_TIMEOUT)
RESTART = 60.0  # seconds after `on_wedged` within which the server must give a token
LOOK = 1.0  # seconds between two looks
REST = 120.0  # seconds after which it may begin anew
SILENCE = (FirstTokenTimeout, LoadTimeout)
Hook = Callable[[Any], object]
Step = Literal["asking", "waiting", "unloading", "loading", "calling on_wedged"]
log = logging.getLogger("resilient_llm")


class Mender:
    """Mends one model of one server.

    Args:
        backend: is handed to the hook.
        token: gets the model into memory and one token out of it, or fails.
        hook: of the user, or `None`.

    Attributes:
        step: what it is doing now, or `None`.
    """

    def __init__(
        self, backend: Any, memory: Memory, loops: Loops, detached: Detached,
        token: Callable[[Watch], Awaitable[None]], hook: Hook | None,
    ) -> None:  # fmt: skip
        self._backend, self._memory, self._loops, self._detached = backend, memory, loops, detached
        self._token, self._hook = token, hook
        self._job: Job | None = None
        self._ended = -math.inf
        self.step: Step | None = None

    def suspect(self, canary: Canary) -> None:
        """No tokens come from the model: finds out why, unless that was done a moment ago."""
        if self._job is not None or canary.clock() - self._ended < REST:
            return
        try:
            running_loop()
        except (RuntimeError, KeyError, AttributeError):  # a finaliser on another thread: the next call finds it
            return
        self._job = self._detached.spawn(partial(self._work, canary))

    async def _work(self, canary: Canary) -> None:
        try:
            if await canary.begin():
                canary.end(await self._mend(canary))
        except LLMError as error:
            log.debug("%s: not mended: %s", self._name, type(error).__name__)
        finally:
            canary.leave()
            self._job, self.step, self._ended = None, None, canary.clock()

    @property
    def _name(self) -> str:
        return self._memory.server.model

    def _does(self, step: Step, canary: Canary, seconds: float) -> None:
        self.step = step
        canary.keep(seconds)

    async def _mend(self, canary: Canary) -> LLMError | None:
        """What a token is met with in the end; `None` if it comes."""
        self._does("asking", canary, LOAD + TOKEN)
        silence = await self._asked(canary)
        if not isinstance(silence, SILENCE):
            return silence
        self._say("%s is wedged: %s; unloading it", silence.message)
        self._does("waiting", canary, OWN)
        self._loops.give_up("the model is wedged")
        if not await self._free(canary.clock):
            self._say("%s: answers of ours are still coming; it stays in memory")
            return silence
        if await self._reload(canary) is None:
            self._say("%s gives tokens again, after it was loaded anew")
            return None
        return await self._call(canary)

    def _say(self, words: str, *more: object) -> None:
        """To the log, with what it is doing in the fields of the record."""
        from resilient_llm.telemetry import _semconv as names

        log.warning(words, self._name, *more, extra={names.REQUEST_MODEL: self._name, names.REMEDY: self.step})

    async def _asked(self, canary: Canary) -> LLMError | None:
        """What one token is met with; `None` if it comes."""

        async def ask() -> LLMError | None:
            limits = Limits(connect=TOKEN, load=LOAD, first_token=TOKEN, between_tokens=TOKEN)
            watch = Watch(Deadline(math.inf, math.inf), limits, canary.clock, zone=self._loops.zone)
            try:
                with watch.scope as scope:
                    await self._token(watch)
            except EmptyReply:
                return None  # it said that it was done
            except LLMError as error:
                return error
            finally:
                watch.off()
            return watch.late() if scope.cancelled_caught else None

        return await canary.ask(ask)

    async def _free(self, clock: Clock) -> bool:
        """No attempt of ours is under way any more."""
        began = clock()
        while self._loops.under_way:
            if clock() - began > OWN:
                return False
            await anyio.sleep(LOOK)
        return True

    async def _reload(self, canary: Canary) -> LLMError | None:
        memory, watch = self._memory, aside(canary.clock, self._loops.zone)
        self._does("unloading", canary, TOKEN + GONE)
        try:
            await memory.unload(embed=await memory.server.only_embeds(watch), watch=watch, limit=TOKEN, gone=GONE)
        except LLMError as error:
            log.debug("%s: could not be unloaded: %s", self._name, type(error).__name__)
            return error
        self._does("loading", canary, LOAD + TOKEN)
        return await self._asked(canary)

    async def _call(self, canary: Canary) -> LLMError | None:
        """The last step: whoever can restart the server."""
        silence = FirstTokenTimeout("the runner is wedged")
        if self._hook is None:
            self._say("%s is still wedged; nobody restarts its server: see Ollama(on_wedged=…)")
            return silence
        self._does("calling on_wedged", canary, LOAD)
        try:
            made = self._hook(self._backend) if inspect.iscoroutinefunction(self._hook) else await self._in_thread()
            if inspect.isawaitable(made):
                await made
        except Exception as error:  # noqa: BLE001  # somebody else's code
            self._say("%s: on_wedged raised %s", type(error).__name__)
            return silence
        canary.keep(RESTART + LOAD)
        end = canary.clock() + RESTART
        while canary.clock() < end:
            if await self._asked(canary) is None:
                self._say("%s gives tokens again, after on_wedged")
                return None
            await anyio.sleep(LOOK)
        self._say("%s is still wedged after on_wedged")
        return silence

    async def _in_thread(self) -> object:
        assert self._hook is not None
        return await anyio.to_thread.run_sync(self._hook, self._backend, abandon_on_cancel=True)

    def __repr__(self) -> str:
        return f"Mender({self._name!r}, {self.step or 'at rest'})"
