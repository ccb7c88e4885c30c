"""Importing the package does no work: no file of the user's, no socket, no thread, nothing that is not needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("use", "kind", "other"),
    [
        ("resilient_llm.Ollama", "ollama", "openai"),
        ("resilient_llm.AsyncClient('ollama:m')", "ollama", "openai"),
        ("resilient_llm.OpenAICompatible('m', base_url='http://h/v1')", "openai", "ollama"),
        ("resilient_llm.AsyncClient('vllm:m')", "openai", "ollama"),
    ],
)
def test_a_backend_comes_with_its_first_use_and_without_the_other(use: str, kind: str, other: str) -> None:
    code = f"""
import sys, resilient_llm
there = {{"ollama", "openai"}} & {{name.rpartition(".")[2] for name in sys.modules if ".backends." in name}}
assert not there, there
{use}
assert "resilient_llm.backends.{kind}" in sys.modules
assert "resilient_llm.backends.{other}" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_comes_later_is_listed_and_what_is_not_there_is_named() -> None:
    code = """
import resilient_llm
assert set(resilient_llm.__all__) <= set(dir(resilient_llm))
from resilient_llm import *
assert Ollama is resilient_llm.Ollama
try:
    resilient_llm.Olama
except AttributeError as error:
    assert "Olama" in str(error) and "resilient_llm" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
