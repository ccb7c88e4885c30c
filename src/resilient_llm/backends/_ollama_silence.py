"""Attempts at an Ollama: which of them are silent, and why.

Ollama sends no header before the first token, so silence alone does not tell a load from a hang. While an attempt is
silent, `/api/ps` is asked: a model that is not in there is being loaded, and its time is that of a load. That load is
then everyone's: a detached request asks for it, too, so that it goes on when the attempt that began it is given up.

Rules of the file: an attempt that speaks within a second costs a dictionary entry; no task is there for it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio

from resilient_llm._deadline import Clock
from resilient_llm._detached import Detached, running_loop
from resilient_llm._errors import BackendFailed, LLMError, ModelNotFound
from resilient_llm._types import Zone
from resilient_llm._watch import Watch, aside
from resilient_llm.backends._exchange import Exchange
from resilient_llm.backends._ollama_memory import Memory
from resilient_llm.backends.http import Transport
from resilient_llm.wire import Decoder, HTTPCall
from resilient_llm.wire.ollama import OllamaCodec

SILENT = 1.0  # seconds without a word after which it is asked whether a load is the reason
LOCKED = 10.0  # seconds that /api/ps may be silent while a model leaves and the memory of its GPU comes free: 5 to 10


class Attempts:
    """The attempts at one model that one event loop has under way."""

    __slots__ = ("_armed", "_detached", "_memory", "silent", "talking")

    def __init__(self, memory: Memory, detached: Detached) -> None:
        self.silent: dict[Watch, float] = {}  # since when they wait for a word; infinite: a load was the reason once
        self.talking = 0
        self._memory, self._detached, self._armed = memory, detached, False

    def sent(self, watch: Watch) -> None:
        """One is on its way. If it stays silent, it will be asked why."""
        self.silent[watch] = watch.clock()
        if not self._armed:
            self._armed = True
            self._detached.later(SILENT, partial(self._listen, watch.clock), self._needed)

    def spoke(self, watch: Watch) -> None:
        """Its first word is here."""
        self._memory.heard, self._memory.sure = watch.clock(), True
        if self.silent.pop(watch, None) is not None:
            self.talking += 1

    def left(self, watch: Watch, *, doubt: bool) -> None:
        """It is over; with `doubt`, nothing is taken for granted of the model's being in memory."""
        if self.silent.pop(watch, None) is None:
            self.talking -= 1
        if doubt:
            self._memory.sure = False

    def _needed(self) -> bool:
        self._armed = bool(self.silent)
        return self._armed

    async def _listen(self, clock: Clock) -> None:
        try:
            while self.silent:
                now = clock()
                due = min(self.silent.values()) + SILENT - now
                if 0 < due <= SILENT:
                    await anyio.sleep(due)
                    continue
                waiting = [one for one, since in self.silent.items() if now - since >= SILENT]
                waiting = [one for one in waiting if one.phase == "first_token"]
                if waiting:
                    await self._look(waiting)
                await anyio.sleep(SILENT)
        finally:
            self._armed = False

    async def _look(self, waiting: Sequence[Watch]) -> None:
        """Is the model being loaded? Then that is what they wait for: once, or loading for ever would be an excuse."""
        memory, own = self._memory, aside(waiting[0].clock, waiting[0].zone)
        try:
            there = await memory.resident(own, asked=True)
            if there is None and await memory.server.lives(own):
                self._enter("load", waiting)  # it is busy with putting a model out of memory
                there = await memory.resident(own, asked=True, limit=LOCKED)
            if there is False:
                self._enter("load", waiting)
                embed = await memory.server.only_embeds(own)
                if any(one in self.silent for one in waiting):  # else nobody wants it, and it may just be put out
                    await memory.load(embed=embed, watch=own)
        except LLMError:
            pass  # the attempts are told themselves
        self._enter("first_token", waiting)

    def _enter(self, phase: Any, waiting: Sequence[Watch]) -> None:
        before = "first_token" if phase == "load" else "load"
        for one in waiting:
            if one in self.silent and one.phase == before:
                one.enter(phase)
                self.silent[one] = math.inf

    def __repr__(self) -> str:
        return f"Attempts({len(self.silent)} silent, {self.talking} talking)"


class Question(Exchange):
    """An `Exchange` with an Ollama."""

    __slots__ = ("_attempts", "_memory")

    def __init__(
        self, attempts: Attempts, memory: Memory, transport: Transport, codec: OllamaCodec, call: HTTPCall,
        decoder: Decoder, watch: Watch, detached: Detached,
    ) -> None:  # fmt: skip
        super().__init__(
            transport, call, decoder, codec.error, watch, detached=detached, heard=partial(attempts.spoke, watch)
        )
        self._attempts, self._memory = attempts, memory

    async def __aenter__(self) -> Self:
        self._attempts.sent(self._watch)
        try:
            return await super().__aenter__()
        except BaseException as error:
            fault = isinstance(error, BackendFailed) or not isinstance(error, LLMError)
            self._attempts.left(self._watch, doubt=fault)
            if isinstance(error, ModelNotFound):
                await self._memory.server.name_models(error, self._watch)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        silent = self._watch in self._attempts.silent
        self._attempts.left(self._watch, doubt=silent or isinstance(error, BackendFailed))
        await super().__aexit__(kind, error, trace)


class Loops:
    """The attempts of each event loop."""

    def __init__(self, memory: Memory, detached: Detached) -> None:
        self._memory, self._detached = memory, detached
        self.zone: Zone | None = None  # of the last attempt
        self._here: weakref.WeakKeyDictionary[Any, Attempts] = weakref.WeakKeyDictionary()

    def here(self, watch: Watch) -> Attempts:
        """Those of the running loop, to which that of `watch` is to come."""
        self.zone = watch.zone
        loop = running_loop()
        attempts = self._here.get(loop)
        if attempts is None:
            attempts = self._here[loop] = Attempts(self._memory, self._detached)
        return attempts

    def give_up(self, why: str) -> None:
        """Ends those of the running loop that have had no word yet: they can go elsewhere."""
        attempts = self._here.get(running_loop())
        for watch in tuple(attempts.silent) if attempts is not None else ():
            if watch.phase == "first_token":
                watch.give_up(why)

    @property
    def under_way(self) -> int:
        """How many attempts there are, silent or not, on all loops."""
        return sum(len(one.silent) + one.talking for one in list(self._here.values()))

    def __repr__(self) -> str:
        return f"Loops({len(self._here)})"
