"""What is kept of the deadline for the next route stays kept, also while the route before it waits to try again."""

from __future__ import annotations

import pytest
from tenacity import wait_fixed

from resilient_llm import Retry, Route
from resilient_llm.errors import ServerError
from resilient_llm.testing import FakeBackend, fail, say

from .kit import Ask, client

pytestmark = pytest.mark.anyio


async def test_a_wait_between_attempts_cannot_starve_the_next_route(ask: Ask) -> None:
    first = FakeBackend(fail(ServerError("no")), name="first")
    second = FakeBackend(say("yes", first=2.4), name="second")
    waiting = Route(first, retry=Retry(wait=wait_fixed(2.8)))  # patience would allow it: half of the deadline does not
    reply = await ask(client(waiting, second), timeout=5)
    assert (reply.text, reply.route, first.opened) == ("yes", "second", 1)
