"""A prompt that a server cut without a word is found by what it counted; one that it did not cut is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from resilient_llm import ChatRequest, Done, Image, Message, ToolCall, Usage
from resilient_llm.policies.tokens import estimate_request
from resilient_llm.policies.truncation import FEW, POSSIBLE, Counted, kind_of, pinned, shifted

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
    assert Counted().cut(prompt(WORDS * 5), 4096, 2048, estimate_request)  # 20,000 were sent


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


# What follows counts by rules that can be followed by hand: two characters are a token, or eight.


def half(request: ChatRequest) -> int:
    return sum(len(one.content) for one in request.messages) // 2


def eighth(request: ChatRequest) -> int:
    return sum(len(one.content) for one in request.messages) // 8


def request_of(messages: Sequence[Message]) -> ChatRequest:
    """A request of these messages alone."""
    return ChatRequest(messages=tuple(messages))


CODE = request_of([Message("user", "total = add(first, second)\n" * 30)])


def turns(*tokens: int) -> ChatRequest:
    return request_of([Message("user" if at % 2 else "assistant", "x" * (2 * many)) for at, many in enumerate(tokens)])


def taught(*ratios: float, tokens: int = 400, kind: str = "words") -> Counted:
    counted = Counted()
    for ratio in ratios or [1.0] * 8:
        counted._add(kind, ratio, tokens)
    return counted


def test_from_three_answers_on_something_is_known_and_from_eight_on_it_is_sure() -> None:
    assert taught(1.2, 1.2).known("words") == (1.0, 0.35)
    assert taught(1.2, 1.2, 1.2).known("words") == (1.2, 0.12)
    assert taught(*[1.2] * 7).known("words") == (1.2, 0.12)
    assert taught(*[1.2] * 8).known("words") == (1.2, 0.035)
    assert taught(*[1.2] * 8).known("code") == (1.0, 0.35)


def test_the_tenth_that_is_farthest_off_is_an_accident() -> None:
    ratio, spread = taught(*[1.0] * 9, 1.1, 1.5).known("words")
    assert (ratio, spread) == (1.0, pytest.approx(0.13))
    assert taught(*[1.0] * 9, 1.0, 1.5).known("words") == (1.0, 0.035)


def test_near_a_window_only_long_prompts_say_something_if_there_are_enough() -> None:
    counted = taught(*[1.0] * 8, tokens=399)
    for _ in range(7):
        counted._add("words", 1.2, 400)
    assert counted.known("words", 1200)[0] == 1.0
    counted._add("words", 1.2, 400)
    assert counted.known("words", 1200)[0] == 1.2
    assert counted.known("words", 1201)[0] == counted.known("words")[0] == pytest.approx(1.1)


def test_only_the_last_sixty_answers_count_and_none_to_a_short_prompt() -> None:
    counted = taught(*[1.0] * 60, *[2.0] * 60)
    assert counted.known("words")[0] == 2.0
    assert str(taught(*[1.5] * 8, tokens=150)) == "words × 1.50"
    assert str(taught(*[1.5] * 8, tokens=149)) == ""
    assert str(taught(*[POSSIBLE[0]] * 8)) == "words × 0.30"
    assert str(taught(*[POSSIBLE[1]] * 8)) == "words × 12.00"


def test_what_is_known_is_told() -> None:
    counted = taught(*[1.23456] * 8)
    for _ in range(2):
        counted._add("code", 1.5, 400)
    assert str(counted) == "words × 1.23"
    assert repr(counted) == "Counted({'words': 1.235, 'code': 1.0})"
    counted._add("code", 1.5, 400)
    assert str(counted) == "words × 1.23, code × 1.50"


def test_the_factor_is_what_is_known_and_how_far_it_may_be_off() -> None:
    counted = taught(*[1.5] * 8, tokens=399)
    for _ in range(8):
        counted._add("words", 1.2, 400)
    assert Counted().factor(turns(10), 1200) is None
    assert counted.factor(turns(10), 1200) == pytest.approx(1.2 * 1.035)
    assert counted.factor(CODE, 1200) is None


def test_of_light_prompts_eight_of_a_kind_are_learned_and_after_two_hundred_looks_one_of_so_many() -> None:
    def learns(counted: Counted, chars: int, said: int) -> bool:
        for _ in range(3):
            counted.cut(request_of([Message("user", "x" * chars)]), said, 32768, half)
        return bool(str(counted))

    assert learns(Counted(), 8000, 4000)
    assert not learns(Counted(), 8001, 4000)
    assert learns(Counted(), 400, 150)
    assert not learns(Counted(), 400, 149)
    counted = Counted()
    for said in (400,) * 4 + (480,) * 5:  # the ninth would tip it
        counted.cut(turns(400), said, 32768, half)
    assert counted.known("words")[0] == pytest.approx(1.1)
    for _ in range(191):
        counted.cut(turns(400), 400, 32768, half)
    for _ in range(199):
        counted.cut(CODE, 400, 32768, half)
    assert "code" not in repr(counted)
    counted.cut(CODE, 400, 32768, half)
    assert "code" in repr(counted)


def test_what_surely_fits_is_not_even_counted() -> None:
    def never(request: ChatRequest) -> int:
        raise AssertionError("counted")

    counted = taught()
    assert not counted.cut(turns(1500), 1000, 4096, never)
    assert not counted.cut(turns(900), 500, None, never)


def test_a_cut_teaches_nothing() -> None:
    counted = Counted()
    for _ in range(3):
        assert counted.cut(turns(6000), 2050, 4096, half)
    assert str(counted) == ""
    assert not counted.cut(turns(2400), 2000, 4096, half)
    assert repr(counted) == "Counted({'words': 1.0})"


def test_where_nobody_knows_the_window_only_a_prompt_far_longer_than_its_count_is_looked_at() -> None:
    assert Counted().cut(turns(1200), 400, None, half)  # 2,400 characters: six for a token counted
    assert not Counted().cut(request_of([Message("user", "x" * 2399)]), 400, None, half)
    long = request_of([Message("user", "x" * 16_000)])  # 2,000 by the eighth
    assert Counted().cut(long, 799, None, eighth)
    assert not Counted().cut(long, 800, None, eighth)
    assert not Counted().cut(long, 799, None, eighth, whole=False)
    assert taught().cut(long, 1459, None, eighth)  # 73 % of what is sure to 3.5 %
    assert not taught().cut(long, 1461, None, eighth)


def test_what_was_learned_near_the_window_decides_there() -> None:
    counted = taught(*[1.0] * 8, tokens=300)
    for _ in range(8):
        counted._add("words", 1.2, 2000)
    assert counted.cut(turns(*[100] * 36), 4090, 4096, half)  # 4,320 by the long ones, and 3,960 by all


@pytest.mark.parametrize(
    ("tokens", "said", "cut"),
    [
        ([100] * 41 + [50], 4050, True),  # 4,150 sent: the oldest message was left out
        ([2000, 2000, 150], 4050, False),  # the same sum and count: no message is so small
        ([50] * 83, 4005, False),  # nor was it cut where another message would have had room
        ([100] * 41 + [50], 4096, True),
        ([4150], 4050, False),  # the last message is never left out
        ([3800], 3600, False),  # it fits, though the estimate may be off by some
        ([4800], 4600, False),  # more than the window: it is not the one that we know
        ([4300], 4149, False),
        ([4300], 4090, False),  # a message that was cut leaves one of few numbers
        ([4700], 4090, True),  # too much is missing
        ([3900], 2500, True),  # far too much
        ([100] * 41 + [50], 4010, True),  # the message that is missing has no room, if it may be a third longer
        ([80, 165, 3755], 3880, False),  # without the first it fits, so no other was left out
        ([3000], 1900, False),  # which an unknown tokenizer may do, below the window
    ],
)
def test_near_the_window_a_cut_has_to_explain_the_count(tokens: list[int], said: int, cut: bool) -> None:
    assert taught().cut(turns(*tokens), said, 4096, half) is cut


def test_a_conversation_is_measured_by_what_its_beginning_was_counted_as() -> None:
    begun, on = [100] * 33, [100] * 37
    assert taught().cut(turns(*on), 3960, 4096, half) is False  # 3,700 by what is known of the model
    counted = taught()
    assert not counted.cut(turns(*begun), 3700, 4096, half)
    assert counted.cut(turns(*on), 4040, 4096, half)  # 4,148 by its beginning
    assert not counted.cut(turns(*[100] * 34), 3810, 4096, half)


def test_what_goes_on_from_a_prompt_that_was_too_long_is_too_long() -> None:
    counted = taught()
    assert counted.cut(turns(9000), 2050, 4096, half)
    assert counted.cut(turns(9000, 100, 100), 300, 4096, half)  # which would be few for a cut, but they are no less
    assert not taught().cut(turns(9000, 100, 100), 4200, 4096, half)
    assert not counted.cut(turns(9000, 100, 100), 9200, 16_384, half)  # the window has grown


def test_two_that_differ_only_in_what_an_assistant_thought_or_called_are_two_conversations() -> None:
    def ran(words: int, *, thought: bool) -> ChatRequest:
        said = "word " * words
        call = ToolCall("write", {"text": said})
        step = Message("assistant", reasoning=said) if thought else Message("assistant", tool_calls=(call,))
        return request_of([Message("user", "write it"), step, Message("user", "and now?")])

    for thought in (False, True):
        counted, longer, shorter = Counted(named=True), ran(9000, thought=thought), ran(2500, thought=thought)
        assert counted.cut(longer, 2051, 4096, estimate_request)
        assert not counted.cut(shorter, estimate_request(shorter), 4096, estimate_request)


def test_of_a_server_that_refuses_what_is_too_long_only_what_can_be_nothing_else_is_a_cut() -> None:
    sent = turns(*[100] * 41, 50)
    assert taught().cut(sent, 4050, 4096, half)
    assert not taught().cut(sent, 4050, 4096, half, refuses=True)
    assert taught().cut(sent, 2050, 4096, half, refuses=True)


def test_a_model_whose_vocabulary_its_name_tells_is_known_better_from_the_first_prompt_on() -> None:
    sent = turns(2600)  # more than half as much again would be in the window of 4,096
    assert Counted().cut(sent, 4096, 4096, half)
    assert not Counted(named=True).cut(sent, 4096, 4096, half)


def test_the_systems_words_are_never_left_out() -> None:
    for role in ("system", "developer"):
        kept = [Message(role, "x" * 200), *turns(*[100] * 40).messages, Message("user", "x" * 100)]
        assert taught().cut(request_of(kept), 4050, 4096, half)
        alone = [Message(role, "x" * 200), Message("user", "x" * 8100)]
        assert not taught().cut(request_of(alone), 4050, 4096, half)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("\u3000" * 10, "east"), ("\ud7af" * 10, "east"), ("\u0370" * 10, "greek"), ("\u052f" * 10, "greek"),
        ("\u024f" * 10, "words"), ("\u0250" * 10, "other"), ("本本本aaaaaaa", "words"), ("本本本本aaaaaa", "east"),
        ("本" + "a" * 99, "words"), ("!" * 7 + "a" * 18, "code"), ("!" * 8 + "a" * 17, "data"),
        ("!" + "a" * 9, "words"), ("!!" + "a" * 9, "code"), ("!", "data"), (" \n ", "words"),
        ("a" * 2000 + "!" * 9000, "words"),
    ],
)  # fmt: skip
def test_the_bounds_between_kinds_of_text(text: str, kind: str) -> None:
    assert kind_of([Message("user", text)]) == kind
    assert kind_of([Message("user", text)] * 3) == kind


def test_of_one_message_more_is_looked_at_than_of_each_of_many() -> None:
    text = "a" * 1000 + "!" * 1000
    assert kind_of([Message("user", text)]) == "data"
    assert kind_of([Message("user", text)] * 2) == "words"
    assert kind_of([Message("user", "本" * 900), *[Message("user", "a" * 50)] * 40]) == "words"


def test_it_may_be_asked_while_another_thread_learns() -> None:
    """`Client.explain()` is called in any thread, and one client serves several loops."""
    counted = taught(1.0, 1.0)

    class Meanwhile(float):
        def __ge__(self, other: object) -> bool:
            counted._add("words", 1.0, 400.0)  # as another thread may at this moment
            return True

    counted._ratios["words"].append((1.0, Meanwhile(400.0)))
    assert counted.known("words", 600) == (1.0, FEW)


@pytest.mark.parametrize(
    ("prompt", "answer", "finish", "window", "outgrew"),
    [
        (3000, 1095, "stop", 4096, False),
        (3000, 1096, "length", 4096, False),  # it ends where the window ends, and says so
        (3000, 1096, "stop", 4096, True),
        (3000, 1097, "length", 4096, True),
        (5000, 0, "stop", 4096, True),
        (3000, 2000, "stop", None, False),
        (None, 5000, "stop", 4096, False),
        (5000, None, "stop", 4096, False),
    ],
)
def test_an_answer_outgrew_the_window_if_more_was_counted_than_there_is_room_for(
    prompt: int | None, answer: int | None, finish: Any, window: int | None, outgrew: bool
) -> None:
    assert shifted(Done(finish, Usage(prompt, answer)), window) is outgrew
