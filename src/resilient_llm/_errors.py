"""Every way a call can end badly, as one tree that tells what to do about it.

Facts stand on errors, decisions are taken in policies: an error says who is to blame (`fault`), whether the
same request may be repeated on the same route (`retryable`), whether another route is worth trying
(`falls_back`) and how long to wait (`retry_after`). The class gives the default, an instance may say otherwise.
The wire classifies once; nobody downstream looks at a status or a message again.

    LLMError                        fault    retry  falls back
    ├─ RequestRejected              caller   no     no
    │  ├─ BadRequest
    │  ├─ AuthFailed
    │  ├─ ContentFiltered                                 .categories
    │  ├─ UnsupportedParameter
    │  ├─ ContextOverflow           caller   no     yes   to a larger window; .tokens .limit
    │  └─ ModelNotFound             caller   no     yes   not pulled here may exist there
    ├─ BackendFailed                backend  yes    yes
    │  ├─ ConnectFailed
    │  ├─ ConnectTimeout
    │  ├─ LoadTimeout
    │  ├─ FirstTokenTimeout         backend  no     yes   slow now is slow again
    │  ├─ ServerError
    │  ├─ Malformed
    │  ├─ Overloaded                                      a busy local queue is nobody's fault
    │  └─ StreamInterrupted                               .partial
    │     ├─ Truncated                                    it just ended, without saying that it was done
    │     └─ StreamStalled
    ├─ EmptyReply                   nobody   yes    yes
    ├─ RateLimited                  nobody   yes    yes   .oversize: this request alone is over the limit
    ├─ QuotaExhausted               nobody   no     yes
    ├─ OutputInvalid                nobody   yes    no    the model's output, not the server's health
    ├─ Rejected                     nobody   no     yes   nothing was sent
    │  ├─ CircuitOpen, DeadlineUnattainable
    │  │  └─ CircuitOpenTooLong                           both of them
    │  ├─ NoEligibleRoute
    │  └─ LimitExceeded
    ├─ DeadlineExceeded             nobody   no     no    also a TimeoutError; .phase
    ├─ ConfigError                  caller   no     no    also a ValueError
    ├─ ClientClosed                 caller   no     no
    └─ AllRoutesFailed              the last error's facts; .failures .last

An error never holds a key, a prompt or an answer in its `args` or `repr`. What arrived before a stream broke is
in `.partial`, for who asks for it by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from resilient_llm._replies import Attempt, Usage

Fault = Literal["backend", "caller"]
OutputFault = Literal["schema", "loop", "whitespace", "run_on", "empty"]
Phase = Literal["queue", "connect", "load", "first_token", "stream"]


class LLMError(Exception):
    """The root: catch this to catch everything that a call can raise on purpose.

    Attributes:
        fault: `"backend"` or `"caller"`, or `None` when nobody is to blame. Only `"backend"` counts against a
            circuit breaker.
        retryable: the same request may be sent again to the same route.
        falls_back: another route may be tried.
        retry_after: seconds to wait, as far as the server or a policy said.
        status: the HTTP status, if there was one.
        code: the server's own word for the error, if it had one.
        request_id: the server's id of the request, for its support.
        usage: the tokens that it cost all the same, where the server counted them.
        spent: the tokens of all attempts of the call, as far as they were counted; `None` if there was no attempt.
        route: the name of the route that failed.
        attempts: every attempt of the call so far, in order.
    """

    fault: Fault | None = None
    retryable: bool = False
    falls_back: bool = False
    usage: Usage | None = None
    _extra: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        message: str = "",
        *,
        fault: Fault | Literal["nobody"] | None = None,
        retryable: bool | None = None,
        falls_back: bool | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        if fault is not None:  # "nobody" unsets the class's default; None keeps it
            self.fault = None if fault == "nobody" else fault
        if retryable is not None:
            self.retryable = retryable
        if falls_back is not None:
            self.falls_back = falls_back
        self.retry_after = retry_after
        self.status = status
        self.code = code
        self.request_id = request_id
        self.route: str | None = None
        self.attempts: tuple[Attempt, ...] = ()

    @property
    def spent(self) -> Usage | None:
        """What the call has cost."""
        each = [one.usage for one in self.attempts]
        return sum(each[1:], each[0]) if each else None

    @property
    def message(self) -> str:
        """What happened, in words, without the name of the route."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return f"{self.route}: {self.message}" if self.route else self.message

    def __repr__(self) -> str:
        facts = [repr(self.message)]
        for name in ("route", "status", "code", "retry_after", *self._extra):
            value = getattr(self, name)
            if value is not None and value is not False and value != ():
                facts.append(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(facts)})"


class RequestRejected(LLMError):
    """The server, or we in its place, will not take this request, however often it is sent."""

    fault = "caller"


class BadRequest(RequestRejected):
    """The request is wrong; the message gives the server's reason."""


class AuthFailed(RequestRejected):
    """The key is missing, wrong, or not allowed to do this. Falls back only where a route opts in."""


