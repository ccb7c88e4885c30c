"""The page of errors says what the classes say, of every class."""

from __future__ import annotations

from resilient_llm import errors

from .errors import PAGE, page, tree


def test_every_error_is_on_the_page_once() -> None:
    assert sorted(kind.__name__ for _, kind in tree()) == sorted(errors.__all__)


def test_the_page_of_errors_is_that_of_the_classes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.docs.errors"
