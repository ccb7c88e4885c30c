"""Moments that are too short to be hit from outside, each made to last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anyio
import pytest

from resilient_llm._portal import Errand, Portal
from resilient_llm._sync_stream import AHEAD, _Pump
from resilient_llm.errors import ClientClosed


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.end(asyncio.sleep(0))


async def forty_two() -> int:
    await anyio.sleep(0)
    return 42


def test_an_errand_brings_its_result(portal: Portal) -> None:
    errand = Errand(forty_two())
    portal.begin(errand)
    assert errand.result() == 42
    assert errand.done


def test_an_errand_that_is_cancelled_while_it_is_being_begun_ends(portal: Portal) -> None:
    """An interrupt may come when the loop has the errand and has not looked at it yet."""
    errand = Errand(forty_two())
    errand.portal = portal
    errand.cancel("too late")
    portal.begin(errand)
    with pytest.raises(ClientClosed, match="too late"):
        errand.result()


def test_an_errand_that_was_never_begun_is_cancelled_in_silence() -> None:
    """Python would warn of a coroutine that nobody awaited."""
    errand = Errand(forty_two())
    errand.cancel("not wanted")
    errand.end("not wanted")
    assert errand.done


def test_a_loop_that_ends_under_an_errand_is_a_typed_error() -> None:
    portal, errand = Portal(), Errand(anyio.sleep(60))
    portal.begin(errand)
    portal.stop()
    with pytest.raises(ClientClosed, match="event loop has ended"):
        errand.result()


def test_a_loop_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_files(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(anyio, "run", no_more_files)
    with pytest.raises(OSError, match="too many"):
        Portal()


def test_a_queue_that_is_emptied_just_before_the_pump_waits_does_not_stop_it() -> None:
    """Its reader saw nothing that waits, and will not come again: there is nothing left to read."""
    pump = _Pump(None)  # type: ignore[arg-type]  # no stream is needed to wait

    async def main() -> None:
        for _ in range(AHEAD // 2 - 1):
            pump.queue.put("an event")
        with anyio.fail_after(2):
            await pump._wait_for_room()

    asyncio.run(main())


def test_an_errand_for_a_loop_that_has_ended_is_a_typed_error() -> None:
    portal, errand = Portal(), Errand(forty_two())
    portal.stop()
    portal._thread.join(5)
    with pytest.raises(ClientClosed, match="event loop has ended"):
        portal.begin(errand)
    errand._work.close()


def test_an_errand_that_the_loop_took_and_never_looked_at_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came after the loop's last round, and before the loop was closed."""
    portal, errand = Portal(), Errand(forty_two())
    monkeypatch.setattr(portal, "_start", lambda _: None)
    portal.begin(errand)
    portal.stop()
    with pytest.raises(ClientClosed, match="event loop has ended"):
        errand.result()
