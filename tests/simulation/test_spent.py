"""What a call cost in all, whatever became of its attempts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_llm import LLMError, Route, Usage
from resilient_llm.errors import OutputInvalid, ServerError
from resilient_llm.testing import FakeBackend, cut, ends, fail, say

from ..engine.kit import VirtualLoop, client, unlimited  # noqa: TID252  # tests are no package that could be named

COUNTS = st.builds(Usage, st.integers(1, 500), st.integers(0, 500))
WAYS = st.one_of(
    COUNTS.map(lambda counted: (counted, say("no number", usage=counted))),  # not of the type: asked for once more
    COUNTS.map(lambda counted: (counted, say(usage=counted))),  # nothing was said: asked for once more
    COUNTS.map(lambda counted: (counted, say("4", "2", usage=counted))),  # an answer
    st.sampled_from([fail(ServerError("no")), fail(ServerError("no"), after=["4"]), cut("4"), ends("4")]).map(
        lambda step: (Usage(), step)  # the server went down before it had counted
    ),
)


@pytest.mark.invariant(44)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WAYS, min_size=1, max_size=5), min_size=1, max_size=3))
def test_what_was_used_and_what_was_wasted_add_up_to_what_the_servers_counted(
    scripts: list[list[tuple[Usage, Any]]],
) -> None:
    async def work() -> None:
        backends = [
            FakeBackend(*(step for _, step in script), name=str(number)) for number, script in enumerate(scripts)
        ]
        routes = [Route(one, budget=unlimited(), falls_back_on=(OutputInvalid,)) for one in backends]
        try:
            reply: Any = await client(*routes).parse("hi", int)
        except LLMError as error:
            reply, used = error, Usage()
        else:
            used = reply.usage
        counted = Usage()
        for backend, script in zip(backends, scripts, strict=True):
            for number in range(backend.opened):
                counted += script[min(number, len(script) - 1)][0]  # the last step repeats
        wasted = sum((one.usage for one in reply.attempts if one.error is not None), Usage())
        assert reply.spent == counted
        assert used + wasted == counted

    loop = VirtualLoop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
