"""The page of outcomes is what its generator gives, and every row of the tables that it rests on has an example."""

from __future__ import annotations

import re

import pytest

from resilient_llm.wire._envelope import open_envelope
from resilient_llm.wire._ollama_errors import ROWS
from resilient_llm.wire._ollama_errors import STATUSES as OLLAMA_STATUSES
from resilient_llm.wire._openai_rows import CODES, STATUSES, WORDS

from .corpus import CASES
from .outcomes import PAGE, page

OPENAI = [open_envelope(case.body) for case in CASES if case.wire == "openai" and case.status != 200]
FRAMES = [  # errors within a 200
    open_envelope(line.removeprefix("data:").strip().encode())
    for case in CASES
    if case.wire == "openai" and case.status == 200 and case.error
    for line in case.body.decode("utf-8", "replace").splitlines()
]
SAID = [found.message for found in (*OPENAI, *FRAMES)]
NAMED = {code for found in (*OPENAI, *FRAMES) for code in found.codes} | {
    name.lower() for text in SAID for name in re.findall(r"litellm\.(\w+Error)", text)
}
OLLAMA = [open_envelope(case.body).message for case in CASES if case.wire == "ollama"]


def test_the_page_is_what_its_generator_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.wire.outcomes"


@pytest.mark.parametrize("pattern", [row.pattern for row in CODES])
def test_every_code_has_a_case(pattern: str) -> None:
    assert any(re.fullmatch(pattern, code) for code in NAMED), "add a case of it to tests/wire/cases"


@pytest.mark.parametrize("pattern", [row.pattern for row in WORDS])
def test_every_wording_has_a_case(pattern: str) -> None:
    assert any(re.search(pattern, text, re.IGNORECASE) for text in SAID), "add a case of it to tests/wire/cases"


@pytest.mark.parametrize("pattern", [row.words for row in ROWS])
def test_every_wording_of_ollama_has_a_case(pattern: str) -> None:
    assert any(re.search(pattern, text, re.IGNORECASE) for text in OLLAMA), "add a case of it to tests/wire/cases"


def test_every_status_has_a_case() -> None:
    seen = {case.status for case in CASES if case.wire == "openai"}
    assert set(STATUSES) - seen == set()
    native = {case.status for case in CASES if case.wire == "ollama"}
    assert [statuses for statuses, _ in OLLAMA_STATUSES if isinstance(statuses, set) and not statuses & native] == [
        {408}
    ]
