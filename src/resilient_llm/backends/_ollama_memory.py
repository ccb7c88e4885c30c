"""What an Ollama holds in memory of one model, and how the model gets there.

A load belongs, in Ollama, to the request that started it: when that one goes away, the load is aborted and the next
starts anew (ollama/ollama#8006). So a model that may not be in memory is loaded by a request of its own, one for all
callers, detached from every one of them; what is asked of the model is sent when it is there.

Rules of the file: nothing here is waited for by a call but a load, and `/api/ps` for half a second after a silence.
"""

from __future__ import annotations

import copy
import logging
import math
import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import anyio

from resilient_llm._deadline import Clock
from resilient_llm._detached import Detached, Job, running_loop
from resilient_llm._replies import Degraded, Done
from resilient_llm._types import ChatRequest, EmbedRequest, Request
from resilient_llm._warnings import OptionWarning, warn
from resilient_llm._watch import Watch, aside
from resilient_llm.backends._ollama_server import ASK_TIME, Server
from resilient_llm.policies.loads import COLD_UNKNOWN, Loads
from resilient_llm.policies.spill import Spill
from resilient_llm.policies.truncation import shifted
from resilient_llm.wire.ollama import Model, same_model

RESIDENT = 60.0  # seconds after its last word that a model is taken to be in memory still; its keep_alive is 5 min
REFRESH = 30.0  # seconds after which /api/ps is asked anew while the model is in use; nobody waits for it
LOOK = 1.0  # seconds between two looks whether it has left
OLD_WINDOW = 2048  # tokens; Ollama's default before 0.10, whose /api/ps does not tell the window
UNSEEN = "nothing that /api/ps tells: another `shift` or `num_batch`, a `keep_alive` of 0, a runner that died"
log = logging.getLogger("resilient_llm")


class _Here:
    """What belongs to one event loop."""

    __slots__ = ("asking", "loading")

    def __init__(self) -> None:
        self.loading: Job | None = None
        self.asking: Job | None = None


