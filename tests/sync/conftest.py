"""What the tests of the sync client share: processes of their own, and threads whose work may never end."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from textwrap import dedent
from typing import Any

import pytest

BOUND = 20.0  # seconds; what must happen takes milliseconds, this only ends a test that has failed


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python with this script, for what a signal, an exit or a fork does; ends it at last in any case."""
    started: list[tuple[subprocess.Popen[str], threading.Timer]] = []

    def start(script: str, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        # A shell starts what it runs in the background with interrupts ignored, which is inherited.
        heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        command = [sys.executable, "-c", heeding + dedent(script), *arguments]
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        watchdog = threading.Timer(BOUND, child.kill)
        watchdog.start()
        started.append((child, watchdog))
        return child

    yield start
    for child, watchdog in started:
        watchdog.cancel()
        watchdog.join()
        child.kill()
        child.communicate()


class Worker:
    """A function in a thread of its own; what it returned or raised is asked for with `result`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._function, self._arguments = function, arguments
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="worker of a test")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function(*self._arguments)
        except BaseException as error:
            self._error = error

    def result(self, seconds: float = 5.0) -> Any:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"it has not ended within {seconds:g} s"
        if self._error is not None:
            raise self._error
        return self._value


@pytest.fixture
def worker() -> type[Worker]:
    return Worker
