"""The guard's promise: what it lets through fits, nothing is cut that the caller did not allow to be cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm._errors import ConfigError, ContextOverflow
from resilient_llm._types import ChatRequest, Message, Tool, ToolCall
from resilient_llm.policies.guard import ContextGuard, Count, drop_oldest, refuse
from resilient_llm.policies.tokens import estimate_request


def words(request: ChatRequest) -> int:
    """A counter that a test can follow: a word is a thousand tokens."""
    return 1000 * sum(len(message.content.split()) for message in request.messages)


def say(role: str, text: str, **facts: object) -> Message:
    """A message with words of a thousand bytes: so nothing of it fits without being counted."""
    return Message(role, " ".join(word.ljust(1000, ".") for word in text.split()), **facts)


def ask(*messages: Message | str, **facts: object) -> ChatRequest:
    return ChatRequest(tuple(say("user", one) if isinstance(one, str) else one for one in messages), **facts)


def said(request: ChatRequest) -> list[str]:
    return [message.content.replace(".", "") for message in request.messages]


@st.composite
def conversations(draw: st.DrawFn) -> ChatRequest:
    """Any mixture of roles and of equal messages; a message may make several calls; results follow their calls, at once
    or late; ids are used again, as real servers do."""
    messages: list[Message] = []
    pending: list[str] = []
    for _ in range(draw(st.integers(1, 14))):
        role = draw(st.sampled_from(["system", "developer", "user", "user", "assistant", "calls", "tool", "tool"]))
        text = " ".join([draw(st.sampled_from("abc"))] * draw(st.integers(1, 6)))
        if role == "calls":
            ids = draw(st.lists(st.sampled_from(["call_0", "call_1", "call_2"]), min_size=1, max_size=3, unique=True))
            pending += ids
            calls = tuple(ToolCall("search", {}, id=one) for one in ids)
            messages.append(say("assistant", text, tool_calls=calls))
        elif role != "tool":
            messages.append(say(role, text))
        elif pending:
            messages.append(say("tool", text, tool_call_id=pending.pop(draw(st.integers(0, len(pending) - 1)))))
    return ChatRequest(tuple(messages or [say("user", "a")]))


def pairs(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """The place of each result, with that of the call that it answers: the last one before it with its id."""
    asked: dict[str, int] = {}
    found = []
    for place, message in enumerate(messages):
        asked.update((call.id, place) for call in message.tool_calls)
        if message.role == "tool":
            found.append((asked[message.tool_call_id], place))
    return found


def kept_of(before: Sequence[Message], after: Sequence[Message]) -> list[int]:
    """The places of the messages that were kept, which are the same objects in the same order."""
    places = {id(message): place for place, message in enumerate(before)}
    assert len(places) == len(before)
    kept = [places[id(message)] for message in after]
    assert kept == sorted(kept)
    return kept


def trimmed(request: ChatRequest, window: int) -> list[int] | None:
    """What is kept of it; `None` if it was refused, with both numbers."""
    guard = ContextGuard(window=1000 * window, reserve=0, overflow=drop_oldest, counter=words)
    try:
        fitted = guard.fit(request, None)
    except ContextOverflow as error:
        assert error.tokens > error.limit == 1000 * window  # noqa: PT017
        return None
    assert words(fitted) <= 1000 * window
    return kept_of(request.messages, fitted.messages)


def last_user(messages: Sequence[Message]) -> int:
    return max((place for place, message in enumerate(messages) if message.role == "user"), default=-1)


@given(conversations(), st.integers(1, 60))
def test_dropping_the_oldest_never_tears_apart_what_belongs_together(request: ChatRequest, window: int) -> None:
    kept, messages = trimmed(request, window), request.messages
    if kept is None:
        return
    rules = [place for place, message in enumerate(messages) if message.role in ("system", "developer")]
    assert set(rules) <= set(kept)
    assert last_user(messages) in {*kept, -1}
    assert messages[-1].role in ("system", "developer") or len(messages) - 1 in kept
    for call, result in pairs(messages):
        assert (call in kept) == (result in kept)


@given(conversations())
def test_as_much_is_kept_as_there_is_room_for_and_all_of_it_where_it_fits(request: ChatRequest) -> None:
    total = words(request) // 1000
    kept = {window: trimmed(request, window) for window in range(1, total + 1)}
    assert kept[total] == list(range(len(request.messages)))
    for window, here in kept.items():
        assert here is None or set(here) <= set(kept[min(window + 1, total)] or ())
        sizes = {
            tuple(one): sum(len(request.messages[at].content.split()) for at in one) for one in kept.values() if one
        }
        fitting = [one for one, size in sizes.items() if size <= window]
        assert here == (list(max(fitting, key=len)) if fitting else None)


def test_the_oldest_turn_goes_first_and_no_more_than_needed() -> None:
    request = ask(say("system", "s"), "one one", say("assistant", "a"), "two two", say("assistant", "b"), "q")
    fitted = ContextGuard(window=5000, reserve=0, overflow=drop_oldest, counter=words).fit(request, None)
    assert said(fitted) == ["s", "two two", "b", "q"]


def test_of_an_agents_rounds_the_oldest_go_first_and_the_last_one_stays() -> None:
    rounds = [
        message
        for number in range(3)
        for message in (
            say("assistant", f"c{number}", tool_calls=(ToolCall("f", {}, id="call_0"),)),
            say("tool", f"r{number} r r", tool_call_id="call_0"),
        )
    ]
    request = ask("question", *rounds)
    fitted = ContextGuard(window=9000, reserve=0, overflow=drop_oldest, counter=words).fit(request, None)
    assert said(fitted) == ["question", "c1", "r1 r r", "c2", "r2 r r"]
    with pytest.raises(ContextOverflow):
        ContextGuard(window=4000, reserve=0, overflow=drop_oldest, counter=words).fit(request, None)


def test_a_result_that_came_late_goes_with_its_call_and_all_between() -> None:
    call = say("assistant", "c", tool_calls=(ToolCall("f", {}, id="x"),))
    request = ask("one", call, "two", say("tool", "r", tool_call_id="x"), "three")
    fitted = ContextGuard(window=4000, reserve=0, overflow=drop_oldest, counter=words).fit(request, None)
    assert said(fitted) == ["three"]


def test_a_long_history_is_trimmed_with_few_counts() -> None:
    counts = [0]

    def counter(request: ChatRequest) -> int:
        counts[0] += 1
        return words(request)

    request = ask(*[f"m{number}" for number in range(4000)])
    fitted = ContextGuard(window=100_000, reserve=0, overflow=drop_oldest, counter=counter).fit(request, None)
    assert len(fitted.messages) == 100
    assert counts[0] < 20


def test_what_fits_is_not_touched() -> None:
    request = ask(Message("user", "Why is the sky blue?"))
    assert ContextGuard().fit(request, 4096) is request
    assert ContextGuard(counter=lambda request: 10).fit(request, 300) is request


def test_without_a_window_nothing_is_checked() -> None:
    request = ask(Message("user", "word " * 100_000))
    assert ContextGuard(overflow=drop_oldest).fit(request, None) is request


def test_refusal_shows_both_numbers_and_the_reserve_and_what_to_do() -> None:
    with pytest.raises(ContextOverflow) as caught:
        ContextGuard(reserve=1000, counter=lambda request: 9000).fit(ask(Message("user", "word " * 9000)), 8192)
    assert (caught.value.tokens, caught.value.limit) == (9000, 7192)
    for part in ("9000", "8192", "7192", "1000", "larger window", "drop_oldest"):
        assert part in str(caught.value)


def test_a_refusal_shows_nothing_of_the_prompt() -> None:
    with pytest.raises(ContextOverflow) as caught:
        ContextGuard().fit(ask(Message("user", "secret " * 9000)), 2048)
    assert "secret" not in repr(caught.value) + str(caught.value.args)


@pytest.mark.parametrize(
    ("max_tokens", "window", "reserve"), [(None, 8192, 256), (1000, 8192, 1000), (8000, 8192, 2048), (None, 400, 100)]
)
def test_the_reserve_is_what_the_answer_may_need_but_a_quarter_of_the_window_at_most(
    max_tokens: int | None, window: int, reserve: int
) -> None:
    request = ask(Message("user", "word " * 50_000), max_tokens=max_tokens)
    room = window - reserve
    assert ContextGuard(counter=lambda request: room).fit(request, window) is request
    with pytest.raises(ContextOverflow) as caught:
        ContextGuard(counter=lambda request: room + 1).fit(request, window)
    assert caught.value.limit == room


def test_our_own_estimate_is_taken_five_percent_higher_and_a_counter_is_believed() -> None:
    request = ask(Message("user", "word " * 5000))
    tokens = estimate_request(request)
    with pytest.raises(ContextOverflow) as caught:
        ContextGuard(window=tokens, reserve=0).fit(request, None)
    assert caught.value.tokens == pytest.approx(1.05 * tokens, abs=1)
    assert ContextGuard(window=tokens, reserve=0, counter=estimate_request).fit(request, None) is request


def test_a_smaller_window_of_the_guards_own_holds_and_a_larger_one_makes_the_servers_no_larger() -> None:
    request = ask(Message("user", "word " * 2000))
    for own, told in ((1000, 100_000), (100_000, 1000), (1000, None)):
        with pytest.raises(ContextOverflow, match="window of 1000 "):
            ContextGuard(window=own).fit(request, told)


def test_a_refusal_says_who_says_how_large_the_window_is() -> None:
    with pytest.raises(ContextOverflow, match=r"the window of 1000 \(by /api/ps\) has room for 750"):
        ContextGuard().fit(ask(Message("user", "word " * 2000)), 1000, by="/api/ps")


def test_the_estimate_is_multiplied_by_what_the_caller_knows_of_it() -> None:
    request = ask(Message("user", "word " * 5000))
    tokens = estimate_request(request)
    guard = ContextGuard(window=tokens, reserve=0)
    assert guard.fit(request, None, factor=1.0) is request
    with pytest.raises(ContextOverflow) as caught:
        guard.fit(request, None, factor=1.5)
    assert caught.value.tokens == pytest.approx(1.5 * tokens, abs=1)


def test_tools_are_in_the_reckoning_of_a_rule() -> None:
    tool = Tool("search", "word " * 500, {})
    request = ask(*[Message("user", "word " * 100) for _ in range(10)], tools=(tool,))
    fitted = ContextGuard(window=1400, reserve=0, overflow=drop_oldest).fit(request, None)
    assert 1 < len(fitted.messages) < 10
    assert estimate_request(fitted) <= 1400


def test_a_rule_of_the_users_own_decides_and_is_counted_again() -> None:
    def summary(messages: Sequence[Message], room: int, count: Count) -> list[Message]:
        assert count(messages) > room == 3000
        return [say("user", "in short"), messages[-1]]

    request = ask("a b c d e f", "question")
    guard = ContextGuard(window=3000, reserve=0, overflow=summary, counter=words)
    assert said(guard.fit(request, None)) == ["in short", "question"]
    with pytest.raises(ContextOverflow):
        ContextGuard(window=3000, reserve=0, overflow=lambda messages, room, count: messages, counter=words).fit(
            request, None
        )


def test_a_rule_that_leaves_nothing_is_an_error() -> None:
    guard = ContextGuard(window=1000, reserve=0, overflow=lambda messages, room, count: [], counter=words)
    with pytest.raises(ConfigError, match="empty"):
        guard.fit(ask("a b c"), None)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"window": 0}, "window: 0"),
        ({"window": True}, "window: True"),
        ({"reserve": -1}, "reserve: -1"),
        ({"window": 512, "reserve": 512}, "512"),
        ({"overflow": "drop"}, "overflow"),
        ({"counter": 3}, "counter"),
    ],
)
def test_impossible_values_are_refused_and_shown(values: dict[str, object], shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ContextGuard(**values)
    assert shown in str(caught.value)


def test_a_reserve_that_leaves_nothing_of_the_servers_window_refuses() -> None:
    with pytest.raises(ContextOverflow) as caught:
        ContextGuard(reserve=4096).fit(ask("hi"), 2048)
    assert caught.value.limit == 0


def test_its_repr_names_the_rule() -> None:
    assert repr(ContextGuard(overflow=drop_oldest)) == (
        "ContextGuard(window=None, reserve=None, overflow=drop_oldest, counter=estimate)"
    )
    assert "refuse" in repr(ContextGuard(overflow=refuse, counter=words))


def test_without_a_word_of_the_users_the_oldest_go_one_by_one() -> None:
    guard = ContextGuard(reserve=0, overflow=drop_oldest, counter=words)
    request = ask(*(say("assistant", one) for one in "abc"))
    assert said(guard.fit(request, 2000)) == ["b", "c"]
    assert said(guard.fit(request, 1000)) == ["c"]


def test_what_the_developer_says_stays() -> None:
    guard = ContextGuard(reserve=0, overflow=drop_oldest, counter=words)
    request = ask(say("developer", "d"), "a", say("assistant", "b"), "c")
    assert said(guard.fit(request, 2000)) == ["d", "c"]


def test_a_call_without_an_id_and_its_late_result_stay_together() -> None:
    calls = (ToolCall("search", {}),)
    history = [say("assistant", "b", tool_calls=calls), say("assistant", "c"), say("tool", "d"), say("assistant", "e")]
    guard = ContextGuard(reserve=0, overflow=drop_oldest, counter=words)
    assert said(guard.fit(ask("a", *history), 5000)) == ["a", "b", "c", "d", "e"]
    assert said(guard.fit(ask("a", *history), 4000)) == ["a", "e"]
    other = ask("a", say("assistant", "b", tool_calls=calls), "c", say("assistant", "e"))
    assert said(guard.fit(other, 2000)) == ["c", "e"]


def test_a_result_that_belongs_to_no_call_stays_where_it_is() -> None:
    guard = ContextGuard(reserve=0, overflow=drop_oldest, counter=words)
    request = ask("a", "b", say("tool", "c", tool_call_id="gone"), "d")
    assert said(guard.fit(request, 3000)) == ["b", "c", "d"]


def test_what_fits_surely_leaves_the_reserve_free() -> None:
    assert ContextGuard(reserve=1000).fits_surely(ask(Message("user", "x" * 5000)), 10_000)
    assert ContextGuard().fits_surely(ask(Message("user", "x" * 80_000), max_tokens=10), 100_000)
    assert not ContextGuard().fits_surely(ask(Message("user", "x" * 80_000), max_tokens=25_000), 100_000)
    assert not ContextGuard(reserve=9000).fits_surely(ask(Message("user", "x" * 5000)), 10_000)


def test_a_rule_is_told_that_nothing_has_no_tokens() -> None:
    counts: list[int] = []

    def last(messages: Sequence[Message], room: int, count: Count) -> Sequence[Message]:
        counts.extend([count([]), count(messages[-1:]), room])
        return messages[-1:]

    ContextGuard(reserve=0, overflow=last, counter=words).fit(ask("a b", "c"), 1500)
    assert counts == [0, 1000, 1500]


def test_a_refusal_in_full() -> None:
    with pytest.raises(ContextOverflow) as caught:
        ContextGuard(reserve=9000, counter=lambda request: 9000).fit(ask(Message("user", "word " * 9000)), 8192)
    rest = "Shorten it, use a larger window or a smaller reserve, or let ContextGuard(overflow=drop_oldest) leave out"
    assert str(caught.value) == (
        "the prompt has 9000 tokens, but the window of 8192 has room for 0: 9000 are kept for the answer."
        f" {rest} the oldest turns"
    )
    with pytest.raises(ContextOverflow, match=r"^the prompt has about 3"):
        ContextGuard().fit(ask(Message("user", "word " * 3000)), 2048)


def test_its_repr_names_what_has_no_name_of_its_own_by_its_kind() -> None:
    class Rule:
        def __call__(self, *given: object) -> Sequence[Message]:
            raise NotImplementedError

    assert repr(ContextGuard(overflow=Rule(), counter=words)).endswith("overflow=Rule, counter=words)")
    assert repr(ContextGuard(counter=Rule())).endswith("overflow=refuse, counter=Rule)")


def test_a_counter_that_finds_nothing_is_believed() -> None:
    request = ask(Message("user", "word " * 9000))
    assert ContextGuard(counter=lambda request: 0).fit(request, 2048) is request
