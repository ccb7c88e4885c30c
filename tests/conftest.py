"""What every test stands on: two event loops, virtual time where it can be had, and a gate that finds what was left."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

from resilient_llm._detached import Detached, Job

# No test fails because the machine is busy.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
ASYNCIO = pytest.param(("asyncio", {}), id="asyncio")
VIRTUAL = pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio-virtual")
TRIO = pytest.param(("trio", {}), id="trio")


@pytest.fixture(params=[ASYNCIO, TRIO])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Both event loops in real time; a test that wants virtual time asks for `virtual` by parametrization."""
    return request.param


def _sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _pooled(thread: threading.Thread) -> bool:
    """It waits for more work of its event loop: trio keeps a thread that has looked up a name for 10 s."""
    return "worker" in thread.name.lower() or thread.name.startswith("Trio thread")


@pytest.fixture
def detached_jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The tasks that the library starts by itself during the test: it has no others that outlive a call."""
    jobs: list[Job] = []
    spawn = Detached.spawn

    def watched(owner: Detached, work: Callable[[], Awaitable[None]]) -> Job:
        jobs.append(job := spawn(owner, work))
        return job

    monkeypatch.setattr(Detached, "spawn", watched)
    return jobs


@pytest.fixture(autouse=True)
def nothing_is_left(detached_jobs: list[Job]) -> Iterator[None]:
    """After a test no socket, no thread and no task is there that was not there before it.

    What the garbage collector has to find, or a thread has to end, gets a second; a leak does not go away. A generator
    that was not closed is found by the event loops themselves: their warnings are errors.
    """
    sockets, threads = _sockets(), set(threading.enumerate())
    yield
    end = time.monotonic() + 2
    while True:
        left = {one for one in set(threading.enumerate()) - threads if not _pooled(one)}
        open_sockets = _sockets() - sockets
        running = [job for job in detached_jobs if not job.done.is_set()]
        if not left and not open_sockets and not running:
            return
        if time.monotonic() > end:
            break
        gc.collect()
        time.sleep(0.01)
    assert not left, f"threads left behind: {left}"
    assert not open_sockets, f"sockets left behind: {len(open_sockets)}"
    assert not running, f"tasks left behind: {len(running)}"
