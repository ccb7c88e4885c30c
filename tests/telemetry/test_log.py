"""For people without traces: a line for a call that did not go by itself, and for a breaker that moves on."""

from __future__ import annotations

import logging
import subprocess
import sys

import anyio
import pytest
from opentelemetry import trace
from tests.engine.kit import Ask, client, error_of

from resilient_llm import CircuitBreaker, Retry, Route
from resilient_llm.errors import AllRoutesFailed, ConnectFailed, LLMError, RateLimited
from resilient_llm.telemetry import _semconv as names
from resilient_llm.testing import FakeBackend, fail, say

from .kit import Otel

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)
SECRET = "the patient is Ms Miller"


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.levelno >= logging.INFO]


async def test_a_call_that_went_by_itself_is_not_mentioned(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await ask(client(FakeBackend()))
    await client(FakeBackend()).embed(["text"] * 600)
    assert lines(caplog) == []


async def test_a_call_that_was_rescued(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    dead = Route(FakeBackend(fail(ConnectFailed("no")), name="dead"), retry=ONCE)
    await ask(client(dead, FakeBackend(say(SECRET), name="well")), SECRET)
    assert lines(caplog) == [("WARNING", f"{ask.way} rescued: 2 attempts: dead ConnectFailed 0.0 s, ok 0.0 s")]
    (record,) = caplog.records
    found = vars(record)
    assert (found[names.ROUTE], found[names.ATTEMPTS], found[names.OPERATION]) == ("well", 2, "chat")


async def test_a_call_that_was_lost(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    routes = [Route(FakeBackend(fail(RateLimited("later")), name=name), retry=ONCE) for name in "ab"]
    await error_of(ask(client(*routes), SECRET), AllRoutesFailed)
    expected = f"{ask.way} lost: AllRoutesFailed: 2 attempts: a RateLimited 0.0 s, b RateLimited 0.0 s"
    assert lines(caplog) == [("WARNING", expected)]
    assert vars(caplog.records[0])[names.ERROR_TYPE] == "all_routes_failed"


async def test_a_call_that_its_caller_ended_is_not_mentioned(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    llm = client(FakeBackend(say("a", "b", gap=9.0)))
    with anyio.move_on_after(1):
        await ask(llm)
    async with llm.stream("hi") as stream:
        await anext(stream)
    assert lines(caplog) == []


async def test_a_breaker_that_moves_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backend = FakeBackend(fail(ConnectFailed("no")), say("yes"))
    llm = client(Route(backend, retry=ONCE, breaker=CircuitBreaker(failures=1, cooldown=5, successes=1)))
    await error_of(llm.chat("hi"))
    await anyio.sleep(6)
    await llm.chat("hi")
    told = [line for line in lines(caplog) if "breaker" in line[1]]
    assert told == [
        ("WARNING", "circuit breaker of fake: closed to open: 1 failure in a row"),
        ("INFO", "circuit breaker of fake: open to half-open: the cooldown is over"),
        ("INFO", "circuit breaker of fake: half-open to closed: 1 probes in a row succeeded"),
    ]
    first = next(vars(one) for one in caplog.records if "breaker" in one.getMessage())
    assert (first[names.BREAKER], first[names.BREAKER_FROM], first[names.BREAKER_TO]) == ("fake", "closed", "open")


async def test_a_line_stands_in_the_trace_of_its_call(otel: Otel) -> None:
    spans: list[int] = []

    class Correlated(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            spans.append(trace.get_current_span().get_span_context().span_id)

    logger, handler = logging.getLogger("resilient_llm"), Correlated(logging.WARNING)
    logger.addHandler(handler)
    try:
        with pytest.raises(LLMError):
            await otel.client(Route(FakeBackend(fail(LLMError("no"))), retry=ONCE)).chat("hi")
    finally:
        logger.removeHandler(handler)
    assert spans == [otel.call.context.span_id]


def test_nothing_is_printed_by_an_application_without_logging() -> None:
    code = """
from resilient_llm import Client
from resilient_llm.errors import LLMError
from resilient_llm.testing import FakeBackend, fail
with Client(FakeBackend(fail(LLMError("no")))) as llm:
    try: llm.chat("hi")
    except LLMError: pass
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
