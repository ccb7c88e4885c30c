"""Slots, the cache, and where the time goes."""

from __future__ import annotations

import pytest

from resilient_llm import ToolCall
from resilient_llm.testing import OllamaModel, Pulled, Settings
from resilient_llm.testing._host.job import Exchange

from .drive import chat, done, embed, last, objects, text, until, words

APART = 0.06  # seconds; pings and overheads, which are left to chance, take less


def writer(count: int = 30, **facts: object) -> Pulled:
    return Pulled(says=lambda _: [f"{number} " for number in range(count)], **facts)  # type: ignore[arg-type]


def warm(*models: Pulled, parallel: int = 1, **more: object) -> OllamaModel:
    host = OllamaModel(*models, settings=Settings(num_parallel=parallel), **more)  # type: ignore[arg-type]
    done(host, chat(host))
    return host


def in_turn(host: OllamaModel, *prompts: str) -> list[Exchange]:
    """Asks one after the other, so that they come to the slots in this order."""
    asked = []
    for prompt in prompts:
        asked.append(chat(host, prompt))
        host.advance(host.now + APART)
    return asked


def test_the_figures_are_those_of_the_phases_and_the_wait_for_a_slot_is_in_none() -> None:
    host = warm(writer())
    asked = in_turn(host, *(words(100 * at) for at in range(1, 6)))
    for one in asked:
        done(host, one)
    for one in asked:
        truth, end = one.truth, last(one)
        parts = (truth.pending, truth.load, truth.ping, truth.overhead, truth.slot, truth.prefill, truth.decode)
        assert sum(parts) == pytest.approx(truth.total)
        assert end["total_duration"] == pytest.approx(truth.total * 1e9, abs=1)
        assert end["prompt_eval_duration"] == pytest.approx(truth.prefill * 1e9, abs=1)
        assert end["eval_duration"] == pytest.approx(truth.decode * 1e9, abs=1)
        known = end["load_duration"] + end["prompt_eval_duration"] + end["eval_duration"]
        assert (end["total_duration"] - known) / 1e9 == pytest.approx(truth.slot + truth.overhead, abs=1e-8)
    assert asked[0].truth.slot == 0
    assert [one.truth.slot for one in asked] == sorted(one.truth.slot for one in asked)  # first come, first served


def test_as_many_are_answered_at_once_as_there_are_slots() -> None:
    host = warm(writer(), parallel=2)
    for _ in range(5):
        chat(host, "hi")
    until(host, lambda: host.active == 2)
    host.advance(host.now + 0.2)
    assert host.active == 2


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_who_is_answered_beside_others_is_answered_slowly(parallel: int) -> None:
    """All together they gain 1.4 to 1.6 times at most."""
    host = warm(writer(200), parallel=parallel)
    asked = [chat(host, "hi") for _ in range(parallel)]
    for one in asked:
        done(host, one)
    rate = 200 / max(one.truth.decode for one in asked)
    assert 60 * (1 / (0.45 * parallel + 0.55)) == pytest.approx(rate, rel=0.05)
    assert parallel * rate / 60 < 1.75


def test_a_long_context_makes_each_token_slower() -> None:
    host = warm(writer(10))
    short, long = done(host, chat(host, "hi")), done(host, chat(host, words(7500)))
    assert long.truth.decode / short.truth.decode == pytest.approx(2, rel=0.01)


def test_a_drift_makes_each_hour_slower() -> None:
    host = warm(writer(10, drift=0.5))
    done(host, chat(host, keep_alive=-1))
    first = done(host, chat(host, "hi"))
    host.advance(host.now + 7200)
    assert done(host, chat(host, "hi")).truth.decode / first.truth.decode == pytest.approx(2, rel=0.01)


def test_what_a_prompt_has_in_common_with_the_last_one_is_counted_and_costs_nothing() -> None:
    host = warm(writer(1))
    first = done(host, chat(host, words(1000)))
    second = done(host, chat(host, words(1000), "0 ", words(50)))
    assert last(second)["prompt_eval_count"] == 1051
    assert second.truth.cached == 1000
    assert second.truth.prefill == pytest.approx(first.truth.prefill * 51 / 1000, rel=0.05)
    same = done(host, chat(host, words(1000), "0 ", words(50)))
    assert same.truth.cached == 1050  # one token is always read