class ContentFiltered(RequestRejected):
    """The provider's filter stopped the prompt or the answer, for these `categories` in its own words, if it said."""

    _extra = ("categories",)

    def __init__(self, message: str = "", *, categories: tuple[str, ...] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.categories = categories


class UnsupportedParameter(RequestRejected):
    """The server knows the request but not one of its fields: `parameter`, as the server spells it."""

    _extra = ("parameter",)

    def __init__(self, message: str = "", *, parameter: str | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.parameter = parameter


class ContextOverflow(RequestRejected):
    """The prompt does not fit the window. It was not cut. A route with a larger window is tried.

    Attributes:
        tokens: the size of the prompt in tokens; an estimate unless the server counted.
        limit: the tokens that the window has for it; `None` if the server did not say.
    """

    falls_back = True
    _extra = ("tokens", "limit")

    def __init__(self, message: str = "", *, tokens: int | None = None, limit: int | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.tokens = tokens
        self.limit = limit


class ModelNotFound(RequestRejected):
    """The server does not have this model. Another one may."""

    falls_back = True


class BackendFailed(LLMError):
    """The server, or the way to it, is at fault."""

    fault = "backend"
    retryable = True
    falls_back = True


class ConnectFailed(BackendFailed):
    """No connection, or it broke before the answer began: refused, reset, name not found, TLS."""


class ConnectTimeout(BackendFailed):
    """No connection within `Timeouts.connect`."""


class LoadTimeout(BackendFailed):
    """The model was not in memory within `Timeouts.load`. The load itself goes on."""


class FirstTokenTimeout(BackendFailed):
    """No token within `Timeouts.first_token`, counted from when the model was in memory."""

    retryable = False


class ServerError(BackendFailed):
    """The server says that it failed."""


class Malformed(BackendFailed):
    """The server's bytes are not what its protocol promises."""


class Overloaded(BackendFailed):
    """The server has too much to do. A full local queue is nobody's fault and does not open a breaker."""


class StreamInterrupted(BackendFailed):
    """The answer broke off after it had begun.

    Attributes:
        partial: the text that had arrived. It is not part of `args` or `repr`.
    """

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.partial = ""


class Truncated(StreamInterrupted):
    """The answer ended without the server saying that it was done. Never taken for a short answer."""


class StreamStalled(StreamInterrupted):
    """No token within `Timeouts.between_tokens`."""


class EmptyReply(LLMError):
    """The server said that it was done and had said nothing: no text, no tool call, no reasoning."""

    retryable = True
    falls_back = True


class RateLimited(LLMError):
    """Too many requests or tokens for now.

    Attributes:
        oversize: this request alone is larger than the limit, so waiting never helps.
    """

    retryable = True
    falls_back = True
    _extra = ("oversize",)

    def __init__(self, message: str = "", *, oversize: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.oversize = oversize
        if oversize:
            self.retryable = False


class QuotaExhausted(LLMError):
    """Credits or a daily limit are used up: a 429 with no hope is not a rate limit."""

    falls_back = True


class OutputInvalid(LLMError):
    """What the model wrote cannot be used: an unparsable tool call, an answer outside its schema, a loop.

    Attributes:
        kind: `schema`, `loop`, `whitespace`, `run_on` or `empty`; `None` where the server found it.
        reply: the `ChatReply` that failed the check, where there is a whole one. Not part of `args` or `repr`.
        partial: the text of an answer that was cut here. Not part of them either.
    """

    retryable = True
    _extra = ("kind",)

    def __init__(self, message: str = "", *, kind: OutputFault | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.kind = kind
        self.reply: Any = None
        self.partial = ""


class Rejected(LLMError):
    """Refused here, at once. Nothing was sent."""

    falls_back = True


class CircuitOpen(Rejected):
    """The breaker of this route is open; `retry_after` says until when."""


class DeadlineUnattainable(Rejected):
    """What is left of the deadline cannot be enough; the message gives the reckoning."""


class CircuitOpenTooLong(CircuitOpen, DeadlineUnattainable):
    """The breaker of this route stays open for longer than the call has time; the message says how long both are."""


class NoEligibleRoute(Rejected):
    """No route may take this call: the zone, the vector space or the plan left none. The message says why."""

    falls_back = False


class LimitExceeded(Rejected):
    """A limit of yours on calls, tokens or cost is reached: for your own `plan=` to raise, nothing here does."""

    falls_back = False


class DeadlineExceeded(LLMError, TimeoutError):
    """The deadline came first.

    Attributes:
        phase: what the call was doing: `queue`, `connect`, `load`, `first_token` or `stream`.
        partial: the text that had arrived. It is not part of `args` or `repr`.
    """

    _extra = ("phase",)

    def __init__(self, message: str = "", *, phase: Phase | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.phase = phase
        self.partial = ""


class ConfigError(LLMError, ValueError):
    """An argument is wrong. Raised before anything is sent, where possible when the object is made."""

    fault = "caller"


class ClientClosed(LLMError):
    """The client was closed, or belongs to another event loop."""

    fault = "caller"


class AllRoutesFailed(LLMError):
    """More than one route was tried and none answered.

    Attributes:
        failures: the last error of each route, in order; each carries its own attempts.
        last: the last of them.
        retry_after: the shortest wait that any of them named, in seconds.
    """

    def __init__(self, message: str = "", *, failures: Sequence[LLMError] = (), **facts: Any) -> None:
        self.failures = tuple(failures)
        each = "; ".join(f"{one.route or 'route'}: {type(one).__name__}: {one.message}" for one in self.failures)
        super().__init__(message or f"{len(self.failures)} routes failed: {each}", **facts)
        waits = [error.retry_after for error in self.failures if error.retry_after is not None]
        self.retry_after = min(waits) if waits else None
        if self.failures:
            self.fault = self.last.fault

    @property
    def last(self) -> LLMError:
        """The last failure."""
        return self.failures[-1]
