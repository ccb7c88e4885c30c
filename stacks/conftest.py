"""Starts the stacks and ends them, by process and not by name."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REAL = ROOT / ".real"
SHOTS = ROOT / "docs" / "observability"
PATIENCE = 240.0  # seconds until a stack that is started for the first time must answer, on a machine that is busy


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def program(name: str, folder: str | None = None) -> str:
    """Where it is; the test is skipped where it is not."""
    path = str(REAL / folder / "bin" / name) if folder else shutil.which(name)
    if path is None or not Path(path).exists():
        pytest.skip(f"{name} cannot be had here")
    return path


@contextmanager
def running(command: list[str], ready: str, folder: Path, **environment: str) -> Iterator[None]:
    """The server, from when `ready` answers; it ends with all that it started."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            end = time.monotonic() + PATIENCE
            while not answers(ready):
                assert server.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < end, f"{command[0]} does not answer"
                time.sleep(0.2)
            yield
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def shoot(url: str, name: str, folder: Path) -> None:
    """A picture of a page into the documentation, if there is a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        return
    picture = folder / f"{name}.png"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-prefers-reduced-motion",
        f"--user-data-dir={folder / 'browser'}", "--window-size=1400,900", "--virtual-time-budget=60000",
        f"--screenshot={picture}", url,
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=180, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.copy(picture, SHOTS / picture.name)
