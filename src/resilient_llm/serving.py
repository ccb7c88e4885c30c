"""For people who serve: the deadline that came in with a request, and how an error goes out over HTTP.

    @app.post("/ask")
    async def ask(request: Request) -> Response:
        try:
            with deadline_from(request.headers):
                return JSONResponse((await llm.chat(await request.json())).text)
        except LLMError as error:
            status, headers = http_status(error)
            return JSONResponse({"error": type(error).__name__}, status, headers)

Both are data: nothing here knows a web framework. An error's message may quote a server, so it is not part of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType

from resilient_llm._deadline import CEILING, Clock, deadline
from resilient_llm._errors import (
    AllRoutesFailed,
    AuthFailed,
    BackendFailed,
    ClientClosed,
    ConfigError,
    ConnectTimeout,
    ContentFiltered,
    ContextOverflow,
    DeadlineExceeded,
    EmptyReply,
    FirstTokenTimeout,
    LimitExceeded,
    LLMError,
    LoadTimeout,
    ModelNotFound,
    NoEligibleRoute,
    OutputInvalid,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    Rejected,
    RequestRejected,
    StreamStalled,
)
from resilient_llm.wire._patience import seconds_left

__all__ = ["STATUS", "deadline_from", "http_status"]

STATUS: Mapping[type[LLMError], int] = MappingProxyType(
    {
        LLMError: 500,
        RequestRejected: 400,
        AuthFailed: 500,  # our key, not that of who asks us: a 401 would have them look for a mistake of theirs
        ModelNotFound: 500,  # our configuration, likewise
        ContentFiltered: 422,
        ContextOverflow: 413,
        BackendFailed: 502,
        ConnectTimeout: 504,
        LoadTimeout: 504,
        FirstTokenTimeout: 504,
        StreamStalled: 504,
        Overloaded: 503,
        EmptyReply: 502,
        OutputInvalid: 502,
        RateLimited: 429,  # 413 if it is `oversize`; not 503, which would have a balancer take this server out
        LimitExceeded: 429,
        QuotaExhausted: 503,
        Rejected: 503,
        NoEligibleRoute: 500,
        DeadlineExceeded: 504,
        ConfigError: 400,  # what a client's request can still get wrong: the arguments made of it
        ClientClosed: 503,
    }
)
"""The status of each kind of error; the nearest class counts. `AllRoutesFailed` has that of its last failure."""


def deadline_from(headers: Mapping[str, str], *, clock: Clock = time.monotonic) -> AbstractContextManager[None]:
    """Every call inside this block ends when whoever sent these headers stops waiting.

    It only tightens: other deadlines hold as well, and a wait above 15 minutes, which every call ends by anyway, says
    nothing. Without a header that can be read nothing changes. To limit all calls, say so: `with deadline(60),
    deadline_from(request.headers):`.

    Args:
        headers: of the request that came in. Read are `X-Request-Timeout-Ms`, `Connect-Timeout-Ms` (Connect),
            `X-Envoy-Expected-Rq-Timeout-Ms` (Envoy) and `Grpc-Timeout` (gRPC); the least of them counts, from when
            the block is entered.
        clock: as for `deadline`.
    """
    left = seconds_left({name.lower(): value for name, value in headers.items()})
    return nullcontext() if left is None or left > CEILING else deadline(left, clock=clock)


def http_status(error: LLMError) -> tuple[int, dict[str, str]]:
    """The status that tells a client of ours what happened, and the headers that go with it.

    `Retry-After` is there if the error says when it is worth coming back: whole seconds, never early.
    """
    after = error.retry_after
    headers = {"Retry-After": str(max(1, math.ceil(after)))} if after is not None and 0 <= after < math.inf else {}
    while isinstance(error, AllRoutesFailed) and error.failures:
        error = error.last
    if isinstance(error, RateLimited) and error.oversize:
        return STATUS[ContextOverflow], headers
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), headers