def test_one_version_did_not_count_what_was_cached() -> None:
    host = warm(writer(1), version="0.30.0")
    done(host, chat(host, words(1000)))
    assert last(done(host, chat(host, words(1000), "0 ", words(50))))["prompt_eval_count"] == 51


def test_another_conversation_takes_another_slot_and_the_cache_of_the_first_stays() -> None:
    host = warm(writer(1), parallel=2)
    one, other = "a" * 4000, "b" * 4000
    for prompt, cached in ((one, 0), (other, 0), (one, 999), (other, 999), ("c" * 4000, 0), (one, 0)):
        assert done(host, chat(host, prompt)).truth.cached == cached


def test_who_waits_for_a_slot_and_leaves_is_gone_at_once() -> None:
    host = warm(writer(100))
    first, second, third = in_turn(host, "hi", "hi", "hi")
    host.hang_up(second)
    done(host, third)
    assert third.truth.began + third.truth.slot == pytest.approx(first.truth.ended, abs=0.06)


def test_who_leaves_in_mid_answer_frees_the_slot_with_the_next_token() -> None:
    host = warm(writer(100_000))
    (first,) = in_turn(host, "hi")
    second = chat(host, "hi", options={"num_predict": 1})
    until(host, lambda: first.truth.output == 10)
    host.hang_up(first)
    left = host.now
    done(host, second)
    assert host.now - left < 0.1
    assert (first.truth.outcome, first.truth.output) == ("disconnected", 10)


def test_who_leaves_while_his_prompt_is_read_frees_the_slot_after_the_batch() -> None:
    """ollama/ollama#11889."""
    host = warm(writer(1, prefill=100.0))
    first, second = in_turn(host, words(4000), "hi")
    host.hang_up(first)
    done(host, second)
    assert second.truth.slot == pytest.approx(512 / 100 - APART, abs=0.1)


def test_an_answer_in_one_piece_says_the_same() -> None:
    host = warm(writer(5, thinks=("let me ", "see")))
    lines, whole = objects(done(host, chat(host, "hi"))), objects(done(host, chat(host, "hi", stream=False)))
    assert len(whole) == 1
    assert list(whole[0]) == list(lines[-1])
    assert whole[0]["message"] == {"role": "assistant", "content": "0 1 2 3 4 ", "thinking": "let me see"}
    assert [one["message"].get("thinking") for one in lines[:2]] == ["let me ", "see"]
    assert "thinking" not in last(done(host, chat(host, "hi", stream=False, think=False)))["message"]


@pytest.mark.parametrize(("template", "line"), [("rendered", 1), ("native", -1)])
def test_the_tool_calls_of_a_native_template_come_with_the_last_line(template: str, line: int) -> None:
    said = ["a", ToolCall("search", {"q": 1}, id="call_1"), "b"]
    host = warm(Pulled(says=lambda _: said, template=template))  # type: ignore[arg-type]  # one of its words
    found = [one["message"].get("tool_calls") for one in objects(done(host, chat(host, "hi")))]
    assert [at for at, calls in enumerate(found) if calls] == [line % len(found)]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    def run(seed: int) -> list[object]:
        host = OllamaModel(writer(), settings=Settings(num_parallel=2), seed=seed)
        asked = [chat(host, words(at)) for at in (5, 50, 500)]
        for one in asked:
            done(host, one)
        return [list(one.out) for one in asked]

    assert run(1) == run(1) != run(2)


def test_vectors_depend_on_their_texts_alone() -> None:
    host = warm(Pulled())
    first, second = (last(done(host, embed(host, *texts)))["embeddings"] for texts in (("a", "b"), ("b", "a")))
    assert first == second[::-1]
    assert len(first[0]) == 8


def test_the_last_message_comes_back_where_nothing_else_is_to_be_said() -> None:
    host = warm(Pulled())
    assert text(done(host, chat(host, "ping", "pong", "good bye"))) == "You said: good bye"
