"""The demo against a real Ollama: the same scenes, with nothing simulated on the local side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from . import ollama
from .helpers import LOST, answers
from .script import SCRIPT, Kind

ROOT = Path(__file__).parents[2]


def test_the_demo_uses_a_real_ollama_where_one_answers(model: Callable[[Kind], Path], tmp_path: Path) -> None:
    reason = ollama.missing()
    if reason is not None:
        pytest.skip(reason)
    with ollama.ollama_server({"scripted": model("scripted")}, tmp_path) as server:
        command = [sys.executable, "-W", "error", "-m", "examples.demo"]
        environment = {**os.environ, "OLLAMA_HOST": server.url, "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=60)
        if done.returncode and not answers(server, "scripted"):
            pytest.xfail(LOST)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"scripted:latest on the real Ollama at {server.url}" in done.stdout
    assert SCRIPT in done.stdout
    assert "The hosted server is SIMULATED" in done.stdout
    assert "both servers are SIMULATED" not in done.stdout
