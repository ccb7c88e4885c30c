"""Both event loops in virtual time, unless a module says `REAL`; each call as chat and as stream."""

from __future__ import annotations

from typing import Any

import pytest

from .kit import Ask, loop_options


@pytest.fixture(params=["asyncio-virtual", "trio-virtual"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return loop_options(request.param)


@pytest.fixture(params=["chat", "stream"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return Ask(request.param)
