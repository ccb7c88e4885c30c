"""What the pages say is true: their code runs, what they say it prints it prints, and their links lead somewhere.

The blocks of a page marked `python` run in its order and in one namespace, with `await` at the top level as in a
notebook. A block marked `text` right after one is what that prints. A block that defines tests is run by pytest.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import AsyncClient

from .conftest import ROOT, Servers

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?")
TESTS = re.compile(r"(?m)^(async )?def test_")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
KNOBS = {"Timeouts", "Retry", "RetryBudget", "CircuitBreaker", "Bulkhead", "ContextGuard"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path) -> Iterator[tuple[str, str | None]]:
    """The code of each block, on the lines that it has on the page, and what it is said to print."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        language, code, printed = block.groups()
        if language == "python":
            yield "\n" * text[: block.start(2)].count("\n") + code, printed


def run(code: str, page: Path, names: dict[str, Any], loop: asyncio.Runner) -> str:
    """Runs a block, and gives what it prints."""
    compiled = compile(code, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    with redirect_stdout(io.StringIO()) as output:
        result = eval(compiled, names)
        if compiled.co_flags & inspect.CO_COROUTINE:
            loop.run(result)
    return output.getvalue()


@each_page
def test_the_code_on_a_page_runs(page: Path, servers: Servers, tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    with asyncio.Runner() as loop:
        for code, printed in blocks(page):
            if TESTS.search(code):
                (tmp_path / "test_page.py").write_text(code)
                command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:asyncio", "test_page.py"]
                done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, done.stdout
            else:
                assert printed in (run(code, page, names, loop), None)
        for client in (value for value in names.values() if isinstance(value, AsyncClient)):
            loop.run(client.aclose())


@each_page
def test_the_links_of_a_page_lead_to_something(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_shows_at_most_five_knobs() -> None:
    used = set()  # without those of a `Route`, which only says where the others go
    for code, _ in blocks(ROOT / "README.md"):
        for call in ast.walk(ast.parse(code)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in KNOBS:
                used |= {(call.func.id, keyword.arg) for keyword in call.keywords}
    assert 0 < len(used) <= 5
