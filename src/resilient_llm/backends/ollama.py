"""Ollama, over its own API: only there can the window be set, a cut refused, and a load told from a hang.

A load belongs, in Ollama, to the request that started it: when that one goes away, the load is aborted and the next
starts anew (ollama/ollama#8006). So a model that may not be in memory is loaded by a request of its own, one for all
callers, detached from every one of them; what is asked of the model is sent when it is there. And since Ollama sends no
header before the first token, this is also what makes a first-token limit meaningful.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal
from urllib.parse import urlsplit

from resilient_llm._deadline import CEILING, Deadline
from resilient_llm._detached import Detached, Job, running_loop
from resilient_llm._errors import ConfigError, ConnectFailed, ConnectTimeout, LLMError, NoEligibleRoute
from resilient_llm._types import ChatRequest, EmbedRequest, Request, Zone
from resilient_llm._watch import Watch
from resilient_llm._zones import zone_of
from resilient_llm.backends._endpoint import endpoint
from resilient_llm.backends._exchange import Exchange, fetch
from resilient_llm.backends.base import Batches
from resilient_llm.backends.http import OwnTransport, Transport, UserTransport
from resilient_llm.policies.timeouts import Limits
from resilient_llm.wire.ollama import (
    OllamaCodec,
    Show,
    load_body,
    parse_ps,
    parse_show,
    parse_tags,
    same_model,
    show_body,
)

RESIDENT = 60.0  # seconds after its last word that a model is taken to be in memory still; its keep_alive is 5 min
ASK_TIME = 0.5  # seconds for /api/ps, which may block for 5 to 10 s while a model unloads; then we go on without
SHOW_TIME = 5.0  # seconds for /api/show and /api/tags
FACTS = 300.0  # seconds that what /api/show said is believed
OLD_WINDOW = 2048  # tokens; Ollama's default before 0.10, whose /api/ps does not tell the window
_FOREVER = Limits(math.inf, math.inf, math.inf, math.inf)


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
        http_client: Any = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(model, str) or not model.strip() or not model.isprintable():
            raise ConfigError("model: give the name of a model, such as 'llama3.2'")
        if num_ctx is None and isinstance(options, Mapping):
            num_ctx = options.get("num_ctx")
        if num_ctx is not None and (isinstance(num_ctx, bool) or not isinstance(num_ctx, int) or num_ctx < 4):
            raise ConfigError(f"num_ctx: {num_ctx!r} is not a whole number of tokens of 4 or more")
        _check_keep_alive(keep_alive)
        self.model = model
        self.name = name or f"ollama:{model}"
        self._num_ctx = num_ctx
        self._told_window: int | None = None
        self._loaded: int | None = None  # the window that it has in memory, as far as the server says
        self._granted: int | None = None  # the one that our own load got: the server cuts it to what was trained
        at = endpoint(_address(base_url), headers or {}, api_key or _key(base_url))
        self.origin = at.origin
        literal = zone_of("127.0.0.1" if at.host == "localhost" else at.host) if _is_address(at.host) else None
        cloud = model.endswith(("-cloud", ":cloud"))
        self.zone: Zone | None = "internet" if cloud or http_client is not None else literal
        self.slots = _parallel() if literal == "machine" else 1
        self._codec = OllamaCodec(
            model, num_ctx=num_ctx, options=options, think=think, shift=shift, window=lambda: self.window
        )
        self._keep_alive = keep_alive
        self._transport: Transport = OwnTransport(at) if http_client is None else UserTransport(at, http_client)
        self._detached = Detached()
        self._loads: dict[Any, Job] = {}
        self._heard = -math.inf
        self._shown: tuple[float, Show] | None = None
        self._facts: dict[str, Any] = {}

    @property
    def window(self) -> int | None:
        """The context window in tokens: what the loaded model has, else what was asked for, else unknown."""
        known = [size for size in (self._num_ctx, self._told_window) if size is not None]
        return min(known) if known else None

    def open(self, request: Request, watch: Watch, *, stream: bool = True) -> AbstractAsyncContextManager[Batches]:
        """One attempt; see `Backend.open`."""
        codec = self._codec
        call, decoder = codec.encode(request, stream=stream), codec.decoder(request, stream=stream)
        clock = watch.clock

        def heard() -> None:
            self._heard = clock()

        return Exchange(self._transport, call, decoder, codec.error, watch, detached=self._detached, heard=heard)

    async def ready(self, request: Request | None, watch: Watch) -> None:
        """Brings the model into memory with the window that it is to have, unless it spoke a moment ago.

        Args:
            request: what will be asked of it; `None` if nothing yet.
            watch: of the attempt.

        Raises:
            LLMError: the server is not there, or the load failed.
        """
        if watch.clock() - self._heard < RESIDENT:
            return
        watch.enter("load")
        if running_loop() in self._loads or await self._resident(watch) is False:
            embed = isinstance(request, EmbedRequest) if request is not None else await self._only_embeds(watch)
            await self._load(embed=embed, watch=watch)
            await self._resident(watch)
            self._granted = self._loaded
        watch.enter("first_token")

    def lacks(self, request: Request) -> str | None:
        """Why the model cannot take this request, as far as the server has said."""
        return self._codec.lacks(request) if isinstance(request, ChatRequest) else None

    def learn(self, request: Request, error: LLMError) -> bool:
        """See `Backend`: a model that cannot think is not asked to again."""
        return self._codec.learn(request, error)

    @property
    def dialect(self) -> str | None:
        """What it speaks, and what was learned of the model."""
        return self._codec.dialect

    async def _only_embeds(self, watch: Watch) -> bool:
        abilities = (await self._show(watch)).capabilities
        return "embedding" in abilities and "completion" not in abilities

    async def _resident(self, watch: Watch) -> bool | None:
        """Whether the model is in memory as it is needed; `None` if the server does not say in time.

        With another window than ours Ollama would load it again, within the request that asks. Before 0.10 it does not
        tell the window: then it is asked to load the model, which does nothing if all is as it should be.
        """
        try:
            running = parse_ps(await self._fetch(b"GET", "/api/ps", b"", watch, ASK_TIME))
        except (ConnectFailed, ConnectTimeout, NoEligibleRoute):
            raise
        except LLMError:
            return None
        for one in running:
            if same_model(one.name, self.model):
                self._told_window = one.context_length or await self._old_window(watch)
                self._facts = {"digest": one.digest or None, "quantization": one.quantization or None}
                self._loaded = told = one.context_length
                return self._num_ctx is None or (told is not None and told in (self._num_ctx, self._granted))
        return False

    async def _old_window(self, watch: Watch) -> int:
        """The window where `/api/ps` does not tell it. What is beyond the trained one Ollama cuts without a word."""
        show = await self._show(watch)
        wanted = self._num_ctx or show.num_ctx or OLD_WINDOW
        return min(wanted, show.context_length or wanted)

    async def _load(self, *, embed: bool, watch: Watch) -> None:
        """Waits for the one load that is under way on this loop, or starts it."""
        loop = running_loop()
        job = self._loads.get(loop)
        if job is None:
            body = load_body(self._codec, keep_alive=self._keep_alive, embed=embed)
            path = "/api/embed" if embed else "/api/chat"
            own = Watch(Deadline(math.inf, math.inf), _FOREVER, watch.clock, zone=watch.zone)

            async def load() -> None:
                try:
                    await self._fetch(b"POST", path, body, own, CEILING)
                finally:
                    self._loads.pop(loop, None)

            job = self._loads[loop] = self._detached.spawn(load)
        await job.done.wait()
        if job.error is not None:
            raise copy.copy(job.error)  # a copy for each waiter: a shared exception would grow all their tracebacks

    async def locate(self, watch: Watch) -> Zone | None:
        """Where the model runs: the internet if the server hands it on, else unknown until we are connected.

        Raises:
            LLMError: the server could not be asked.
        """
        if self.zone == "internet":
            return "internet"
        return "internet" if (await self._show(watch)).remote_host else self.zone

    async def _show(self, watch: Watch) -> Show:
        now = watch.clock()
        if self._shown is None or now - self._shown[0] > FACTS:
            body = await self._fetch(b"POST", "/api/show", show_body(self.model), watch, SHOW_TIME)
            self._shown = (now, parse_show(body))
        return self._shown[1]

    async def models(self, watch: Watch) -> tuple[str, ...]:
        """The names of the models that are pulled.

        Raises:
            LLMError: the server could not be asked.
        """
        tags = parse_tags(await self._fetch(b"GET", "/api/tags", b"", watch, SHOW_TIME))
        return tuple(sorted(one.name for one in tags))

    async def _fetch(self, method: bytes, path: str, body: bytes, watch: Watch, limit: float) -> bytes:
        return await fetch(self._transport, method, path, body, self._codec.error, watch, limit)

    def served(self) -> dict[str, Any]:
        """Digest, quantization and window, as far as `/api/ps` told."""
        return {**self._facts, "window": self.window}

    async def aclose(self) -> None:
        """Ends loads and closes that are under way on this loop, and gives back its connections."""
        await self._detached.aclose()
        await self._transport.aclose()

    def __repr__(self) -> str:
        return f"Ollama({self.model!r}, {self.origin})"


def _address(base_url: str | None) -> str:
    """What Ollama's own client makes of `OLLAMA_HOST`: scheme and port may be missing; `0.0.0.0` is this machine."""
    given = base_url or os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        port = parts.port or (11434 if "://" not in given else None)
        host = "127.0.0.1" if parts.hostname in (None, "0.0.0.0") else parts.hostname  # noqa: S104  # not a bind
    except ValueError:
        return url  # `endpoint` says what is wrong with it
    if parts.username or parts.query or parts.fragment:
        return url
    host = f"[{host}]" if ":" in str(host) else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _key(base_url: str | None) -> str | None:
    """The key of the environment, for the server of the environment: another one must not get to see it."""
    ours = base_url is None or urlsplit(base_url).hostname in ("ollama.com", "www.ollama.com")
    return (os.environ.get("OLLAMA_API_KEY") or None) if ours else None


def _is_address(host: str) -> bool:
    return host == "localhost" or host.replace(".", "").isdigit() or ":" in host


def _parallel() -> int:
    """`OLLAMA_NUM_PARALLEL`, whose default is 1. It is the server's, and tells how one of this machine was started."""
    value = os.environ.get("OLLAMA_NUM_PARALLEL", "1")
    return max(1, int(value)) if value.isdigit() else 1


def _check_keep_alive(value: float | str | None) -> None:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)):
        return
    if isinstance(value, str) and value and value[-1] in "smh" and value.strip("-+.0123456789smhnuµ") == "":
        return
    hint = (
        f" (did you mean {value!r} seconds? write {value} without quotes)" if str(value).lstrip("-").isdigit() else ""
    )
    raise ConfigError(f"keep_alive: {value!r} is neither seconds nor a duration such as '10m'{hint}")
