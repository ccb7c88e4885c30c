"""Any server that speaks OpenAI's chat and embeddings API, hosted or your own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from resilient_llm._detached import Detached
from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._models import ModelInfo, best, told
from resilient_llm._numbers import shown, whole
from resilient_llm._types import ChatRequest, Request, Zone
from resilient_llm._watch import Watch
from resilient_llm.backends._endpoint import Endpoint, checked_names, endpoint
from resilient_llm.backends._exchange import Exchange, fetch
from resilient_llm.backends._user_client import UserTransport
from resilient_llm.backends.base import Batches
from resilient_llm.backends.http import OwnTransport, Transport
from resilient_llm.backends.providers import HOSTS, PROVIDERS, name_at, provider_at
from resilient_llm.wire import HTTPCall
from resilient_llm.wire._openai_count import COUNTERS, count_body, counted_in
from resilient_llm.wire._openai_models import ELSEWHERE, kind_of, named, parse_models, window_in
from resilient_llm.wire.openai import OpenAICodec, Profile, profile_for

COUNT_TIME = 1.0  # seconds for counting a prompt; then the estimate has to do
UNKNOWN = (404, 405, 501)  # the statuses of a server that does not know the question
_PATHS = ("/chat/completions", "/embeddings")  # that people copy with the rest of the address
METADATA_TIME = 5.0  # seconds for a metadata call; hosted catalogues are long


class OpenAICompatible:
    """A model on a server with OpenAI's API.

    Args:
        model: its name there.
        base_url: up to and including `/v1`. Default `OPENAI_BASE_URL`, else OpenAI itself.
        api_key: default: the environment variable of the provider at `base_url` (`OPENAI_API_KEY`, `GROQ_API_KEY`, …);
            `OPENAI_API_KEY` also goes with `OPENAI_BASE_URL`. Never shown in a `repr`, a log or an error.
        context_window: tokens, prompt and answer together. Unknown unless given; then overflow is what the server says.
        headers: sent with each request.
        extra: fields for the body of each chat that this library does not know.
        profile: what the server takes: the name of one whose dialect it speaks, such as `"vllm"`, or a
            `resilient_llm.dialects.Profile`. Default by the address and the model.
        http_client: an `httpx2.AsyncClient` or `httpx.AsyncClient`, for proxies, TLS and custom transports. It stays
            yours: you close it, and it serves one event loop.
        name: in replies and errors. Default `provider:model`.

    Its zone is `internet`, wherever it is, because it may be a proxy; `Route(zone=…)` says otherwise.

    Raises:
        ConfigError: the model is empty, the URL is none, or a provider that needs a key has none.
    """

    local = False
    slots: int | None = None

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        context_window: int | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        profile: str | Profile | None = None,
        http_client: Any = None,
        name: str | None = None,
    ) -> None:
        checked_names(model, name, "gpt-5-mini")
        if context_window is not None:
            whole("context_window", context_window)
        if extra is not None and not isinstance(extra, Mapping):
            raise ConfigError(f"extra: a mapping such as {{'top_k': 20}} is needed, not {type(extra).__name__}")
        if base_url is not None and not isinstance(base_url, str):
            raise ConfigError(f"base_url: {shown(base_url)} is not an http:// or https:// address")
        by_environment = base_url is None
        if base_url is None:
            base_url = os.environ.get("OPENAI_BASE_URL") or PROVIDERS["openai"].base_url
        if base_url.rstrip("/").endswith(_PATHS):
            raise ConfigError(f"base_url: it ends before {_PATHS[0]}, which is added to it")
        known = provider_at(base_url)
        self.provider = name_at(base_url)
        if api_key is None and known is not None and known.key is not None:
            api_key = os.environ.get(known.key)
            if not api_key and http_client is None:
                raise ConfigError(f"api_key: {known.name} needs one; give api_key= or set {known.key}")
        elif api_key is None and by_environment:
            api_key = os.environ.get("OPENAI_API_KEY")  # who set OPENAI_BASE_URL means it for that address
        self.model = model
        self.name = name or f"{self.provider}:{model}"
        self._given = context_window
        self._told: int | None = None
        self.zone: Zone | None = "internet"
        at = endpoint(base_url, headers or {}, api_key or None)
        self.origin = at.origin
        self._extra = dict(extra or {})
        self._counts = True
        self._owner: str | None = None  # what kind of server it says that it is
        self._codec = OpenAICodec(model, profile=_profile(profile, self.provider, model))
        self._at, self._client = at, http_client
        self._transport = self._to(at)
        self._detached = Detached()

    def open(self, request: Request, watch: Watch, *, stream: bool = True) -> AbstractAsyncContextManager[Batches]:
        """One attempt; see `Backend.open`."""
        if self._extra and isinstance(request, ChatRequest):
            request = replace(request, extra={**self._extra, **request.extra})
        codec = self._codec
        call, decoder = codec.encode(request, stream=stream), codec.decoder(request, stream=stream)
        return Exchange(self._transport, call, decoder, codec.error, watch, detached=self._detached)

    def lacks(self, request: Request) -> str | None:
        """Why the model cannot take this request, as far as is known."""
        return self._codec.lacks(request) if isinstance(request, ChatRequest) else None

    def reasons(self, request: ChatRequest) -> bool:
        """Whether the model thinks before it answers."""
        return self._codec.profile.thinks(request)

    def learn(self, request: Request, error: LLMError) -> bool:
        """See `Backend`: a field that was refused by name is not sent again."""
        if self._extra and isinstance(request, ChatRequest):
            request = replace(request, extra={**self._extra, **request.extra})
        return self._codec.learn(request, error)

    @property
    def dialect(self) -> str | None:
        """Whose dialect it speaks, and what was learned from refusals."""
        return self._codec.dialect

    async def models(self, watch: Watch) -> tuple[ModelInfo, ...]:
        """The models that the server offers, and what it tells of them; of its own model it is remembered.

        Raises:
            LLMError: it could not be asked.
        """
        body = await self._ask(self._transport, "/models", watch)
        found, self._owner = parse_models(body), kind_of(body)
        own = named(found, self.model) or ModelInfo(self.model)
        if own.window is None:
            own = best(own, await self._elsewhere(self._owner, watch))
        self._told = own.window or self._told
        self._codec.lacking(own.lacks)
        mine = best(own, told(own.name, "user", window=self._given))
        return tuple(mine if one.name == own.name else one for one in found)

    async def _elsewhere(self, owner: str | None, watch: Watch) -> ModelInfo:
        """The window from where else a server of this kind tells it. It may say nothing."""
        kind = next((one for one in (self._codec.profile.name, owner) if one in ELSEWHERE), None)
        if kind is None:
            return ModelInfo(self.model)
        path, keys = ELSEWHERE[kind]
        root = self._to(replace(self._at, prefix=self._at.prefix.removesuffix("/v1")))
        try:
            body = await self._ask(root, path, watch)
            if keys:
                return told(self.model, "server", window=window_in(body, keys))
            return named(parse_models(body), self.model) or ModelInfo(self.model)
        except LLMError:
            return ModelInfo(self.model)
        finally:
            await root.aclose()

    async def _ask(self, transport: Transport, path: str, watch: Watch) -> bytes:
        return await fetch(transport, b"GET", HTTPCall(path, b""), self._codec.error, watch, METADATA_TIME)

    def _to(self, at: Endpoint) -> Transport:
        return OwnTransport(at) if self._client is None else UserTransport(at, self._client)

    @property
    def window(self) -> int | None:
        """The context window in tokens: what the server said when it was asked for its models, else what was given."""
        known = [size for size in (self._told, self._given) if size is not None]
        return min(known) if known else None

    @property
    def window_by(self) -> str:
        """Who says so: `server`, or `context_window`."""
        return "server" if self._told is not None and self._told == self.window else "context_window"

    async def count(self, request: ChatRequest, watch: Watch) -> int | None:
        """The tokens of a prompt with template and tools, as the server counts them; `None` if it cannot tell."""
        how = COUNTERS.get(self._codec.profile.name) or COUNTERS.get(self._owner or "")
        if how is None or not self._counts:
            return None
        call = self._codec.encode(request, stream=False)
        asked = HTTPCall(how.path, count_body(call.body, how))
        root = self._to(replace(self._at, prefix=self._at.prefix.removesuffix("/v1"))) if how.beside else None
        try:
            answer = await fetch(root or self._transport, b"POST", asked, self._codec.error, watch, COUNT_TIME)
            return counted_in(answer, how)
        except LLMError as error:
            self._counts = error.status not in UNKNOWN  # what is only slow, or busy, is asked again
            return None
        finally:
            if root is not None:
                await root.aclose()

    def served(self) -> dict[str, Any]:
        """What is known of the model beside its name."""
        return {"window": self.window}

    async def aclose(self) -> None:
        """Ends what is still being closed and gives back the connections of this loop."""
        await self._detached.aclose()
        await self._transport.aclose()

    def __repr__(self) -> str:
        return f"OpenAICompatible({self.model!r}, {self.origin})"


def _profile(given: object, provider: str, model: str) -> Profile:
    if given is None:
        return profile_for(provider, model)
    if isinstance(given, Profile):
        return given
    known = sorted({*PROVIDERS, *HOSTS.values()})
    if given not in known:
        raise ConfigError(f"profile: {given!r:.60} is neither a Profile nor one of {', '.join(known)}")
    return profile_for(str(given), model)
