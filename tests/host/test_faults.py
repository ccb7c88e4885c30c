"""The catalogue: what a client sees of each fault, and that the log knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilient_llm.testing import Fault, Machine, OllamaModel, Pulled, Settings
from resilient_llm.testing._host.facts import GIB
from resilient_llm.testing._host.faults import CATALOGUE

from .drive import chat, done, dropped, embed, error, in_memory, last, objects, status, text, until

TEN = [f"{number} " for number in range(10)]


def host(*faults: Fault, version: str = "0.32.15", parallel: int = 1, **facts: Any) -> OllamaModel:
    model = Pulled(**{"says": lambda _: TEN, **facts})
    return OllamaModel(model, version=version, settings=Settings(num_parallel=parallel), faults=faults)


ENDS = [
    # fault, after, streamed: status, end of the body; in one piece: the same
    ("error line", 3, (200, "error"), (500, "error")),
    ("error line", 0, (500, "error"), (500, "error")),
    ("ends", 3, (200, "content"), (200, "not done")),
    ("crashes", 3, (200, "unexpected EOF"), (500, "unexpected EOF")),
    ("tool call unreadable", 0, (500, "error parsing tool call"), (500, "error parsing tool call")),
    ("tool call unreadable", 3, (200, "error parsing tool call"), (500, "error parsing tool call")),
    ("load fails", 0, (500, "llama-server process has terminated"), (500, "process has terminated")),
    ("load stalls", 0, (500, "timed out waiting for llama-server to start"), (500, "timed out")),
    ("load runs out of memory", 0, (200, "done"), (200, "done")),  # a smaller window, of which nobody is told
    ("unauthorized", 0, (401, "signin_url"), (401, "signin_url")),
    ("usage limit", 0, (429, "usage limit"), (429, "usage limit")),
    ("overloaded", 0, (503, "please retry shortly"), (503, "please retry shortly")),
]


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(("name", "after", "streamed", "whole"), ENDS)
def test_how_a_request_ends(
    name: str, after: int, streamed: tuple[int, str], whole: tuple[int, str], streams: bool
) -> None:
    box = host(Fault(name, after=after))
    exchange = done(box, chat(box, "hi", stream=streams))
    code, end = streamed if streams else whole
    assert (status(exchange), exchange.truth.fault) == (code, name)
    said = last(exchange)
    if end == "not done":
        assert (said["done"], "eval_count" in said, said["message"]["content"]) == (False, False, "0 1 2 ")
    elif end == "content":
        assert (said["message"]["content"], said["done"]) == ("2 ", False)
    else:
        assert end in str(said)
    assert exchange.truth.outcome == ("complete" if end == "done" else "broken" if code == 200 else "failed")
    assert not dropped(exchange)


@pytest.mark.parametrize("name", ["refused", "reset"])
def test_a_reset_comes_before_any_header(name: str) -> None:
    exchange = done(box := host(Fault(name)), chat(box, "hi"))
    assert (status(exchange), dropped(exchange)) == (None, True)


def test_who_needs_a_load_is_told_that_the_queue_is_full_and_who_does_not_is_answered() -> None:
    box = host(Fault("queue full", times=2))
    refused = [done(box, chat(box, "hi")) for _ in range(2)]
    assert [(status(one), one.truth.fault) for one in refused] == [(503, "queue full")] * 2
    assert error(refused[0]) == "server busy, please try again.  maximum pending requests exceeded"
    assert text(done(box, chat(box, "hi"))) == "".join(TEN)
    box.inject(Fault("queue full"))
    assert text(done(box, chat(box, "hi"))) == "".join(TEN)


def test_a_crash_loop_loads_the_model_for_each_request_and_answers_none() -> None:
    box = host(Fault("crashes", after=1))
    for _ in range(4):
        assert done(box, chat(box, "hi")).truth.outcome == "broken"
    assert [load.why for load in box.loads] == ["cold", *["the runner had died"] * 3]


def test_a_leak_ends_where_there_is_no_memory_left_at_all() -> None:
    model = Pulled(leak=2 * GIB, kv_bytes=0, says=lambda _: TEN)
    box = OllamaModel(model, machine=Machine(vram=4 * GIB, ram=GIB))
    asked = []
    for _ in range(3):
        asked.append(done(box, chat(box, "hi", keep_alive=1)))
        box.advance(box.now + 10)
    assert [status(one) for one in asked] == [200, 200, 500]
    assert "out-of-memory" in error(asked[-1])


@pytest.mark.parametrize("name", ["hang", "stalls"])
def test_silence_ends_with_the_clients_patience_alone_and_metadata_are_green(name: str) -> None:
    box = host()
    done(box, chat(box))
    box.inject(Fault(name, after=3 if name == "stalls" else 0, times=1))
    exchange = chat(box, "hi")
    box.advance(box.now + 290)
    assert not exchange.over
    assert len(objects(exchange)) == (3 if name == "stalls" else 0)
    assert in_memory(box).keys() == {"llama3.2"}
    box.hang_up(exchange)
    assert text(done(box, chat(box, "hi"))) == "".join(TEN)  # its slot is free


@pytest.mark.parametrize("streams", [True, False])
def test_who_leaves_takes_the_slot_along_until_the_model_is_unloaded(streams: bool) -> None:
    box = host(Fault("loses its slot", times=2))
    assert text(done(box, chat(box, "hi", stream=streams))) == "".join(TEN)  # who stays to the end loses nothing
    left = chat(box, "hi", stream=streams)
    until(box, lambda: left.truth.output == 3)
    box.hang_up(left)
    waiting = chat(box, "hi")
    box.advance(box.now + 1000)
    assert waiting.over is not streams  # an answer in one piece is waited for by the server itself
    box.hang_up(waiting)
    done(box, box.send("POST", "/api/chat", {"model": "llama3.2", "messages": [], "keep_alive": 0}))
    assert in_memory(box) == {}
    assert text(done(box, chat(box, "hi"))) == "".join(TEN)


@pytest.mark.parametrize(("name", "token"), [("repeats", " the"), ("blanks", "\n"), ("gibberish", "GGGG")])
def test_a_loop_is_broken_off_by_the_guard_without_a_word_or_goes_to_the_limit(name: str, token: str) -> None:
    guarded = host(Fault(name, after=2))
    exchange = done(guarded, chat(guarded, "hi"))
    assert text(exchange) == "0 1 " + 31 * token
    assert (last(exchange)["done"], exchange.truth.outcome) == (False, "broken")
    native = host(Fault(name, after=2), template="native")
    exchange = done(native, chat(native, "hi", options={"num_predict": 100}))
    assert text(exchange) == "0 1 " + 98 * token
    assert last(exchange)["done_reason"] == "length"


def test_gibberish_stays_until_the_model_is_loaded_again() -> None:
    box = host(Fault("gibberish", request=1), template="native")
    for _ in range(2):
        assert set(text(done(box, chat(box, "hi", options={"num_predict": 9})))) == {"G"}
    assert text(done(box, chat(box, "hi", options={"num_ctx": 999}))) == "".join(TEN)


def test_thinking_eats_the_limit() -> None:
    box = host(Fault("only thinks"))
    end = last(done(box, chat(box, "hi", stream=False, options={"num_predict": 50})))
    assert (end["message"]["content"], end["done_reason"], end["eval_count"]) == ("", "length", 50)
    assert end["message"]["thinking"]


def test_a_crash_takes_all_that_are_answered_with_it_and_the_next_loads_again() -> None:
    box = host(Fault("crashes", after=5, request=2), parallel=2, decode=5.0)
    done(box, chat(box))
    asked = []
    for _ in range(3):
        asked.append(chat(box, "hi"))
        box.advance(box.now + 0.06)
    victim, beside, waiting = asked
    for one in (victim, beside, waiting):
        done(box, one)
    assert [one.truth.outcome for one in (victim, beside, waiting)] == ["broken", "broken", "failed"]
    assert error(waiting) == "llama-server process no longer running: -1"
    after = done(box, chat(box, "hi"))
    assert (text(after), after.truth.reloaded) == ("".join(TEN), "the runner had died")


def test_a_runner_that_is_stopped_holds_its_answers_and_the_next_request_waits_ten_seconds_for_its_word() -> None:
    box = host()
    done(box, chat(box))
    first = chat(box, "hi")
    until(box, lambda: first.truth.output == 3)
    box.stop("llama3.2")
    second = chat(box, "hi")
    box.advance(box.now + 5)
    assert (first.truth.output, second.over) == (3, False)
    box.resume("llama3.2")
    assert text(done(box, first)) == text(done(box, second)) == "".join(TEN)
    box.stop("llama3.2")
    third = chat(box, "hi")
    done(box, third)
    assert third.truth.reloaded == "the runner did not answer"
    assert 20 < third.truth.pending < 26  # once for the fast way, once for the queue, and the memory has to come free


def test_a_load_whose_process_is_killed_or_stopped() -> None:
    box = host()
    killed = chat(box, "hi")
    box.advance(0.7)
    box.kill("llama3.2")
    assert "process has terminated: signal: killed" in error(killed)
    held = chat(box, "hi")
    box.advance(box.now + 0.1)
    box.stop("llama3.2")
    box.advance(box.now + 100)
    assert not held.over
    box.resume("llama3.2")
    assert held.truth.outcome == "running"
    assert text(done(box, held)) == "".join(TEN)


def test_a_wedged_scheduler_still_hands_over_what_is_loaded() -> None:
    box = OllamaModel("a", "b", faults=[Fault("deadlock", model="b")])
    done(box, chat(box, "hi", model="a"))
    waiting = chat(box, "hi", model="b")
    assert not done(box, chat(box, "hi", model="a")).truth.cold
    box.advance(box.now + 10_000)
    assert not waiting.over


def test_a_window_shrinks_and_a_gpu_is_lost_without_a_word() -> None:
    box = host(Fault("window shrinks", request=1), Fault("falls back to CPU", request=2))
    first = done(box, chat(box, "hi"))
    assert (first.truth.window, in_memory(box)["llama3.2"]["context_length"]) == (4096, 4096)
    second = done(box, chat(box, "hi", options={"num_ctx": 2000}))
    assert (second.truth.cpu, in_memory(box)["llama3.2"]["size_vram"]) == (1.0, 0)
    assert second.truth.decode > 7 * first.truth.decode


def test_an_embedding_without_numbers_is_the_servers_fault_with_the_status_of_a_callers() -> None:
    box = host(Fault("NaN"))
    exchange = done(box, embed(box, "hi"))
    assert (status(exchange), exchange.truth.outcome) == (400, "failed")
    assert "NaN" in error(exchange)


def test_a_fault_strikes_whom_it_names_when_it_names_and_as_often() -> None:
    box = OllamaModel("a", "b", faults=[Fault("reset", model="a", since=10, until=20, times=2)])

    def struck(model: str) -> bool:
        return dropped(chat(box, "hi", model=model))

    assert not struck("a")
    box.advance(15)
    assert [struck("b"), struck("a"), struck("a"), struck("a")] == [False, True, True, False]
    box.inject(Fault("reset", request=len(box.log) + 2))
    assert [struck("b"), struck("b"), struck("b")] == [False, True, False]
    box.inject(Fault("reset", chance=0.3))
    assert 230 < sum(struck("b") for _ in range(1000)) < 370


@pytest.mark.parametrize("wrong", [{"name": "goes mad"}, {"name": "reset", "after": -1}, {"name": "ends", "chance": 2}])
def test_a_fault_that_is_none_is_said_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fault"):
        Fault(**wrong)


def test_every_fault_of_the_catalogue_is_tried_here_and_stands_on_the_page() -> None:
    here = Path(__file__)
    source, page = here.read_text(), here.parents[2].joinpath("docs", "fake-ollama.md").read_text()
    assert [name for name in CATALOGUE if f'"{name}"' not in source] == []
    assert [name for name in CATALOGUE if f"`{name}`" not in page] == []
