"""Both event loops in virtual time, unless a module says `REAL`; each call as chat and as stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.accounts import TINY
from tests.telemetry.kit import Otel, check

from resilient_llm._hub import Hub
from resilient_llm.telemetry._sent import LATER
from resilient_llm.testing import FakeBackend

from .kit import LATE, SENT, Ask, loop_options


@pytest.fixture(params=["asyncio-virtual", "trio-virtual"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return loop_options(request.param)


@pytest.fixture(params=["chat", "stream"])
def ask(request: pytest.FixtureRequest) -> Ask:
    virtual = "virtual" in request.node.name
    return Ask(request.param, TINY if virtual else LATE)


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """But on trio every scenario is told to an SDK as well; what must hold of a trace holds of all of them."""
    if "trio" in request.node.name:
        yield
        return
    otel, begin = Otel(), Hub.begin

    def begun(hub: Hub, legs: Any) -> None:
        if hub._given == (None, None):
            hub._given, hub._asked_for = (otel.tracer_provider, otel.meter_provider), True
        begin(hub, legs)

    monkeypatch.setattr(Hub, "begin", begun)
    yield
    LATER.settle()  # of a stream whose event loop is gone
    check(otel)
    otel.close()


@pytest.fixture(autouse=True)
def what_was_sent_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the backends themselves, for `Ask` to compare it with the attempts that are told."""
    begin = FakeBackend._begin

    def begun(backend: FakeBackend, request: Any, *, stream: bool) -> Any:
        if (sent := SENT.get()) is not None:
            sent.append(backend)
        return begin(backend, request, stream=stream)

    monkeypatch.setattr(FakeBackend, "_begin", begun)