class Memory:
    """One model in the memory of one server.

    Attributes:
        heard: when it last said something.
        sure: nothing has happened since that makes it doubtful that it still is in memory.
        held: it was in memory, as it is needed, when that was last known.
        entry: what `/api/ps` last told of it.
        loads: what its loads tell.
    """

    def __init__(
        self, server: Server, detached: Detached, options: Mapping[str, Any], keep_alive: float | str | None,
        stays: float,
    ) -> None:  # fmt: skip
        self.server, self.detached = server, detached
        self.num_ctx: int | None = options.get("num_ctx")
        self.spill = Spill(meant="num_gpu" in options)
        self._keep_alive, self._stays = keep_alive, stays
        self.heard = self.asked = -math.inf
        self.held = self.sure = False
        self._said = keep_alive is None  # the server knows how long the model is to stay
        self._leaves = False  # we put it out
        self._put_out = -math.inf  # when that was last found, by numbers that are not learned
        self.entry: Model | None = None
        self.loads = Loads()
        self._told: int | None = None
        self._told_by = "/api/ps"
        self._granted: int | None = None  # the window that our own load got: the server cuts it to what was trained
        self._here: weakref.WeakKeyDictionary[Any, _Here] = weakref.WeakKeyDictionary()

    @property
    def window(self) -> int | None:
        """The context window in tokens: what the loaded model has, else what was asked for, else unknown."""
        known = [size for size in (self.num_ctx, self._told) if size is not None]
        return min(known) if known else None

    @property
    def window_by(self) -> str:
        """Who says how large the window is."""
        return self._told_by if self._told is not None and self._told == self.window else "num_ctx"

    @property
    def loading(self) -> bool:
        """A load of ours is under way on this loop."""
        return self._on_this_loop().loading is not None

    async def ready(self, request: Request | None, watch: Watch) -> None:
        """Brings the model into memory with the window that it is to have, unless it spoke a moment ago.

        Args:
            request: what will be asked of it; `None` if nothing yet.
            watch: of the attempt.

        Raises:
            LLMError: the server is not there, or the load failed.
            UnsupportedParameter: there is an image, and the model sees none.
        """
        if type(request) is ChatRequest and any(message.images for message in request.messages):
            await self.server.sees(watch)
        now = watch.clock()
        if self.sure and now - self.heard < RESIDENT:
            if now - self.asked > REFRESH:
                self._refresh(watch)
            return
        watch.enter("load")
        here = self._on_this_loop()
        # A server that does not even say what it holds hangs: to call that a load would be to wait for minutes.
        there = await self.resident(watch) if here.loading is None else False
        if there is False or (there and not self._said):
            embed = isinstance(request, EmbedRequest) if request is not None else await self.server.only_embeds(watch)
            await self.load(embed=embed, watch=watch)
        elif self.server.version is None:
            self._refresh(watch)
        watch.enter("first_token")

    async def resident(self, watch: Watch, *, asked: bool = False, limit: float = ASK_TIME) -> bool | None:
        """Whether the model is in memory as it is needed; `None` if the server does not say within the `limit`.

        `asked`: something was asked of the model, and what is in memory is no sign of who put it out before.

        With another window than ours Ollama would load it again, within the request that asks. Before 0.10 it does not
        tell the window, and lists what is still loading: then it is asked to load, which does nothing if all is well.

        Raises:
            LLMError: nobody is there.
        """
        self.asked = watch.clock()
        running = await self.server.running(watch, limit)
        if running is None:
            return None
        self.spill.saw(one.size_vram for one in running)
        mine = next((one for one in running if same_model(one.name, self.server.model)), None)
        if mine is None and asked:
            return self._gone(None)
        if mine is None:
            others = ", ".join(one.name for one in running)
            return self._gone(f"not in memory, where {others} is" if others else "not in memory, and nothing else is")
        before, told = self._told, mine.context_length
        self._told = told or await self._old_window(watch)
        self._told_by = "/api/ps" if told else "/api/show"
        self.entry = mine
        self.spill.told(mine.cpu_share)
        if told is None and (asked or self.num_ctx is not None):
            return False
        if self.num_ctx is None or told in (self.num_ctx, self._granted):
            if self.held and before not in (None, self._told):
                self.loads.why = f"num_ctx: {self._told} instead of {before}"
            self.held = True
            return True
        return self._gone(f"num_ctx: {told} instead of {self.num_ctx}")

    def _gone(self, why: str | None) -> bool:
        """It is not there as it is needed. If it was, and its time was not over, someone put it out, and not we."""
        if self.held and not self._leaves and self.asked - self.heard < self._stays:
            self._put_out, self._said = self.asked, self._keep_alive is None
            self._lost(self.asked, why)
        self.held = False
        return False

    def _lost(self, now: float, why: str | None) -> None:
        if self.loads.lost(now, why):
            log.warning(
                "%s: loaded over and over again; last found: %s. Other programs there use it with other options, or"
                " more models than fit", self.server.model, self.loads.why or UNSEEN,
            )  # fmt: skip

    async def _old_window(self, watch: Watch) -> int:
        """The window where `/api/ps` does not tell it. What is beyond the trained one Ollama cuts without a word."""
        show = await self.server.show(watch)
        wanted = self.num_ctx or show.num_ctx or OLD_WINDOW
        return min(wanted, show.context_length or wanted)

    async def load(self, *, embed: bool, watch: Watch) -> None:
        """Waits for the one load that is under way on this loop, or starts it.

        Raises:
            LLMError: it failed.
        """
        here = self._on_this_loop()
        job = here.loading
        if job is None:
            own = aside(watch.clock, watch.zone)
            job = here.loading = self.detached.spawn(partial(self._bring, here, own, embed=embed))
        await job.done.wait()
        if job.error is not None:
            raise copy.copy(job.error)  # a copy for each waiter: a shared exception would grow all their tracebacks
        if self.num_ctx is not None and self._granted is not None and self._granted < self.num_ctx:
            warn(
                f"num_ctx: {self.server.model} was not trained for {self.num_ctx} tokens; its window is the"
                f" {self._granted} that Ollama gives it",
                OptionWarning,
            )

    async def _bring(self, here: _Here, watch: Watch, *, embed: bool) -> None:
        try:
            there = self.held
            async with nullcontext() if there else self.server.switch():
                began = watch.clock()
                await self.server.load(embed=embed, keep_alive=self._keep_alive, watch=watch)
                if not there:  # else it was only told how long to stay, and waits for nobody's load
                    self.loads.add(watch.clock() - began)
            self.held = False
            await self.resident(watch)
            self._granted = self._told
            self.held = self.sure = self._said = True
            self.heard = watch.clock()
            await self.server.ask_version(watch)
        finally:
            here.loading = None

    async def unload(self, *, embed: bool, watch: Watch, limit: float, gone: float) -> None:
        """Puts it out of memory, and waits until it is, or is there anew for somebody else, for `gone` seconds at most.

        Raises:
            LLMError: the server did not take that within `limit` seconds.
        """
        self._leaves, self.sure = True, False
        try:
            await self.server.load(embed=embed, keep_alive=0, watch=watch, limit=limit)
            end = watch.clock() + gone
            ends = set[str | None]()  # of one that is to leave it stays the same
            while len(ends) < 2 and (there := await self.resident(watch)) is not False and watch.clock() < end:
                if there and self.entry is not None:
                    ends.add(self.entry.expires_at)
                await anyio.sleep(LOOK)
        finally:
            self._leaves = False

    def _refresh(self, watch: Watch) -> None:
        """Has the facts told anew; nobody waits for it."""
        here = self._on_this_loop()
        if here.asking is None:
            self.asked = watch.clock()
            here.asking = self.detached.spawn(partial(self._ask, here, aside(watch.clock, watch.zone)))

    async def _ask(self, here: _Here, watch: Watch) -> None:
        try:
            if await self.resident(watch) is False:
                self.sure = False  # the next call has it loaded
            await self.server.ask_version(watch)
        finally:
            here.asking = None

    def judge(self, clock: Clock, began: float, done: Done) -> tuple[Degraded, ...]:
        """What the figures of an answer say about the model's memory: in what it was less than what was asked for.

        Args:
            clock: of the attempt.
            began: when it began.
            done: its last event; is told what was found in the model's place.
        """
        found: list[Degraded] = []
        anew = done.load is not None and self.held and self.loads.unexpected(done.load)
        if done.load is not None and done.load > COLD_UNKNOWN and self.held:  # not by what is usual, which is learned
            self.sure = False  # the next call looks what is there, and sees what put it out
            if began > self._put_out:
                self._put_out, self._said = clock(), self._keep_alive is None
        if anew and began > self.loads.lost_at:  # those that waited for one load are one loss
            self._lost(clock(), None)
        if anew or self.loads.untold:
            self.loads.untold, done.cause = False, self.loads.why
            found.append("reloaded")
        if shifted(done, self.window):
            found.append("context_shifted")
        if self.spill.spilled(self.server.version):
            found.append("cpu_spill")
        return tuple(found)

    def facts(self) -> dict[str, Any]:
        """For `reply.served_by`."""
        entry = self.entry
        told = (entry.digest or None, entry.quantization or None) if entry is not None else (None, None)
        return {"digest": told[0], "quantization": told[1], "window": self.window}

    def snapshot(self) -> dict[str, Any]:
        """For `snapshot()`: what is known now."""
        return {
            "in_memory": self.held,
            "window": self.window,
            "cpu_share": self.spill.share,
            "loads": self.loads.count,
            "load_budget": self.loads.budget,
            "found_instead": self.loads.why,
        }

    def _on_this_loop(self) -> _Here:
        return self._here.setdefault(running_loop(), _Here())

    def __repr__(self) -> str:
        return f"Memory({self.server!r}, {self.loads!r})"
