"""What the pages say is true: their code runs, what they say it prints it prints, and their links lead somewhere.

The blocks of a page marked `python` run in its order, in one namespace and on one event loop, with `await` at the top
level as in a notebook. A block marked `text` right after one is what that prints. Tests that a block defines are run.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import AsyncClient

from .conftest import ROOT, Servers

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
KNOBS = {
    "Timeouts",
    "Retry",
    "RetryBudget",
    "CircuitBreaker",
    "Bulkhead",
    "ContextGuard",
}  # a Route only says where they go


def blocks(page: Path) -> Iterator[tuple[str, str | None]]:
    """The code of each block, on the lines that it has on the page, and what it is said to print."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        language, code, printed = block.groups()
        if language == "python":
            yield "\n" * text[: block.start(2)].count("\n") + code, printed


async def run(page: Path, names: dict[str, Any]) -> None:
    for code, printed in blocks(page):
        output = io.StringIO()
        compiled = compile(code, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        with redirect_stdout(output):
            result = eval(compiled, names)
            if compiled.co_flags & inspect.CO_COROUTINE:
                await result
        assert printed in (None, output.getvalue())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_on_a_page_runs(page: Path, servers: Servers) -> None:
    async def read() -> None:
        names: dict[str, Any] = {"__name__": "page"}
        try:
            await run(page, names)
        finally:
            for client in [value for value in names.values() if isinstance(value, AsyncClient)]:
                await client.aclose()

    asyncio.run(read())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_something(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_shows_at_most_five_knobs() -> None:
    used = set()
    for code, _ in blocks(ROOT / "README.md"):
        for call in ast.walk(ast.parse(code)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in KNOBS:
                used |= {(call.func.id, keyword.arg) for keyword in call.keywords}
    assert 0 < len(used) <= 5
