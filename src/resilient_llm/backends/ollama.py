"""Ollama, over its own API: only there can the window be set, a cut refused, and a load told from a hang.

What it has in memory, and how a model gets there, stands in `_ollama_memory`; which attempts are silent, and why, in
`_ollama_silence`; here is only what a user says and what the engine asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from resilient_llm._canary import Canary
from resilient_llm._detached import Detached
from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._models import ModelInfo, told
from resilient_llm._numbers import whole
from resilient_llm._types import ChatRequest, EmbedRequest, Message, Request, Zone
from resilient_llm._watch import Watch
from resilient_llm._zones import zone_of
from resilient_llm.backends import _ollama_settings as settings
from resilient_llm.backends._endpoint import checked_names, endpoint
from resilient_llm.backends._ollama_memory import Memory
from resilient_llm.backends._ollama_mend import Mender
from resilient_llm.backends._ollama_server import Server, unless_untold
from resilient_llm.backends._ollama_silence import Loops, Question
from resilient_llm.backends._user_client import UserTransport
from resilient_llm.backends.base import Batches
from resilient_llm.backends.http import OwnTransport, Transport
from resilient_llm.wire.ollama import OllamaCodec, same_model

REFUSES = (0, 30, 9)  # the version since which nothing is cut that may not be; before, a long answer still cut (#16856)


class Ollama:
    """A model on an Ollama server.

    Args:
        model: its name, such as `llama3.2` or `qwen3:8b`.
        base_url: default `OLLAMA_HOST`, else `http://127.0.0.1:11434`.
        num_ctx: the window in tokens. Default: the server's. A value that differs from the one the model is loaded with
            makes Ollama load it again.
        options: of Ollama, such as `{"num_gpu": 0, "top_k": 20}`.
        keep_alive: how long the model stays in memory: seconds, or a duration such as `"10m"`; sent with loads only.
        think: whether a thinking model thinks; `reasoning=` of a call wins.
        shift: whether the server may drop the middle of the context when an answer grows beyond it. Default `False`:
            the answer ends with `length` instead. `None` sends nothing, for a server that other programs use too: there
            every alternation is a reload.
        api_key: for a server behind a gateway, or Ollama's cloud. Default `OLLAMA_API_KEY`, but never to a `base_url=`
            that is not Ollama's own.
        headers: sent with each request.
        on_wedged: a function, sync or async, that is called with this object when the model is in memory, gives no
            token, and loading it anew did not help: whoever can restart the server does it there. No call waits for
            it, and it is called at most once every two minutes.
        http_client: an `httpx2.AsyncClient` or `httpx.AsyncClient`; see `OpenAICompatible`.
        name: in replies and errors. Default `ollama:model`.

    Raises:
        ConfigError: the model is empty, the URL is none, or `num_ctx` or `keep_alive` has no meaning for Ollama.
    """

    provider = "ollama"
    local = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        num_ctx: int | None = None,
        options: Mapping[str, Any] | None = None,
        keep_alive: float | str | None = None,
        think: bool | Literal["low", "medium", "high", "max"] | None = None,
        shift: bool | None = False,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        on_wedged: Callable[[Ollama], object] | None = None,
        http_client: Any = None,
        name: str | None = None,
    ) -> None:
        checked_names(model, name, "llama3.2")
        settings.checked_switches(think, shift)
        if num_ctx is None and isinstance(options, Mapping):
            num_ctx = options.get("num_ctx")
        if num_ctx is not None:
            whole("num_ctx", num_ctx, 4)
        stays = settings.stays(keep_alive)
        settings.checked_options(options)
        self.model = model
        self.name = name or f"ollama:{model}"
        at = endpoint(settings.address(base_url), headers or {}, api_key or settings.key(base_url))
        self.origin = at.origin
        literal = zone_of("127.0.0.1" if at.host == "localhost" else at.host) if settings.is_address(at.host) else None
        self._cloud = model.endswith(("-cloud", ":cloud"))
        self.zone: Zone | None = "internet" if self._cloud or http_client is not None else literal
        self.slots = settings.parallel() if literal == "machine" else 1
        self._codec = OllamaCodec(
            model, num_ctx=num_ctx, options=options, think=think, shift=shift, window=lambda: self.window
        )
        self._pinned: dict[str, Any] = {**(options or {}), **({} if num_ctx is None else {"num_ctx": num_ctx})}
        self._shift, self._kinds = shift, set[type[Request]]()
        self._transport: Transport = OwnTransport(at) if http_client is None else UserTransport(at, http_client)
        self._detached = Detached()
        self._server = Server(self._transport, self._codec, model, self.origin)
        self._memory = Memory(self._server, self._detached, self._pinned, keep_alive, stays)
        self._loops = Loops(self._memory, self._detached)
        if on_wedged is not None and not callable(on_wedged):
            raise ConfigError(f"on_wedged: a function is needed, not {type(on_wedged).__name__}")
        self._mender = Mender(self, self._memory, self._loops, self._detached, self._one_token, on_wedged)

    @property
    def window(self) -> int | None:
        """The context window in tokens: what the loaded model has, else what was asked for, else unknown."""
        return self._memory.window

    @property
    def window_by(self) -> str:
        """Who says so: `/api/ps` (the model as it is loaded), `/api/show` (servers before 0.10), or `num_ctx`."""
        return self._memory.window_by

    @property
    def load_budget(self) -> float | None:
        """Seconds within which a load should be over: three times the longest of the last five, at least 30."""
        return self._memory.loads.budget

    @property
    def counts_whole(self) -> bool:
        """Its count of a prompt has what it held in its cache: not before 0.4, and not in 0.30.0 (#2068, #16414)."""
        version = self._server.version
        return version is None or (version >= (0, 4) and version != (0, 30, 0))

    def refuses(self, request: ChatRequest) -> bool:
        """It refuses a prompt that is too long, because it is told to: since 0.30.9 in full (`truncate: false`)."""
        version = self._server.version
        return version is not None and version >= REFUSES and not request.extra.get("truncate")

    def open(self, request: Request, watch: Watch, *, stream: bool = True) -> AbstractAsyncContextManager[Batches]:
        """One attempt; see `Backend.open`."""
        if type(request) is ChatRequest and request.extra:
            settings.checked_extra(request.extra, self._pinned, self._shift)
        if self._shift is False and type(request) not in self._kinds:
            self._kinds.add(type(request))
            settings.checked_kinds(self.model, self._kinds, self._server.version)
        codec, memory = self._codec, self._memory
        call = codec.encode(request, stream=stream)
        decoder = codec.decoder(request, stream=stream, judge=partial(memory.judge, watch.clock, watch.clock()))
        return Question(
            self._loops.here(watch), memory, self._transport, codec, call, decoder, watch, self._detached
        )  # fmt: skip

    async def _one_token(self, watch: Watch) -> None:
        """Gets one token, or vector, out of the model: the only proof that it works."""
        await self._memory.ready(None, watch)
        embed = await unless_untold(self._memory.server.only_embeds, watch)
        request: Request = (
            EmbedRequest(("a",)) if embed else ChatRequest((Message(role="user", content="a"),), max_tokens=1)
        )
        async with self.open(request, watch) as batches:
            await anext(batches)

    def suspect(self, canary: Canary) -> None:
        """No tokens came: finds out whether the runner is wedged, and mends it. Nobody waits for that.

        Args:
            canary: has its turn as soon as the breaker lets one request through.
        """
        if not self._cloud:
            self._mender.suspect(canary)

    async def ready(self, request: Request | None, watch: Watch) -> None:
        """Brings the model into memory with the window that it is to have, unless it spoke a moment ago.

        Args:
            request: what will be asked of it; `None` if nothing yet.
            watch: of the attempt.

        Raises:
            LLMError: the server is not there, or the load failed.
            UnsupportedParameter: there is an image, and the model sees none.
        """
        await self._memory.ready(request, watch)

    def lacks(self, request: Request) -> str | None:
        """Why the model cannot take this request, as far as the server has said."""
        return self._codec.lacks(request) if isinstance(request, ChatRequest) else None

    def learn(self, request: Request, error: LLMError) -> bool:
        """See `Backend`: a model that cannot think is not asked to again."""
        return self._codec.learn(request, error)

    @property
    def dialect(self) -> str | None:
        """What was learned of the model."""
        return self._codec.dialect

    async def locate(self, watch: Watch) -> Zone | None:
        """Where the model runs: the internet if the server hands it on, else unknown until we are connected.

        Raises:
            LLMError: the server could not be asked.
        """
        if self.zone == "internet":
            return "internet"
        return "internet" if (await self._server.show(watch)).remote_host else self.zone

    async def models(self, watch: Watch) -> tuple[ModelInfo, ...]:
        """The models that are pulled. Only of its own is the window known, and only as it is loaded or was asked for.

        Raises:
            LLMError: the server could not be asked.
        """
        source = "server" if self._memory.entry is not None else "user"
        own = told(self.model, source, window=self.window)
        names = await self._server.models(watch)
        return tuple(replace(own, name=one) if same_model(one, self.model) else ModelInfo(one) for one in names)

    def served(self) -> dict[str, Any]:
        """Digest, quantization and window, as far as `/api/ps` told."""
        return self._memory.facts()

    def snapshot(self) -> dict[str, Any]:
        """Whether the model is in memory, its window, the CPU's share of it, and what its loads tell."""
        return {**self._memory.snapshot(), "mending": self._mender.step}

    async def aclose(self) -> None:
        """Ends loads and closes that are under way on this loop, and gives back its connections."""
        await self._detached.aclose()
        await self._transport.aclose()

    def __repr__(self) -> str:
        return f"Ollama({self.model!r}, {self.origin})"
