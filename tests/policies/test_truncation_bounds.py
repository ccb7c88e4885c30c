"""How far the estimate is trusted near the window: each number of `policies/truncation.py` moves an answer here.

Counted by a rule that can be followed by hand: two characters are a token.
"""

from __future__ import annotations

import pytest

from resilient_llm import ChatRequest, Message
from resilient_llm.policies.truncation import Counted, kind_of

WINDOW = 4096


def half(request: ChatRequest) -> int:
    return sum(len(one.content) for one in request.messages) // 2


def turns(*tokens: int) -> ChatRequest:
    """Messages of so many tokens each."""
    said = [Message("user" if at % 2 else "assistant", "x" * (2 * many)) for at, many in enumerate(tokens)]
    return ChatRequest(messages=tuple(said))


def taught(*ratios: float, tokens: int = 400) -> Counted:
    """Knows its model after so many answers: one token for one of ours, to 3.5 %, unless told otherwise."""
    counted = Counted()
    for ratio in ratios or [1.0] * 8:
        counted._add("words", ratio, tokens)
    return counted


def begun(*tokens: int, said: int) -> Counted:
    """Has seen the beginning of a conversation, which was counted so."""
    counted = taught()
    assert not counted.cut(turns(*tokens), said, WINDOW, half)
    return counted


@pytest.mark.parametrize(
    ("tokens", "said", "cut"),
    [
        ([2560], 2050, False),  # it may be 60 % longer, which is the window exactly
        ([2561], 2050, True),
        ([6000], 3900, False),  # it may be 35 % shorter, which is this exactly
        ([6000], 3899, True),
        ([100] * 41 + [50], 4050, True),  # nothing is known, and the oldest message explains it
        ([100] * 41 + [50], 3930, False),  # here it would have had room, though it were 60 % longer
        ([103, 503, 2054], 3928, False),  # the first message would have had room for its last token
        ([103, 503, 2054], 3929, True),
        ([103, 503, 2054], 3500, False),  # without the first it fits, so that the second was not left out
    ],
)
def test_of_a_model_that_was_never_asked(tokens: list[int], said: int, cut: bool) -> None:
    assert Counted().cut(turns(*tokens), said, WINDOW, half) is cut


@pytest.mark.parametrize(
    ("tokens", "said", "cut"),
    [
        ([3800], 2050, False),  # it fits, even if 6.5 % are missing
        ([3850], 2050, True),
        ([100] * 41 + [50], 3981, False),  # a message of 97 tokens would have had room, though 6.5 % and 8 longer
        ([100] * 41 + [50], 3986, True),
        ([150, 4000], 3990, True),  # the only message before the last went
        ([200, 400, 3400], 3700, False),  # the first does not explain it, and without that one it fits
    ],
)
def test_of_a_model_that_is_known(tokens: list[int], said: int, cut: bool) -> None:
    assert taught().cut(turns(*tokens), said, WINDOW, half) is cut


def test_near_the_window_long_prompts_alone_say_how_many_tokens_there_are_and_how_surely() -> None:
    counted = taught(*[1.0] * 52, tokens=300)
    for _ in range(8):
        counted._add("words", 1.2, 2000)
    assert counted.cut(turns(3230), WINDOW, WINDOW, half)  # 3,876 to 6.5 %; by all of them 3,230 to 26 %, which fits


@pytest.mark.parametrize(("said", "cut"), [(3850, False), (3890, True), (4045, True), (4080, True)])
def test_of_a_conversation_that_goes_on_what_may_be_off_is_a_sixth_of_what_is_new_and_of_what_went(
    said: int, cut: bool
) -> None:
    """4,250 tokens to 2 %; without the first message 4,000, to 40 tokens more."""
    assert begun(253, 3466, said=3719).cut(turns(253, 3466, 131, 400), said, WINDOW, half) is cut


@pytest.mark.parametrize(
    ("tokens", "said", "cut"),
    [
        ((203, 3022, 500, 575), 3895, False),  # 4,100 without the first, less 4 % of it all and a sixth of what went
        ((203, 3022, 500, 575), 3896, True),
        ((503, 2722, 500, 575), 4052, True),  # 3,800 without the first, and as much more
        ((503, 2722, 500, 575), 4053, False),
    ],
)
def test_what_is_left_after_whole_messages_has_bounds(tokens: tuple[int, ...], said: int, cut: bool) -> None:
    assert begun(*tokens[:2], said=3225).cut(turns(*tokens), said, WINDOW, half) is cut


