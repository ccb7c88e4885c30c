"""A route is a backend with its own policies. The list of them is the fallback policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from types import NoneType
from typing import Any, Literal, get_args

from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._models import Price
from resilient_llm._needs import NEEDS, Need
from resilient_llm._numbers import shown
from resilient_llm._types import Request, Zone
from resilient_llm.backends.base import Backend
from resilient_llm.policies.breaker import CircuitBreaker
from resilient_llm.policies.bulkhead import Bulkhead
from resilient_llm.policies.guard import ContextGuard
from resilient_llm.policies.rate import RateLimit
from resilient_llm.policies.retry import Retry, RetryBudget
from resilient_llm.policies.timeouts import Timeouts
from resilient_llm.sentinels import OutputSentinel

OnBreak = Literal["raise", "restart"]
OnTruncation = Literal["warn", "fail"]
_VERBS = {  # anything that has it fits
    "timeouts": "first_token", "retry": "delay", "budget": "draw", "breaker": "admit", "bulkhead": "acquire",
    "rate": "reserve", "guard": "fit", "sentinel": "lookout",
}  # fmt: skip
_PLAIN: dict[str, tuple[type, ...]] = {
    "name": (str, NoneType), "space": (str, NoneType), "streams": (bool, NoneType), "tells_deadline": (bool,),
    "adapt": (bool,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """A backend and how it is treated. `None` takes the default for a local or a hosted route.

    Args:
        backend: what answers: `Ollama`, `OpenAICompatible`, a string such as `"groq:llama-3.3-70b"`, or anything that
            has the one verb of `Backend`.
        name: in replies, errors and traces. Default the backend's; it must be unique within a client.
        zone: where the backend really is, if that is not what its address says: `machine`, `network` or `internet`.
        timeouts: limits of the phases of an attempt.
        retry: whether and when the same route is tried again.
        budget: how many repeats there may be. Give one object to several routes to share it.
        breaker: opens when the backend is down. Give one object to several routes to share it.
        bulkhead: how many attempts may be in flight. Routes to one origin share one unless each gives its own.
        rate: requests and tokens a minute that the provider allows. Default none: what it says with a 429 is kept.
        guard: what happens to a prompt that does not fit the window.
        sentinel: when an answer is cut although the server goes on: it repeats itself, or runs on beyond its limit.
        streams: whether answers are asked for in pieces. Default yes, because otherwise a slow answer cannot be told
            from a hang, until the server refuses to.
        falls_back_on: errors that go on to the next route although their class does not, such as `AuthFailed`.
        on_break: what happens when a stream breaks after its first event: `raise`, or `restart` the answer on the next
            route and tell of it with a `Restarted` event.
        on_truncation: what happens when the server's own figures show that it cut the prompt, or the context while it
            wrote: `warn` tells of it in `reply.degraded`; `fail` makes it a `ContextOverflow`, so that a route with a
            larger window is tried. It is one by that answer alone, unless the route adapts.
        tells_deadline: how long the caller still waits goes with each request, as `X-Request-Timeout-Ms`, for a server
            that stops by then. Default no.
        adapt: whether what was learned decides: the guard's token estimate, and that of `on_truncation="fail"`, is
            corrected by what the server counted for other prompts, and a load may take three times as long as the
            longest of its model's last five (30 s at least), unless `timeouts` says how long. Default no: the same
            configuration and the same outcomes give the same decisions, and `explain()` shows what was learned.
        lacks: what the model cannot do although nobody else says so: `tools`, `vision` (images), `schema` (typed
            output). Calls that need it pass this route over.
        price: what tokens cost there, where the server does not say; in `explain()` and `models()`.
        space: the vector space of its embeddings. Default the model's name. Once a route of a client has one, only such
            routes embed.

    Raises:
        ConfigError: an argument has no meaning; the message names it.
    """

    backend: Backend | str  # of a string it makes the backend at once
    _: KW_ONLY
    name: str | None = None
    zone: Zone | None = None
    timeouts: Timeouts | None = None
    retry: Retry | None = None
    budget: RetryBudget | None = None
    breaker: CircuitBreaker | None = None
    bulkhead: Bulkhead | None = None
    rate: RateLimit | None = None
    guard: ContextGuard | None = None
    sentinel: OutputSentinel | None = None
    streams: bool | None = None
    falls_back_on: Collection[type[LLMError]] = ()
    on_break: OnBreak = "raise"
    on_truncation: OnTruncation = "warn"
    tells_deadline: bool = False
    adapt: bool = False
    lacks: Collection[Need] = ()
    price: Price | None = None
    space: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.backend, str):
            object.__setattr__(self, "backend", backend_from(self.backend))
        if not callable(getattr(self.backend, "open", None)):
            raise ConfigError(f"backend: {type(self.backend).__name__} has no method open; see Backend")
        if self.zone not in (None, *get_args(Zone)):
            raise ConfigError(f"zone: {shown(self.zone)} is not one of machine, network, internet")
        if self.on_break not in get_args(OnBreak):
            raise ConfigError(f"on_break: {shown(self.on_break)} is not one of raise, restart")
        if self.on_truncation not in get_args(OnTruncation):
            raise ConfigError(f"on_truncation: {shown(self.on_truncation)} is not one of warn, fail")
        several = isinstance(self.lacks, (tuple, list, set, frozenset))
        if not several or not all(need in NEEDS for need in self.lacks):
            raise ConfigError(f"lacks: {shown(self.lacks)} is not a collection of {', '.join(NEEDS)}")
        if self.price is not None and not isinstance(self.price, Price):
            raise ConfigError(f"price: {shown(self.price)} is not a Price")
        object.__setattr__(self, "lacks", tuple(self.lacks))
        self._check_parts()

    def _check_parts(self) -> None:
        for name, verb in _VERBS.items():
            part = getattr(self, name)
            if part is not None and (isinstance(part, type) or not hasattr(part, verb)):
                kind = type(self).__annotations__[name].removesuffix(" | None")
                raise ConfigError(f"{name}: {shown(part)} is no {kind}")
        for name, allowed in _PLAIN.items():
            if not isinstance(getattr(self, name), allowed):
                raise ConfigError(f"{name}: {shown(getattr(self, name))} is no {allowed[0].__name__}")
        kinds: Any = self.falls_back_on
        given = tuple(kinds) if isinstance(kinds, (tuple, list, set, frozenset)) else (kinds,)
        for one in given:
            if not (isinstance(one, type) and issubclass(one, LLMError)):
                raise ConfigError(f"falls_back_on: {shown(one)} is not a class of error of this library")
        object.__setattr__(self, "falls_back_on", given)

    def __repr__(self) -> str:
        usual = {"on_break": "raise", "on_truncation": "warn"}
        names = [name for name in self.__slots__ if name != "backend" and getattr(self, name) != usual.get(name)]
        given = [f"{name}={value!r}" for name in names if (value := getattr(self, name))]
        return f"Route({', '.join([repr(self.backend), *given])})"


def backend_of(route: Route) -> Backend:
    """The backend of a route, which is no string any more."""
    assert not isinstance(route.backend, str)
    return route.backend


Plan = Callable[[Request, Sequence[Route]], Iterable[Route]]


def backend_from(text: str) -> Backend:
    """The backend that a string names: `ollama:llama3.2`, `openai:gpt-5-mini`, `vllm:my-model`.

    Raises:
        ConfigError: there is no such prefix; the message lists those that there are.
    """
    prefix, colon, model = text.partition(":")
    if prefix == "ollama" and model:
        from resilient_llm.backends.ollama import Ollama

        return Ollama(model)
    from resilient_llm.backends.providers import PROVIDERS

    if prefix in PROVIDERS and model:
        from resilient_llm.backends.openai import OpenAICompatible

        provider = PROVIDERS[prefix]
        if prefix == "openai":
            return OpenAICompatible(model, name=text)
        import os

        key = os.environ.get(provider.key) if provider.key else None
        return OpenAICompatible(model, base_url=provider.base_url, api_key=key, name=f"{prefix}:{model}")
    known = ", ".join(["ollama", *sorted(PROVIDERS)])
    what = "names no model" if colon and not model else "has no prefix that is known"
    raise ConfigError(f"route: {text[:60]!r} {what}; write 'prefix:model', with one of: {known}")


def route_from(given: Any) -> Route:
    """A route from what the user wrote.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(given, Route):
        return given
    if isinstance(given, str):
        return Route(backend_from(given))
    return Route(given)
