"""Importing the fakes costs nothing and needs nothing: h11 only where a server is made, and never by the library."""

from __future__ import annotations

import subprocess
import sys

import pytest

NO_H11 = "import sys; sys.modules['h11'] = None; "


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_the_library_does_not_import_its_fakes() -> None:
    done = run("import sys, resilient_llm; print([name for name in sys.modules if 'llm.testing' in name])")
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_fakes_starts_nothing_and_imports_no_http_server() -> None:
    code = (
        "import resilient_llm, sys, threading; before = set(sys.modules); import resilient_llm.testing\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(threading.active_count(), sorted(new & {'h11', 'trio', 'pytest', 'hypothesis', 'httpx2'}))"
    )
    assert run(code).stdout.split(maxsplit=1) == ["1", "[]\n"]


def test_a_backend_in_process_works_without_h11() -> None:
    code = (
        "import asyncio; from resilient_llm import AsyncClient; from resilient_llm.testing import FakeBackend, say\n"
        "print(asyncio.run(AsyncClient(FakeBackend(say('hel', 'lo'))).chat('hi')).text)"
    )
    done = run(NO_H11 + code)
    assert done.stdout == "hello\n", done.stderr


@pytest.mark.parametrize("name", ["FakeOllama", "FakeOpenAI"])
def test_a_server_without_h11_says_what_to_install(name: str) -> None:
    done = run(NO_H11 + f"from resilient_llm.testing import {name}; {name}()")
    assert "ImportError: the fake servers need h11: pip install 'resilient-llm[testing]'" in done.stderr
