"""The period of a text's end: right when one is found, found when there is one, and cheap whatever the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient_llm.sentinels import period

words = st.text(alphabet="ab \n", min_size=1, max_size=40).map(str.encode)


def naive(text: bytes, span: int, times: int) -> int | None:
    """The same by trying every period."""
    for length in range(1, len(text) // times + 1):
        needed = max(span, times * length)
        if needed <= len(text) and text[-needed:-length] == text[length - needed :]:
            return length
    return None


@given(st.binary(max_size=50), words, st.integers(1, 60), st.integers(0, 39))
def test_a_loop_has_its_shortest_period(before: bytes, unit: bytes, times: int, cut: int) -> None:
    text = before + unit * times + unit[: cut % len(unit)]
    assert period(text, span=64, times=4) == naive(text, 64, 4)


@given(st.text(alphabet="ab", max_size=300).map(str.encode))
def test_what_is_said_to_repeat_itself_does(text: bytes) -> None:
    found = period(text, span=64, times=3)
    if found is not None:
        assert found == naive(text, 64, 3)


def test_a_change_near_the_end_is_no_loop() -> None:
    assert period(b"abc " * 1000 + b"!", span=64, times=4) is None
    assert period(b"abc " * 1000 + b"!" + b"abc " * 10, span=64, times=4) is None
    assert period(b"abc " * 1000 + b"!" + b"abc " * 16, span=64, times=4) == 4


def test_the_span_and_the_times_are_both_needed() -> None:
    assert period(b"x" * 99, span=100, times=4) is None
    assert period(b"x" * 100, span=100, times=4) == 1
    unit = bytes(range(65, 105))
    assert period(unit * 3, span=100, times=4) is None
    assert period(unit * 4, span=100, times=4) == 40


def test_many_places_that_look_alike_are_not_all_tried() -> None:
    """Bounded work: the end stands everywhere, and nowhere with a period."""
    assert period(b"b" + b"a" * 5_000 + b"b" + b"a" * 4_000, span=4_500, times=6) is None
