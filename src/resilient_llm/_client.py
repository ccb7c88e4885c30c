"""`AsyncClient`: the door."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import anyio

from resilient_llm import _deadline
from resilient_llm._answer import reply_of
from resilient_llm._call import Call
from resilient_llm._catalog import models_of
from resilient_llm._deadline import Clock
from resilient_llm._engine import Engine
from resilient_llm._errors import ClientClosed, ConfigError, LLMError
from resilient_llm._events import Listener, teller
from resilient_llm._explain import explain, snapshot
from resilient_llm._health import health, warm_up
from resilient_llm._hub import Hub
from resilient_llm._leg import Leg, legs_from
from resilient_llm._models import ModelInfo
from resilient_llm._numbers import shown
from resilient_llm._options import Asked, ChatOptions, chat_from, embed_from
from resilient_llm._replies import ChatReply, EmbedReply, ParsedReply, Space, Usage
from resilient_llm._route import Plan, Route, route_from
from resilient_llm._run import Run
from resilient_llm._stream import ChatStream
from resilient_llm._typed import typed
from resilient_llm._types import ChatRequest, EmbedRequest, Message, Messages
from resilient_llm._watch import Watch, aside
from resilient_llm._zones import LocalOnly, ambient_limit, beyond, limit_of, strictest
from resilient_llm.backends.base import Backend
from resilient_llm.policies.timeouts import DEADLINE_CHAT, DEADLINE_EMBED

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from resilient_llm.telemetry import Telemetry

T = TypeVar("T")
BATCH = 256  # texts per embedding request: far below every server's limit, large enough to fill a GPU


class AsyncClient:
    """One typed client over a list of routes. The list is the fallback policy.

    Args:
        routes: strings such as `"ollama:llama3.2"`, backends, or `Route`s, in the order in which they are tried.
        plan: a function `(request, routes) -> routes` that chooses and orders them for one call.
        timeout: the deadline of every call that does not give its own, in seconds. Default: 180 s to the first token
            (120 s if no route is local), then only the gap limit and a ceiling of 15 minutes.
        local_only: `True`: nothing is sent to the internet; `"machine"`: nothing leaves this machine.
        on_event: a function, or several, told of what happens in each call: see `resilient_llm.events`.
        clock: seconds, monotonic. Tests give `anyio.current_time` and get virtual time.
        rng: where jitter comes from. Give a seeded one and it replays.
        tracer_provider: of OpenTelemetry, in place of the global one.
        meter_provider: of OpenTelemetry, in place of the global one.
        telemetry: what goes into traces and metrics beyond what always does; see `resilient_llm.telemetry`.

    It works with and without `async with`, on asyncio and on trio, and on one event loop after another.

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
        Message.model_rebuild()  # if it is not built yet: in the first call it would hold up the event loop for 30 ms
        for name, value in (("plan", plan), ("clock", clock)):
            if not callable(value) and not (name == "plan" and value is None):
                raise ConfigError(f"{name}: {shown(value)} is not a function")
        if rng is not None and not hasattr(rng, "uniform"):
            raise ConfigError(f"rng: {shown(rng)} is no random.Random")
        self._timeout = _deadline.seconds("timeout", timeout)
        self._limit = limit_of(local_only)
        self._clock = clock
        self._tell, self._numbers = teller(on_event), count(1)
        self._hub = Hub(telemetry, tracer_provider, meter_provider, clock)
        self._legs = legs_from([route_from(route) for route in routes], clock, self._hub.around(self._tell))
        self._local = any(leg.local for leg in self._legs)
        self._hub.begin(self._legs)
        self._engine = Engine(self._legs, plan, clock, rng or random.Random())
        self._closed = False

    async def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatReply:
        """Asks, and gives the whole answer.

        Args:
            messages: a string, a `Message`, an OpenAI-style dict, or a list of those.
            **options: see `ChatOptions`.

        Raises:
            ConfigError: an argument has no meaning. Nothing was sent.
            DeadlineExceeded: the deadline came first.
            AllRoutesFailed: more than one route was tried. If it was one, its own error is raised.
        """
        try:
            asked = chat_from(messages, options)
        finally:
            del messages, options  # an error's traceback shows the locals of this frame to whoever prints them
        with self._call(asked) as call:
            return reply_of(await self._engine.open(call))

    def stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatStream:
        """Asks, and gives the answer as it comes: `async with llm.stream(…) as stream`. Arguments as for `chat`.

        Raises:
            ConfigError: an argument has no meaning. The rest is raised on entering and iterating.
        """
        try:
            asked = chat_from(messages, options)
        finally:
            del messages, options

        async def start() -> Run:
            call = self._call(asked, whole=False).begin()
            try:
                return await self._engine.open(call)
            except BaseException as error:
                call.end(error)
                raise

        return ChatStream(start, self._engine.reopen)

    async def parse(self, messages: Messages, type: type[T], **options: Unpack[ChatOptions]) -> ParsedReply[T]:
        """Asks for an answer of this type and checks it. If it is none, it is asked for once more, with another seed.

        Args:
            messages: as for `chat`.
            type: anything pydantic has a JSON schema for: a model, a dataclass, `list[int]`, …
            **options: as for `chat`.

        Raises:
            OutputInvalid: the answer is not of this type, nor was the second; it is in the error's `.reply`.
            LLMError: as `chat`.
        """
        schema, check = typed(type)
        try:
            asked = chat_from(messages, options, schema)
        finally:
            del messages, options
        with self._call(asked) as call:
            call.check = check
            run = await self._engine.open(call)
        reply = reply_of(run)
        return ParsedReply(**{name: getattr(reply, name) for name in ChatReply.__dataclass_fields__}, output=run.output)

    async def embed(
        self, texts: str | Sequence[str], *, timeout: float | None = None, local_only: LocalOnly = None
    ) -> EmbedReply:
        """Vectors for texts, in their order. Falls back only between routes of one vector space.

        Args:
            texts: one or many; many are sent in batches of 256.
            timeout: seconds for all of it. Default 60 s local, 30 s hosted.
            local_only: as for `chat`.

        Raises:
            LLMError: as `chat`.
        """
        try:
            request = embed_from(texts)
        finally:
            del texts
        vectors: list[list[float]] = []
        usage, run = Usage(), None
        with self._call(Asked(request, timeout, local_only)) as call:
            for start in range(0, len(request.texts), BATCH):
                part = call.part(EmbedRequest(request.texts[start : start + BATCH]))
                run = await self._engine.open(part)
                assert run.gathered.vectors is not None
                vectors += run.gathered.vectors.vectors
                usage += run.gathered.vectors.usage
        assert run is not None
        assert run.gathered.vectors is not None
        return EmbedReply(
            vectors, run.gathered.vectors.model or run.leg.model, Space(run.leg.space, len(vectors[0])), usage,
            run.leg.name, tuple(call.attempts),
        )  # fmt: skip

    async def models(self) -> dict[str, tuple[ModelInfo, ...]]:
        """The models that each route's server has, by route. A route that cannot tell, or may not be asked, has none.

        What it says of a route's own model (its window, what it lacks) holds for the calls that follow. Prices and
        windows that no server tells come from a catalogue, if the extra `resilient-llm[prices]` is installed.

        Raises:
            LLMError: no server could be asked; the error of the first.
        """
        self._check_open()
        inside = self._inside()
        found: dict[str, tuple[ModelInfo, ...]] = {}
        errors: list[LLMError] = []
        for leg in self._legs:
            try:
                found[leg.name] = await models_of(leg, self._aside_watch()) if leg in inside else ()
            except LLMError as error:
                error.route = leg.name
                errors.append(error)
        if errors and len(errors) == len(self._legs):
            raise errors[0]
        return found

    async def warm_up(self) -> None:
        """Brings the models of all local routes into memory, one after the other.

        Raises:
            LLMError: one could not be loaded.
        """
        self._check_open()
        await warm_up(self._inside(), self._aside_watch)

    async def health(self, *, timeout: float = 10) -> dict[str, LLMError | None]:
        """Whether each route answers, found out by one token: `None`, or what is wrong with it.

        A route that is busy with our own calls for all of `timeout` seconds is as well as these are. One whose breaker
        is open is not asked: it is `CircuitOpen`. Hosted routes are asked for 16 tokens, which cost.
        """
        self._check_open()
        return await health(self._engine, self._inside(), lambda request: self._call(Asked(request, timeout)))

    def _inside(self) -> list[Leg]:
        """The routes that `local_only` allows here."""
        limit = strictest(self._limit, ambient_limit())
        return [leg for leg in self._legs if leg.zone is None or not beyond(leg.zone, limit)]

    def _aside_watch(self) -> Watch:
        """For what is no attempt: the limits of the phases do not hold, the zone does."""
        return aside(self._clock, strictest(self._limit, ambient_limit()))

    def _call(self, asked: Asked, *, whole: bool = True) -> Call:
        self._check_open()
        request = asked.request
        default = (DEADLINE_CHAT if isinstance(request, ChatRequest) else DEADLINE_EMBED)[self._local]
        given = self._timeout if asked.timeout is None else asked.timeout
        private = limit_of(True) if request.private else None
        zone = strictest(limit_of(asked.local_only), self._limit, ambient_limit(), private)
        deadline = _deadline.take(given, self._clock, default)
        call = Call(
            request, deadline, self._clock, whole=whole, zone=zone, conversation=asked.conversation,
            number=next(self._numbers), tell=self._tell,
        )  # fmt: skip
        return self._hub.watch(call)

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client was closed; make a new one")

    async def aclose(self) -> None:
        """Ends what is detached and closes the connections of this event loop. Calls after it raise `ClientClosed`."""
        self._closed = True
        self._hub.settle()
        for leg in self._legs:
            leg.close()
            close = getattr(leg.backend, "aclose", None)
            if close is not None:
                await close()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()

    def explain(self) -> str:
        """The pipeline in force, with every number, one route a paragraph."""
        return explain(self._legs, self._timeout)

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """The state of each route, by its name.

        `breaker`, `bulkhead` and `rate` are named tuples (`rate` is `None` without a limit), `budget` the repeats that
        are left, `aside` the seconds for which it is tried last; `model`, of an Ollama, its place in memory.
        """
        return snapshot(self._legs, self._clock())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(leg.name for leg in self._legs)})"
