"""A load in the midst of a call is a load and no hang, and no excuse for one. A whole Ollama in virtual time."""

from __future__ import annotations

import anyio
import pytest

from resilient_llm import AsyncClient, Retry, Route, Timeouts
from resilient_llm.errors import FirstTokenTimeout
from resilient_llm.testing import Fault

from .box import Box, ollama, slow_disk
from .kit import Ask, client, error_of

pytestmark = pytest.mark.anyio
LOAD = 60.0  # seconds


def impatient(host: Box) -> AsyncClient:
    return client(Route(ollama(host), timeouts=Timeouts(load=120, first_token=8), retry=Retry(attempts=1)))


async def test_what_has_to_be_loaded_anew_in_mid_call_is_a_load_and_no_slow_first_token(ask: Ask) -> None:
    host = slow_disk(LOAD)
    async with impatient(host) as llm:
        await llm.warm_up()
        first = await ask(llm)
        host.evict()
        await anyio.sleep(5)
        second = await ask(llm)
    assert (first.degraded, second.degraded) == ((), ("reloaded",))
    assert second.timings.load == pytest.approx(LOAD, abs=3)  # after a second of silence it is asked what the reason is
    assert second.timings.server_load == pytest.approx(LOAD, abs=3)
    assert second.timings.server_queue == pytest.approx(0, abs=1)


async def test_that_another_client_of_the_same_backend_was_closed_changes_nothing_of_that(ask: Ask) -> None:
    host = slow_disk(LOAD)
    backend = ollama(host)
    limits = Timeouts(load=120, first_token=8)
    async with client(Route(backend, timeouts=limits)) as one:
        await ask(one)  # and is closed before a silent attempt would have been asked about
    async with client(Route(backend, timeouts=limits, retry=Retry(attempts=1))) as other:
        await ask(other)
        host.evict()
        await anyio.sleep(5)
        assert (await ask(other)).timings.load == pytest.approx(LOAD, abs=3)


async def test_a_hang_with_the_model_in_memory_stays_a_slow_first_token(ask: Ask) -> None:
    host = slow_disk(LOAD)
    host.inject(Fault("hang", request=2))
    async with impatient(host) as llm:
        await llm.warm_up()
        before = host.paths.count("/api/ps")
        error = await error_of(ask(llm, timeout=100), FirstTokenTimeout)
    assert error.attempts[0].total == pytest.approx(8, abs=0.1)
    assert (error.attempts[0].load or 0) < 1
    assert host.paths.count("/api/ps") - before >= 6  # while there was silence


async def test_a_load_that_a_caller_began_and_left_is_completed_for_the_next(ask: Ask) -> None:
    host = slow_disk(LOAD)
    async with impatient(host) as llm:
        await ask(llm)
        host.evict()
        await anyio.sleep(5)
        with anyio.move_on_after(5) as scope:
            await ask(llm)
        assert scope.cancelled_caught
        await anyio.sleep(LOAD + 5)
        loads = [one.outcome for one in host.loads]
        assert loads == ["completed", "aborted", "completed"]  # Ollama aborts what its caller left; ours begins it anew
        reply = await ask(llm)
        assert (reply.text, len(host.loads)) == ("You said: hi", 3)
        assert reply.timings.total < 1


async def test_a_server_that_is_always_loading_is_not_excused_for_ever(ask: Ask) -> None:
    host = slow_disk(LOAD)
    host.inject(Fault("hang", request=2))

    async def evict() -> None:
        while True:
            host.evict()
            await anyio.sleep(0.5)

    async with impatient(host) as llm, anyio.create_task_group() as group:
        await llm.warm_up()
        group.start_soon(evict)
        error = await error_of(ask(llm, timeout=600), FirstTokenTimeout)
        group.cancel_scope.cancel()
    assert error.attempts[0].load > LOAD - 5
    assert error.attempts[0].total < 2 * LOAD
