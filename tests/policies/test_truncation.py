"""A prompt that a server cut without a word is found by what it counted; one that it did not cut is left alone."""

from __future__ import annotations

import pytest

from resilient_llm import ChatRequest, Image, Message
from resilient_llm.policies.tokens import estimate_request
from resilient_llm.policies.truncation import Counted, kind_of, pinned


WORDS = "word " * 4000  # about 4,000 tokens


def prompt(*texts: str, system: str = "be brief") -> ChatRequest:
    roles = ["user", "assistant"] * len(texts)
    turns = [Message(roles[at], text) for at, text in enumerate(texts)]
    return ChatRequest((Message("system", system), *turns))


def test_the_counts_of_a_cut_are_those_that_were_reported() -> None:
    """ollama/ollama#17427, #17889, #3839; the window itself as a real 0.9.3 counted."""
    for window, halves in ((2048, {1026, 1027}), (4096, {2050, 2051}), (8192, {4098, 4099}), (32768, {16386, 16387})):
        assert pinned(window) == halves | {window}
    assert {32770, 32771} <= pinned(65536)


def test_the_first_prompt_that_is_cut_is_found_though_nothing_is_known_of_the_tokenizer() -> None:
    assert Counted().cut(
        prompt(WORDS * 40), 16387, 32768, estimate_request
    )  # 160,000 tokens, of which 16,387 were read
    assert Counted().cut(prompt(WORDS), 1027, 2048, estimate_request)
    assert Counted().cut(prompt(*[WORDS[:1000]] * 21), 1900, 2048, estimate_request)


def test_a_prompt_that_has_half_a_window_by_chance_was_not_cut() -> None:
    request = prompt("word " * 2040)
    assert not Counted().cut(request, 2051, 4096, estimate_request)
    assert not Counted().cut(prompt("word " * 1000), 1027, 4096, estimate_request)


def test_an_efficient_tokenizer_is_no_cut() -> None:
    """Half of what we guess, for prompts of every size up to the window."""
    counted = Counted()
    for words in (100, 400, 800, 1500):
        request = prompt("word " * words)
        assert not counted.cut(request, round(estimate_request(request) * 0.55), 4096, estimate_request)


def test_a_wasteful_tokenizer_is_learned_and_then_a_cut_is_found_that_our_guess_alone_would_not_show() -> None:
    counted = Counted()
    for words in (200, 300, 400, 500, 600, 700, 800, 900):
        request = prompt("word " * words)
        assert not counted.cut(request, round(estimate_request(request) * 1.5), 4096, estimate_request)
    ratio, spread = counted.known("words")
    assert ratio == pytest.approx(1.5, abs=0.01)
    assert spread < 0.05
    turns = prompt(*["word " * 150] * 21)  # 3,150 by our guess, 4,800 by theirs: three turns were dropped
    assert counted.cut(turns, 4050, 4096, estimate_request)
    assert not counted.cut(prompt(*["word " * 150] * 16), 3670, 4096, estimate_request)


def test_near_the_window_the_size_of_the_messages_decides() -> None:
    counted = Counted()
    for words in (200, 300, 400, 500, 600, 700, 800, 900):
        request = prompt("word " * words)
        counted.cut(request, estimate_request(request), 4096, estimate_request)
    large = prompt(*["word " * 1000] * 5)
    assert counted.cut(large, estimate_request(prompt(*["word " * 1000] * 4)), 4096, estimate_request)
    whole = prompt(*["word " * 1000] * 4)
    assert not counted.cut(whole, min(estimate_request(whole), 4096), 4096, estimate_request)


def test_where_nobody_knows_the_window_half_of_a_prompt_is_still_missed() -> None:
    counted = Counted()
    request = prompt(WORDS)
    assert counted.cut(request, 1400, None, estimate_request)
    assert not counted.cut(request, 3500, None, estimate_request)


def test_a_server_that_does_not_count_what_it_had_in_its_cache_is_believed_only_with_a_count_of_a_cut() -> None:
    """0.30.0, and those before 0.4 (ollama/ollama#2068, #16414)."""
    request = prompt(WORDS)
    assert not Counted().cut(request, 30, 2048, estimate_request, whole=False)
    assert Counted().cut(request, 1027, 2048, estimate_request, whole=False)


@pytest.mark.parametrize("counted", [None, 0])
def test_without_a_count_nothing_is_said(counted: int | None) -> None:
    assert not Counted().cut(prompt(WORDS), counted, 2048, estimate_request)


def test_a_count_above_the_window_means_that_we_do_not_know_the_window() -> None:
    assert not Counted().cut(prompt(WORDS), 3900, 2048, estimate_request)


def test_nobody_knows_what_an_image_counts() -> None:
    request = ChatRequest((Message("user", WORDS, images=[Image(data="aGk=")]),))
    assert not Counted().cut(request, 1027, 2048, estimate_request)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The quick brown fox jumps over the lazy dog, and then it rests. ", "words"),
        ("    total = add(first, second)\n    for item in items:\n        print(item)\n", "code"),
        ('{"name": "x", "size": 3}, {"name": "y", "size": 4}, ', "data"),
        ("他们的生活在这里很好我们去看看吧", "east"),
        ("Человек и его время не на месте ", "greek"),
        ("היום הוא יום טוב מאוד לכולם ", "other"),
        ("", "none"),
    ],
)
def test_kinds_of_text_are_told_apart(text: str, kind: str) -> None:
    assert kind_of([Message("user", text * 5)]) == kind
