"""The table of dialects on the page is the one in the code."""

from __future__ import annotations

from .dialects import PAGE, page


def test_the_table_of_dialects_is_that_of_the_code() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.docs.dialects"
