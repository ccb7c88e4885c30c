"""Importing the package does no work: no file of the user's, no socket, no thread, nothing that is not needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import resilient_llm

PROBE = """
import json, sys, threading
sys.path.insert(0, sys.argv[1])
sys.modules["trio"] = None  # httpcore2 imports it where it is installed, and it asks ldconfig for a library
seen = []
sys.addaudithook(lambda event, args: seen.append((event, str(args[0]) if args else "")))
import resilient_llm
ours = ("site-packages", "/lib/python", "src/resilient_llm")
opened = [name for event, name in seen if event == "open" and not any(part in name for part in ours)]
print(json.dumps({
    "modules": sorted(sys.modules),
    "sockets": [event for event, _ in seen if event in ("socket.connect", "socket.bind", "socket.getaddrinfo")],
    "threads": threading.active_count(),
    "opened": [name for name in opened if not name.isdigit()],
    "processes": [event for event, _ in seen if event in ("subprocess.Popen", "os.system", "os.fork")],
}))
"""


def imported() -> dict[str, object]:
    tree = str(Path(resilient_llm.__file__).parents[1])  # the one that is tested, whichever is installed
    done = subprocess.run([sys.executable, "-I", "-c", PROBE, tree], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_importing_opens_nothing_and_starts_nothing() -> None:
    found = imported()
    assert found["sockets"] == []
    assert found["processes"] == []
    assert found["threads"] == 1
    assert found["opened"] == []


def test_importing_loads_only_what_a_call_needs() -> None:
    modules = imported()["modules"]
    assert isinstance(modules, list)
    http = {"httpx", "httpx2", "httpcore2", "h11"}  # comes with the first backend
    unwanted = http | {
        "tenacity",
        "opentelemetry.trace",
        "opentelemetry.metrics",
        "opentelemetry.sdk",
        "numpy",
        "resilient_llm.testing",
        "resilient_llm.telemetry",  # while nobody listens
    }
    assert not unwanted & set(modules)
