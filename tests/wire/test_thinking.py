"""Reasoning between tags is told from the answer, however it is cut; the corpus has whole answers with it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm.wire._thinking import Thinking


def split(pieces: list[str]) -> tuple[str, str]:
    one, text, thought = Thinking(), "", ""
    for said, hidden in [*map(one.split, pieces), one.close()]:
        assert not (hidden and text)  # it comes before the answer
        text, thought = text + said, thought + hidden
    assert one.over
    return text, thought


@pytest.mark.parametrize(
    ("whole", "text", "thought"),
    [
        ("yes", "yes", ""),
        ("", "", ""),
        ("<think>hm</think>yes", "yes", "hm"),
        (" \n<think>hm</think> yes", " yes", "hm"),
        ("<think></think>yes", "yes", ""),
        ("<think>a</thin</think>yes</think>", "yes</think>", "a</thin"),
        ("<think>hm", "", "hm"),
        ("<think>hm</thi", "", "hm</thi"),
        ("<thin", "<thin", ""),
        ("<thinking>", "<thinking>", ""),
        ("so <think>hm</think>", "so <think>hm</think>", ""),
        (" " * 100 + "<think>", " " * 100 + "<think>", ""),
    ],
)
def test_however_it_is_cut(whole: str, text: str, thought: str) -> None:
    assert split([whole]) == (text, thought)
    for cut in range(len(whole)):
        assert split([whole[:cut], whole[cut:]]) == (text, thought)
    assert split([*whole]) == (text, thought)


@given(st.text("<>/think \n", max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_any_text_comes_to_the_same_in_any_pieces(whole: str, cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(at)]
    assert split(pieces) == split([whole])
    assert "".join(split([whole])) in whole or "<think>" in whole


def test_white_space_without_end_is_not_held_back() -> None:
    one = Thinking()
    assert sum(len(one.split(" ")[0]) for _ in range(100)) == 100
