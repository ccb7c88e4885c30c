"""Both event loops in virtual time, and an SDK whose spans and metrics stay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.engine.kit import Ask, loop_options

from .kit import Otel


@pytest.fixture(params=["asyncio-virtual", "trio-virtual"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return loop_options(request.param)


@pytest.fixture(params=["chat", "stream"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return Ask(request.param)


@pytest.fixture
def otel() -> Iterator[Otel]:
    one = Otel()
    yield one
    one.close()
