"""The small questions that are put to an Ollama, each with a limit of its own, and how long an answer is believed.

Rules of the file: nothing here knows what is in memory, or loads by itself; a question that fails is an `LLMError`, and
what may be left unknown is `None`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

from resilient_llm._deadline import CEILING
from resilient_llm._detached import running_loop
from resilient_llm._errors import (
    ConnectFailed,
    ConnectTimeout,
    LLMError,
    ModelNotFound,
    NoEligibleRoute,
    UnsupportedParameter,
)
from resilient_llm._watch import Watch
from resilient_llm.backends._exchange import fetch
from resilient_llm.backends.http import Transport
from resilient_llm.wire import HTTPCall
from resilient_llm.wire.ollama import (
    Model,
    OllamaCodec,
    Show,
    load_body,
    parse_ps,
    parse_show,
    parse_tags,
    parse_version,
    show_body,
)

T = TypeVar("T")
ASK_TIME = 0.5  # seconds for /api/ps, which may block for 5 to 10 s while a model unloads; then we go on without
SHOW_TIME = 5.0  # seconds for /api/show and /api/tags
FACTS = 300.0  # seconds that what /api/show and /api/version said is believed
NAMED = 10  # models that an error lists
DOWN = (ConnectFailed, ConnectTimeout, NoEligibleRoute)  # nobody is there, or nobody who may be asked
_SWITCHES: weakref.WeakKeyDictionary[Any, dict[str, anyio.Lock]] = weakref.WeakKeyDictionary()


class Server:
    """One Ollama, as far as one model is concerned."""

    def __init__(self, transport: Transport, codec: OllamaCodec, model: str, origin: str) -> None:
        self.model, self.origin = model, origin
        self._transport, self._codec = transport, codec
        self._shown: tuple[float, Show] | None = None
        self._version: tuple[float, tuple[int, ...] | None] | None = None

    async def running(self, watch: Watch, limit: float = ASK_TIME) -> tuple[Model, ...] | None:
        """The models in memory; `None` if it does not say within the limit.

        Raises:
            LLMError: nobody is there.
        """
        try:
            return parse_ps(await self.fetch(b"GET", "/api/ps", b"", watch, limit))
        except DOWN:
            raise
        except LLMError:
            return None

    async def lives(self, watch: Watch) -> bool:
        """It answers a question that needs nothing of its scheduler."""
        try:
            await self.fetch(b"GET", "/api/version", b"", watch, ASK_TIME)
        except LLMError:
            return False
        return True

    async def show(self, watch: Watch) -> Show:
        """What it tells of the model."""
        now = watch.clock()
        if self._shown is None or now - self._shown[0] > FACTS:
            body = await self.fetch(b"POST", "/api/show", show_body(self.model), watch, SHOW_TIME)
            self._shown = (now, parse_show(body))
            self._codec.able(self._shown[1].capabilities)
        return self._shown[1]

    async def sees(self, watch: Watch) -> None:
        """Checks that the model sees images.

        Raises:
            UnsupportedParameter: it does not.
        """
        show = await unless_untold(self.show, watch)
        if show is not None and show.capabilities and "vision" not in show.capabilities:
            raise UnsupportedParameter(
                f"{self.model} takes no images: it is a model for text, and Ollama would ask it without them",
                parameter="images",
                falls_back=True,
            )

    async def only_embeds(self, watch: Watch) -> bool:
        """It is a model for embeddings, which does not chat."""
        abilities = (await self.show(watch)).capabilities
        return "embedding" in abilities and "completion" not in abilities

    async def ask_version(self, watch: Watch) -> None:
        """Has `version` told anew, where that is long ago. It stays unknown where nobody says."""
        if self._version is None or watch.clock() - self._version[0] > FACTS:
            try:
                version = parse_version(await self.fetch(b"GET", "/api/version", b"", watch, ASK_TIME))
            except LLMError:
                return
            self._version = (watch.clock(), version)

    @property
    def version(self) -> tuple[int, ...] | None:
        """The server's version, as far as it has told it."""
        return self._version[1] if self._version is not None else None

    async def models(self, watch: Watch, limit: float = SHOW_TIME) -> tuple[str, ...]:
        """The names of the models that are pulled."""
        tags = parse_tags(await self.fetch(b"GET", "/api/tags", b"", watch, limit))
        return tuple(sorted(one.name for one in tags))

    async def load(self, *, embed: bool, keep_alive: float | str | None, watch: Watch, limit: float = CEILING) -> None:
        """Has the model brought into memory, however long that takes; with a `keep_alive` of 0 put out of it."""
        body = load_body(self._codec, keep_alive=keep_alive, embed=embed)
        await self.fetch(b"POST", "/api/embed" if embed else "/api/chat", body, watch, limit)

    async def name_models(self, error: ModelNotFound, watch: Watch) -> None:
        """Adds to the error which models are there."""
        try:
            names = await self.models(watch, ASK_TIME)
        except LLMError:
            return
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        there = f"it has {', '.join(names[:NAMED])}{more}" if names else "it has no model yet"
        error.args = (f"{error.message}; {there}",)

    async def fetch(self, method: bytes, path: str, body: bytes, watch: Watch, limit: float) -> bytes:
        """The body of a good answer."""
        try:
            return await fetch(self._transport, method, HTTPCall(path, body), self._codec.error, watch, limit)
        except ModelNotFound as error:
            await self.name_models(error, watch)
            raise

    def switch(self) -> anyio.Lock:
        """Held while a model is loaded: one at a time on a server, for all that this loop does there.

        The server has one loader for all models. What waits there is lost with its connection, and two that want the
        same memory put each other out of it.
        """
        return _SWITCHES.setdefault(running_loop(), {}).setdefault(self.origin, anyio.Lock())

    def __repr__(self) -> str:
        return f"Server({self.origin}, {self.model!r})"


async def unless_untold(ask: Callable[[Watch], Any], watch: Watch) -> Any:
    """What a question is answered, or `None` where the server has no answer to it.

    Raises:
        LLMError: nobody is there, or the model is not.
    """
    try:
        return await ask(watch)
    except (*DOWN, ModelNotFound):
        raise
    except LLMError:
        return None
