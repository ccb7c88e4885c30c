"""Every invariant is held by a test that says so, or there is nothing that could break it; the page tells which."""

from __future__ import annotations

from .invariants import INVARIANTS, NOTHING_TO_HOLD, PAGE, held, page


def test_every_invariant_is_named_by_a_test_that_holds_it_or_has_a_reason_why_none_does() -> None:
    named = {number for number, _, _ in held()}
    assert list(INVARIANTS) == list(range(1, 45))
    assert named | NOTHING_TO_HOLD.keys() == INVARIANTS.keys()
    assert not named & NOTHING_TO_HOLD.keys()


def test_the_page_of_invariants_is_that_of_the_tests() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.docs.invariants"