def test_a_beginning_that_tells_no_more_than_the_model_does_is_not_listened_to() -> None:
    """Of which so much is new that it may be off by 6.5 %, as any prompt."""
    assert not begun(2375, said=2600).cut(turns(2375, 1625), 3600, WINDOW, half)
    assert begun(2400, said=2630).cut(turns(2400, 1600), 3600, WINDOW, half)


def test_a_conversation_of_which_little_is_new_is_known_nearly_exactly() -> None:
    assert not begun(3800, said=3800).cut(turns(3800, 50, 50), 2050, WINDOW, half)  # though a window was cut in half
    assert begun(*[100] * 33, said=3700).cut(turns(*[100] * 33, 165, 165), WINDOW, WINDOW, half)  # 4,070 to 1.5 %


def test_what_went_of_a_conversation_is_worth_what_its_beginning_says() -> None:
    on = turns(*[100] * 37)  # messages of 97 tokens by our estimate, and of 109 by that
    assert begun(*[100] * 33, said=3700).cut(on, 3983, WINDOW, half)
    assert not begun(*[100] * 33, said=3700).cut(on, 3975, WINDOW, half)


def test_a_conversation_that_was_cut_is_remembered_as_long_as_it_goes_on() -> None:
    """Of a hundred prompts that are kept it is the latest each time."""
    counted, talk = taught(), [4150]
    assert counted.cut(turns(*talk), WINDOW, WINDOW, half)
    for others in (range(2100, 2160), range(2160, 2220)):
        for other in others:
            assert not counted.cut(turns(other), other, WINDOW, half)
        talk += [100, 50]
        assert counted.cut(turns(*talk), 4090, WINDOW, half)  # by its beginning alone
        assert not taught().cut(turns(*talk), 4090, WINDOW, half)


def test_from_a_server_that_does_not_count_what_it_has_in_its_cache_nothing_is_learned_or_remembered() -> None:
    counted = Counted()
    assert not counted.cut(turns(6000), 3000, WINDOW, half, whole=False)
    assert repr(counted) == "Counted({})"
    assert counted.cut(turns(6000), 2050, WINDOW, half)
    assert not counted.cut(turns(6000, 100, 100), 300, WINDOW, half, whole=False)


def test_what_may_be_a_cut_teaches_nothing() -> None:
    counted = taught()
    assert counted.cut(turns(*[100] * 41, 50), 4050, WINDOW, half)
    assert len(counted._ratios["words"]) == 8
    assert repr(counted._talks) == "Talks(0)"


def test_by_its_own_answer_alone_what_was_learned_takes_no_part() -> None:
    sent, counted = turns(3000), taught()
    for _ in range(2):
        assert not counted.cut(sent, 2050, WINDOW, half)  # 3,000 to 6.5 %
        assert counted.alone(sent, 2050, WINDOW, half, learned=False)  # to 60 %
    assert (counted.more, counted.fewer) == (0, 2)
    named = Counted(named=True)
    for _ in range(8):
        named._add("words", 1.5, 400)
    for _ in range(2):
        assert named.cut(sent, 2050, WINDOW, half)  # 4,500
        assert not named.alone(sent, 2050, WINDOW, half, learned=True)  # 3,000 to 12 %
    assert (named.more, named.fewer) == (2, 0)


def test_where_both_say_the_same_nothing_is_noted_and_by_itself_an_answer_teaches_nothing() -> None:
    counted = taught()
    assert counted.alone(turns(9000), 2050, WINDOW, half, learned=True)
    assert not counted.alone(turns(2000), 2000, WINDOW, half, learned=False)
    assert (counted.more, counted.fewer) == (0, 0)
    assert len(counted._ratios["words"]) == 8
    assert repr(counted._talks) == "Talks(0)"


def test_by_itself_an_answer_is_judged_by_what_is_known_of_its_server() -> None:
    few, near = turns(6000), turns(*[100] * 41, 50)
    assert taught().alone(few, 3000, WINDOW, half, learned=True)
    assert not taught().alone(few, 3000, WINDOW, half, learned=True, whole=False)
    assert taught().alone(near, 4050, WINDOW, half, learned=True)
    assert not taught().alone(near, 4050, WINDOW, half, learned=True, refuses=True)


def test_the_bounds_of_what_is_looked_at_of_a_text() -> None:
    many = "!" * 5 + "a" * 45  # a tenth of it are marks; one more, and it is code
    assert kind_of([Message("user", many + "!")] * 41) == "words"  # fifty characters of each
    assert kind_of([Message("user", "!" * 50), *[Message("user", many)] * 40]) == "words"  # the last forty
    assert kind_of([Message("user", "!" * 50), *[Message("user", many)] * 39]) == "code"
