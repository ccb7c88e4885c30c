"""Each test of what both fake servers do runs with both."""

from __future__ import annotations

import pytest

from resilient_llm.testing import FakeOllama, FakeOpenAI


@pytest.fixture(params=[FakeOllama, FakeOpenAI])
def kind(request: pytest.FixtureRequest) -> type[FakeOllama | FakeOpenAI]:
    return request.param
