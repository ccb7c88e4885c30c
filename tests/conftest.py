"""What every test stands on: two event loops, virtual time where it can be had, and a gate that finds what was left."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

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


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test no socket and no thread is there that was not there before it.

    What the garbage collector has to find, or a thread has to end, gets a second; a leak does not go away.
    """
    sockets, threads = _sockets(), set(threading.enumerate())
    yield
    end = time.monotonic() + 2
    while True:
        left = {one for one in set(threading.enumerate()) - threads if not _pooled(one)}
        open_sockets = _sockets() - sockets
        if not left and not open_sockets:
            return
        if time.monotonic() > end:
            break
        gc.collect()
        time.sleep(0.01)
    assert not left, f"threads left behind: {left}"
    assert not open_sockets, f"sockets left behind: {len(open_sockets)}"
