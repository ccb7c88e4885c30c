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
from functools import partial
from typing import Any

from resilient_llm._deadline import Clock
from resilient_llm._detached import Detached, Job, running_loop
from resilient_llm._errors import UnsupportedParameter
from resilient_llm._replies import Degraded, Done
from resilient_llm._types import ChatRequest, EmbedRequest, Request
from resilient_llm._warnings import OptionWarning, warn
from resilient_llm._watch import Watch, aside
from resilient_llm.backends._ollama_server import Server, unless_untold
from resilient_llm.policies.loads import Loads
from resilient_llm.wire.ollama import Model, same_model

RESIDENT = 60.0  # seconds after its last word that a model is taken to be in memory still; its keep_alive is 5 min
REFRESH = 30.0  # seconds after which /api/ps is asked anew while the model is in use; nobody waits for it
OLD_WINDOW = 2048  # tokens; Ollama's default before 0.10, whose /api/ps does not tell the window
SPILL = 0.05  # of a model; less on the CPU is within what `/api/ps` rounds
_COUNTED_TWICE = ((0, 30, 0), (0, 30, 9))  # in these versions /api/ps takes a mapped file for memory of the CPU, too
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
        self._pinned_gpu = "num_gpu" in options
        self._keep_alive, self._stays = keep_alive, stays
        self.heard = self.asked = -math.inf
        self.held = False
        self.entry: Model | None = None
        self.loads = Loads()
        self._told: int | None = None
        self._told_by = "/api/ps"
        self._granted: int | None = None  # the window that our own load got: the server cuts it to what was trained
        self._gpu = False  # the server has one: it was seen in use
        self._least_cpu = math.inf
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
            await self._sees(watch)
        now = watch.clock()
        if now - self.heard < RESIDENT:
            if now - self.asked > REFRESH:
                self._refresh(watch)
            return
        watch.enter("load")
        here = self._on_this_loop()
        # A server that does not even say what it holds hangs: to call that a load would be to wait for minutes.
        if here.loading is not None or await self.resident(watch) is False:
            embed = isinstance(request, EmbedRequest) if request is not None else await self.only_embeds(watch)
            await self.load(embed=embed, watch=watch)
        elif self.server.version is None:
            self._refresh(watch)
        watch.enter("first_token")

    async def _sees(self, watch: Watch) -> None:
        show = await unless_untold(self.server.show, watch)
        if show is not None and show.capabilities and "vision" not in show.capabilities:
            raise UnsupportedParameter(
                f"{self.server.model} takes no images: it is a model for text, and Ollama would ask it without them",
                parameter="images",
                falls_back=True,
            )

    async def only_embeds(self, watch: Watch) -> bool:
        """It is a model for embeddings, which does not chat."""
        abilities = (await self.server.show(watch)).capabilities
        return "embedding" in abilities and "completion" not in abilities

    async def resident(self, watch: Watch) -> bool | None:
        """Whether the model is in memory as it is needed; `None` if the server does not say in time.

        With another window than ours Ollama would load it again, within the request that asks. Before 0.10 it does not
        tell the window: then it is asked to load the model, which does nothing if all is as it should be.

        Raises:
            LLMError: nobody is there.
        """
        self.asked = watch.clock()
        running = await self.server.running(watch)
        if running is None:
            return None
        self._gpu = self._gpu or any(one.size_vram for one in running)
        mine = next((one for one in running if same_model(one.name, self.server.model)), None)
        if mine is None:
            others = ", ".join(one.name for one in running)
            return self._gone(f"not in memory, where {others} is" if others else "not in memory, and nothing else is")
        self._told = mine.context_length or await self._old_window(watch)
        self._told_by = "/api/ps" if mine.context_length else "/api/show"
        self.entry = mine
        if mine.cpu_share is not None:
            self._least_cpu = min(self._least_cpu, mine.cpu_share)
        told = mine.context_length
        if self.num_ctx is None or (told is not None and told in (self.num_ctx, self._granted)):
            self.held = True
            return True
        return self._gone(f"num_ctx: {told} instead of {self.num_ctx}" if told is not None else None)

    def _gone(self, why: str | None) -> bool:
        """It is not there as it is needed. If it was, and its time was not over, someone else put it out."""
        if self.held and self.asked - self.heard < self._stays:
            self._lost(self.asked, why)
        self.held = False
        return False

    def _lost(self, now: float, why: str | None) -> None:
        if self.loads.lost(now, why):
            log.warning(
                "%s: loaded over and over again; last found: %s. Other programs there use it with other options, or"
                " more models than fit", self.server.model, self.loads.why or "loaded by an answer",
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
            async with self.server.switch():
                began = watch.clock()
                await self.server.load(embed=embed, keep_alive=self._keep_alive, watch=watch)
                self.loads.add(watch.clock() - began)
            self.held = False
            await self.resident(watch)
            self._granted = self._told
            self.held = True
            await self.server.ask_version(watch)
        finally:
            here.loading = None

    def _refresh(self, watch: Watch) -> None:
        """Has the facts told anew; nobody waits for it."""
        here = self._on_this_loop()
        if here.asking is None:
            self.asked = watch.clock()
            here.asking = self.detached.spawn(partial(self._ask, here, aside(watch.clock, watch.zone)))

    async def _ask(self, here: _Here, watch: Watch) -> None:
        try:
            if await self.resident(watch) is False:
                self.heard = -math.inf  # the next call has it loaded
            await self.server.ask_version(watch)
        finally:
            here.asking = None

    def judge(self, clock: Clock, done: Done) -> tuple[Degraded, ...]:
        """What the figures of an answer say about the model's memory: in what it was less than what was asked for."""
        found: list[Degraded] = []
        if done.load is not None and self.held and self.loads.unexpected(done.load):
            self._lost(clock(), None)
            self.heard = -math.inf  # the next call looks what is there, and sees what put it out
            found.append("reloaded")
        if self.shifted(done):
            found.append("context_shifted")
        if self.spilled:
            found.append("cpu_spill")
        return tuple(found)

    def shifted(self, done: Done) -> bool:
        """The answer outgrew the window: the server dropped the middle of the context, the system's words first.

        An answer that ends where the window ends says `length` (`shift: false`, or a server that cannot shift).
        """
        window, prompt, answer = self.window, done.usage.input_tokens, done.usage.output_tokens
        if window is None or prompt is None or answer is None:
            return False
        used = prompt + answer
        return used > window or (used == window and done.finish_reason != "length")

    @property
    def spilled(self) -> bool:
        """A part of the model is computed by the CPU that was not told to: by `num_gpu`, or for want of any GPU."""
        share = self.entry.cpu_share if self.entry is not None else None
        if share is None or self._pinned_gpu:
            return False
        if share == 1:
            return self._gpu
        first, fixed = _COUNTED_TWICE
        if first <= (self.server.version or ()) < fixed:
            return share > self._least_cpu + SPILL
        return share > SPILL

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
            "cpu_share": self.entry.cpu_share if self.entry is not None else None,
            "loads": self.loads.count,
            "load_budget": self.loads.budget,
            "found_instead": self.loads.why,
        }

    def _on_this_loop(self) -> _Here:
        loop = running_loop()
        here = self._here.get(loop)
        if here is None:
            here = self._here[loop] = _Here()
        return here

    def __repr__(self) -> str:
        return f"Memory({self.server!r}, {self.loads!r})"
