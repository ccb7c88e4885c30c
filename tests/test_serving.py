"""For people who serve: the deadline of a request that came in, and the status of an error that goes out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

import resilient_llm.errors
from resilient_llm import AsyncClient, DeadlineExceeded, LLMError, Route, Timeouts, deadline
from resilient_llm.errors import (
    AllRoutesFailed,
    AuthFailed,
    CircuitOpen,
    ConnectFailed,
    FirstTokenTimeout,
    Overloaded,
    RateLimited,
    ServerError,
)
from resilient_llm.serving import STATUS, deadline_from, http_status
from resilient_llm.testing import FakeBackend, fail, hang

from .conftest import VIRTUAL

pytestmark = pytest.mark.anyio
LONG = Timeouts(connect=1e6, load=1e6, first_token=1e6, between_tokens=1e6)


class Headers(Mapping[str, str]):
    """What web frameworks have: written in any case, found in any case."""

    def __init__(self, **values: str) -> None:
        self._values = {name.replace("_", "-"): value for name, value in values.items()}

    def __getitem__(self, name: str) -> str:
        return {key.lower(): value for key, value in self._values.items()}[name.lower()]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


async def ends_after(headers: Mapping[str, str], outer: float = 1e6) -> float:
    """Seconds until a call to a server that hangs is ended by the deadline of these headers."""
    llm = AsyncClient(Route(FakeBackend(hang()), timeouts=LONG), clock=anyio.current_time)
    began = anyio.current_time()
    clock = anyio.current_time
    with pytest.raises(DeadlineExceeded), deadline(outer, clock=clock), deadline_from(headers, clock=clock):
        await llm.chat("hi")
    return anyio.current_time() - began


@pytest.mark.parametrize("anyio_backend", [VIRTUAL], indirect=True)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"X-Request-Timeout-Ms": "6000"}, 6),
        (Headers(x_request_TIMEOUT_ms="7000"), 7),
        ({"grpc-timeout": "8S"}, 8),
        ({"X-REQUEST-TIMEOUT-MS": "900000"}, 900),
    ],
)
async def test_a_call_ends_when_whoever_asked_stops_waiting(headers: Mapping[str, str], seconds: float) -> None:
    assert await ends_after(headers) == pytest.approx(seconds)


@pytest.mark.parametrize("anyio_backend", [VIRTUAL], indirect=True)
@pytest.mark.parametrize("value", ["900001", "9999999999", "0", "never"])
async def test_a_header_never_gives_more_time_than_there_is_without_it(value: str) -> None:
    llm = AsyncClient(Route(FakeBackend(hang()), timeouts=LONG), clock=anyio.current_time)
    began = anyio.current_time()
    with pytest.raises(DeadlineExceeded), deadline_from({"x-request-timeout-ms": value}, clock=anyio.current_time):
        await llm.chat("hi")
    assert anyio.current_time() - began == pytest.approx(120)  # the default of a hosted route


@pytest.mark.parametrize("anyio_backend", [VIRTUAL], indirect=True)
@pytest.mark.parametrize(("inner", "outer", "seconds"), [("6000", 9, 6), ("9000", 6, 6)])
async def test_the_earliest_of_several_deadlines_holds(inner: str, outer: float, seconds: float) -> None:
    assert await ends_after({"x-request-timeout-ms": inner}, outer) == pytest.approx(seconds)


@pytest.mark.parametrize("anyio_backend", [VIRTUAL], indirect=True)
async def test_it_counts_from_when_the_block_is_entered() -> None:
    block = deadline_from({"x-request-timeout-ms": "6000"}, clock=anyio.current_time)
    await anyio.sleep(100)
    began = anyio.current_time()
    llm = AsyncClient(Route(FakeBackend(hang()), timeouts=LONG), clock=anyio.current_time)
    with pytest.raises(DeadlineExceeded), block:
        await llm.chat("hi")
    assert anyio.current_time() - began == pytest.approx(6)


EXPECTED = {
    # The request is at fault, and sending it again does not help.
    400: ["RequestRejected", "BadRequest", "UnsupportedParameter", "ConfigError"],
    413: ["ContextOverflow"],
    422: ["ContentFiltered"],
    # Too much was asked for: come back later.
    429: ["RateLimited", "LimitExceeded"],
    # We are at fault.
    500: ["LLMError", "AuthFailed", "ModelNotFound", "NoEligibleRoute", "AllRoutesFailed"],
    # Whom we ask is at fault.
    502: [
        "BackendFailed", "ConnectFailed", "ServerError", "Malformed", "StreamInterrupted", "Truncated", "EmptyReply",
        "OutputInvalid",
    ],
    # Not now.
    503: [
        "Overloaded", "QuotaExhausted", "Rejected", "CircuitOpen", "CircuitOpenTooLong", "DeadlineUnattainable",
        "ClientClosed",
    ],
    # Not in time.
    504: ["ConnectTimeout", "LoadTimeout", "FirstTokenTimeout", "StreamStalled", "DeadlineExceeded"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "status"), [(name, status) for status in EXPECTED for name in EXPECTED[status]])
def test_every_error_has_a_status(name: str, status: int) -> None:
    error = getattr(resilient_llm.errors, name)("what happened")
    assert http_status(error) == (status, {})


def test_the_table_leaves_no_error_out() -> None:
    assert sorted(name for names in EXPECTED.values() for name in names) == sorted(resilient_llm.errors.__all__)


def test_the_table_is_for_reading() -> None:
    with pytest.raises(TypeError):
        STATUS[LLMError] = 200  # type: ignore[index]


def test_a_request_that_is_too_large_for_the_limit_is_not_asked_to_come_back() -> None:
    assert http_status(RateLimited("too many tokens", oversize=True)) == (413, {})


@pytest.mark.parametrize(
    ("seconds", "value"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.001, "2"), (30, "30"), (86400.5, "86401")]
)
def test_retry_after_is_in_whole_seconds_and_never_early(seconds: float, value: str) -> None:
    assert http_status(CircuitOpen("open", retry_after=seconds)) == (503, {"Retry-After": value})


@pytest.mark.parametrize("seconds", [None, -1.0, math.inf, math.nan])
def test_without_a_time_to_come_back_there_is_no_header(seconds: float | None) -> None:
    assert http_status(Overloaded("busy", retry_after=seconds)) == (503, {})


def test_of_several_failures_the_last_gives_the_status_and_the_earliest_the_time_to_come_back() -> None:
    failures = [RateLimited("slow", retry_after=40), CircuitOpen("open", retry_after=4.5), FirstTokenTimeout("late")]
    assert http_status(AllRoutesFailed(failures=failures)) == (504, {"Retry-After": "5"})
    nested = AllRoutesFailed(failures=[AllRoutesFailed(failures=[ConnectFailed("refused")])])
    assert http_status(nested) == (502, {})


def test_a_kind_of_error_of_the_users_own_has_the_status_of_its_nearest_class() -> None:
    class Mine(AuthFailed): ...

    assert http_status(Mine("no")) == (500, {})


@pytest.mark.parametrize("anyio_backend", [VIRTUAL], indirect=True)
async def test_what_a_client_raises_has_a_status() -> None:
    llm = AsyncClient(
        FakeBackend(fail(ServerError("no")), name="a"),
        FakeBackend(fail(RateLimited("slow", retry_after=500)), name="b"),
        clock=anyio.current_time,
    )
    with pytest.raises(LLMError) as caught:
        await llm.chat("hi", timeout=10)
    assert http_status(caught.value) == (429, {"Retry-After": "500"})
