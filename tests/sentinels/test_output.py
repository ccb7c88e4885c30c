"""Which answers are cut, how soon, and which are not, however much they repeat themselves."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import ChatRequest, ConfigError, Message
from resilient_llm.errors import OutputInvalid
from resilient_llm.sentinels import EVERY, Lookout, OutputSentinel

from .answers import GOOD, LOOPS, pieces, real_texts, written

PLAIN = ChatRequest((Message("user", "hi"),))
TYPED = ChatRequest((Message("user", "hi"),), schema={"type": "object"})
BEGINNING = "The answer to your question has several parts, and I will take them one after the other. "


def cut_after(texts: list[str], lookout: Lookout, *, thoughts: bool = False) -> tuple[int, OutputInvalid] | None:
    """After how many pieces the answer is cut, and why; `None` if it is let through."""
    for count in [*range(EVERY, len(texts), EVERY), len(texts)]:
        so_far = texts[:count]
        error = lookout.look([], so_far) if thoughts else lookout.look(so_far, [])
        if error is not None:
            return count, error
    return None


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("size", [1, 4, 9])
def test_what_only_looks_like_a_loop_is_not_cut(name: str, size: int) -> None:
    texts = pieces(BEGINNING + GOOD[name], size)
    assert cut_after(texts, OutputSentinel().lookout(PLAIN, None)) is None
    assert cut_after(texts, OutputSentinel().lookout(TYPED, None)) is None


@given(st.integers(0, 10**9), st.integers(1, 30), st.booleans())
def test_no_answer_of_prose_code_json_and_tables_is_cut(seed: int, size: int, thoughts: bool) -> None:
    texts = pieces(written(random.Random(seed)), size)
    assert cut_after(texts, OutputSentinel().lookout(TYPED, None), thoughts=thoughts) is None


def test_nothing_that_people_wrote_is_cut() -> None:
    texts = real_texts()
    assert len(texts) > 200
    cut = [name for name, text in texts.items() if cut_after(pieces(text), OutputSentinel().lookout(TYPED, None))]
    assert cut == []


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("thoughts", [False, True])
def test_a_loop_is_cut_soon_after_it_can_be_told(name: str, thoughts: bool) -> None:
    unit = LOOPS[name]
    texts = pieces(BEGINNING * 20 + unit * (30_000 // len(unit)))
    found = cut_after(texts, OutputSentinel().lookout(PLAIN, None), thoughts=thoughts)
    assert found is not None
    count, error = found
    read = len("".join(texts[:count]).encode()) - len((BEGINNING * 20).encode())
    assert error.kind == "loop"
    assert read <= max(4000, 6 * len(unit.encode())) + 2 * EVERY * 4 * 4
    assert unit.strip()[:6] not in str(error) or len(unit) < 6


def test_a_loop_of_a_different_line_each_time_is_none() -> None:
    texts = pieces("".join(f"{number}. and so on\n" for number in range(2000)))
    assert cut_after(texts, OutputSentinel().lookout(PLAIN, None)) is None


def test_white_space_without_end_is_cut_where_json_is_due() -> None:
    texts = pieces('{"name": "Paris",' + "\n \t" * 400)
    found = cut_after(texts, OutputSentinel().lookout(TYPED, None))
    assert found is not None
    assert found[1].kind == "whitespace"
    assert cut_after(texts, OutputSentinel().lookout(PLAIN, None)) is None
    assert cut_after(texts, OutputSentinel(whitespace=None).lookout(TYPED, None)) is None


@pytest.mark.parametrize(
    ("limit", "window", "run_on", "most"),
    [(1000, None, 2.0, 2256), (None, 2048, 2.0, 4352), (100, 8192, 2.0, 456), (1000, None, 1.5, 1756)],
)
def test_an_answer_far_beyond_its_limit_is_cut(limit: int | None, window: int | None, run_on: float, most: int) -> None:
    request = ChatRequest(PLAIN.messages, max_tokens=limit)
    texts = [f"word{number} " for number in range(10_000)]
    found = cut_after(texts, OutputSentinel(run_on=run_on).lookout(request, window))
    assert found is not None
    assert found[1].kind == "run_on"
    assert most < found[0] <= most + EVERY
    for taken_off in (OutputSentinel(run_on=None).lookout(request, window), OutputSentinel().lookout(PLAIN, None)):
        assert cut_after(texts, taken_off) is None


def test_a_proxy_that_sends_every_letter_alone_does_not_make_an_answer_longer() -> None:
    request = ChatRequest(PLAIN.messages, max_tokens=1000)
    letters = pieces("".join(f"word{number} " for number in range(450)), 1)
    assert len(letters) > 3 * 1000
    assert cut_after(letters, OutputSentinel().lookout(request, None)) is None


def test_thoughts_count_for_the_limit_too() -> None:
    request = ChatRequest(PLAIN.messages, max_tokens=1000)
    lookout = OutputSentinel().lookout(request, None)
    words = [f"word{number} " for number in range(1200)]
    error = lookout.look(words, words)
    assert error is not None
    assert error.kind == "run_on"


def test_a_sentinel_that_is_taken_off_lets_everything_through() -> None:
    off = OutputSentinel(loop=None, whitespace=None, run_on=None)
    assert cut_after(pieces("G" * 40_000), off.lookout(TYPED, 100)) is None


def test_memory_is_bounded_however_long_the_answer() -> None:
    texts = [f"{number} " for number in range(200_000)]
    lookout = OutputSentinel().lookout(PLAIN, None)
    lookout.look(texts[:EVERY], [])
    tracemalloc.start()
    try:
        for count in range(2 * EVERY, len(texts), 50 * EVERY):
            lookout.look(texts[:count], [])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"loop": 10}, "loop: 10"),
        ({"loop": True}, "loop: True"),
        ({"whitespace": 1.5}, "whitespace: 1.5"),
        ({"run_on": 0.5}, "run_on: 0.5"),
        ({"run_on": float("inf")}, "run_on: inf"),
        ({"run_on": "2"}, "run_on: '2'"),
    ],
)
def test_impossible_numbers_are_refused_and_shown(values: dict[str, object], shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OutputSentinel(**values)
    assert shown in str(caught.value)
