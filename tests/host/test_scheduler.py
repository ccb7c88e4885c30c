"""Loads, reloads, evictions, keep_alive, the queue and its 503, as server/sched.go has them."""

from __future__ import annotations

import math

import pytest

from resilient_llm.testing import LoadTruth, Machine, OllamaModel, Pulled, Settings
from resilient_llm.testing._host.facts import GIB

from .drive import chat, done, embed, error, generate, in_memory, last, status, until

LOAD = 0.5 + 2_019_393_189 / 2.0e9  # seconds: a process, and the default model from the disk
AGAIN = 0.5 + 2_019_393_189 / 8.0e9  # the same from the page cache


def loads(host: OllamaModel) -> list[tuple[str, str, str]]:
    return [(one.model.removesuffix(":latest"), one.why, one.outcome) for one in host.loads]


def two(**settings: object) -> OllamaModel:
    """A machine on which one of two models fits."""
    machine = Machine(vram=12 * GIB)
    models = (Pulled("a", size=8 * GIB), Pulled("b", size=8 * GIB))
    return OllamaModel(*models, machine=machine, settings=Settings(**settings))  # type: ignore[arg-type]


def test_the_first_request_loads_and_the_second_does_not() -> None:
    host = OllamaModel()
    first, second = done(host, chat(host, "hi")), done(host, chat(host, "hi"))
    assert first.truth.load == pytest.approx(LOAD)
    assert LOAD < last(first)["load_duration"] / 1e9 < LOAD + 0.05
    assert 0 < last(second)["load_duration"] / 1e9 < 0.05
    assert (first.truth.cold, second.truth.cold) == (True, False)
    assert loads(host) == [("llama3.2", "cold", "completed")]


RELOADS = [
    ({"options": {"num_ctx": 8192}}, {"options": {"num_ctx": 4096}}, "num_ctx: 8192 -> 4096"),
    ({"options": {"num_ctx": 8192}}, {}, "num_ctx: 8192 -> 32768"),  # the flip of every other client (ollama#8029)
    ({}, {"shift": False}, "shift: True -> False"),
    ({}, {"options": {"num_batch": 256}}, "num_batch: 512 -> 256"),
    ({}, {"options": {"num_gpu": 0}}, "num_gpu: -1 -> 0"),
    ({}, {"options": {"main_gpu": 1}}, "main_gpu: None -> 1"),
    ({}, {"options": {"use_mmap": False}}, "use_mmap: None -> False"),
    ({}, {"options": {"num_thread": 2}}, "num_thread: 0 -> 2"),
    ({}, {"options": {"draft_num_predict": 0}}, "draft_num_predict: 4 -> 0"),
]
SAME = [
    ({}, {}),
    ({}, {"options": {"num_ctx": 32768}}),  # what it has by itself
    ({"options": {"num_ctx": 10**6}}, {"options": {"num_ctx": 10**7}}),  # both cut to what was trained
    ({"shift": True}, {}),
    ({"options": {"num_gpu": 10}}, {"options": {"num_gpu": -1}}),
    ({}, {"options": {"temperature": 0, "seed": 7, "num_predict": 3, "stop": ["x"]}}),
    ({}, {"format": "json", "think": False, "keep_alive": 60}),
]


@pytest.mark.parametrize(("before", "after", "why"), RELOADS)
def test_an_option_of_the_runner_that_differs_loads_the_model_again(
    before: dict[str, object], after: dict[str, object], why: str
) -> None:
    host = OllamaModel()
    done(host, chat(host, "hi", **before))
    again = done(host, chat(host, "hi", **after))
    assert again.truth.reloaded == why
    assert loads(host)[1:] == [("llama3.2", why, "completed")]
    assert last(again)["load_duration"] / 1e9 > AGAIN + 0.25  # the memory of the first had to come free


@pytest.mark.parametrize(("before", "after"), SAME)
def test_nothing_else_does(before: dict[str, object], after: dict[str, object]) -> None:
    host = OllamaModel()
    done(host, chat(host, "hi", **before))
    assert done(host, chat(host, "hi", **after)).truth.reloaded is None
    assert len(host.loads) == 1


def test_an_embedding_flips_a_model_that_was_loaded_without_shift() -> None:
    host = OllamaModel()
    done(host, chat(host, "hi", shift=False))
    assert done(host, embed(host, "hi")).truth.reloaded == "shift: False -> True"


def test_an_old_version_does_not_look_at_shift() -> None:
    host = OllamaModel(version="0.9.3")
    done(host, chat(host, "hi"))
    assert done(host, chat(host, "hi", shift=False)).truth.reloaded is None


def test_an_idle_model_goes_after_five_minutes_and_each_request_begins_them_anew() -> None:
    host = OllamaModel()
    done(host, chat(host, "hi"))
    host.advance(host.now + 299)
    done(host, chat(host, "hi"))
    host.advance(host.now + 299)
    assert host.loaded == ("llama3.2:latest",)
    host.advance(host.now + 2)
    assert host.loaded == ()


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [(10, 10), (2.5, 2.5), ("90s", 90), ("1h30m", 5400), ("500ms", 0.5), (0, 0), ("0", 0)]
)
def test_a_request_sets_how_long_the_model_stays(keep_alive: object, seconds: float) -> None:
    host = OllamaModel()
    done(host, chat(host, "hi", keep_alive=keep_alive))
    host.advance(host.now + seconds - 0.01)
    assert bool(host.loaded) is (seconds > 0)
    host.advance(host.now + 0.02)
    assert host.loaded == ()


@pytest.mark.parametrize("keep_alive", [-1, "-1m"])
def test_a_negative_keep_alive_is_for_ever(keep_alive: object) -> None:
    host = OllamaModel()
    done(host, chat(host, "hi", keep_alive=keep_alive))
    assert in_memory(host)["llama3.2"]["expires_at"].startswith("2317")
    host.advance(host.now + 1e8)
    assert host.loaded
    done(host, chat(host, "hi"))  # says nothing: for ever stays for ever
    host.advance(host.now + 1e8)
    assert host.loaded


def test_load_and_unload_answer_without_figures() -> None:
    host = OllamaModel()
    loaded = last(done(host, chat(host)))
    assert list(loaded) == ["model", "created_at", "message", "done_reason", "done"]
    assert (loaded["done_reason"], host.loaded) == ("load", ("llama3.2:latest",))
    gone = chat(host, keep_alive=0)
    assert (gone.over, last(gone)["done_reason"], host.loaded) == (True, "unload", ())


def test_an_unload_waits_for_who_is_being_answered() -> None:
    host = OllamaModel()
    busy = chat(host, "one two three")
    until(host, lambda: busy.begun)
    chat(host, keep_alive=0)
    assert host.loaded
    done(host, busy)
    assert host.loaded == ()


def test_a_model_leaves_for_another_that_does_not_fit_beside_it() -> None:
    host = two()
    done(host, chat(host, "hi", model="a"))
    second = done(host, chat(host, "hi", model="b"))
    assert (second.truth.evicted, host.loaded) == (("a:latest",), ("b:latest",))
    assert 0.25 < second.truth.pending < 5


def test_the_number_of_models_in_memory_has_a_limit_and_the_shortest_stay_goes_first() -> None:
    host = OllamaModel("a", "b", "c", machine=Machine(vram=200 * GIB), settings=Settings(max_loaded=2))
    done(host, chat(host, "hi", model="a", keep_alive=600))
    done(host, chat(host, "hi", model="b", keep_alive=60))
    assert done(host, chat(host, "hi", model="c")).truth.evicted == ("b:latest",)


def test_a_busy_model_is_waited_for_and_keeps_taking_requests_meanwhile() -> None:
    """No fairness: ollama/ollama#14407, #14578."""
    host = two()
    done(host, chat(host, model="a"))
    busy = chat(host, "one two three", model="a")
    waiting = chat(host, "hi", model="b")
    until(host, lambda: busy.begun)
    late = chat(host, "hi", model="a")  # comes after b, and is served before it
    done(host, late)
    assert not waiting.over
    assert done(host, waiting).truth.evicted == ("a:latest",)


@pytest.mark.parametrize(("keep_alive", "ends"), [(60, True), (-1, False), (None, True)])
def test_a_keep_alive_that_meets_a_model_which_was_to_go_holds_up_every_load(keep_alive: object, ends: bool) -> None:
    """ollama/ollama#17408: production stood still for five and a half hours; all metadata were green."""
    host = two()
    done(host, chat(host, model="a"))
    busy = chat(host, "one two three", model="a")
    until(host, lambda: busy.begun)
    waiting = chat(host, "hi", model="b")
    given = {} if keep_alive is None else {"keep_alive": keep_alive}
    done(host, chat(host, "hi", model="a", **given))
    began = host.now
    host.advance(began + 3600)
    assert waiting.over is ends
    if ends:
        assert (waiting.truth.pending > 60) is (keep_alive is not None)
    else:
        assert in_memory(host).keys() == {"a"}
        assert not done(host, chat(host, "hi", model="a")).left


def full(version: str) -> tuple[OllamaModel, list[int | None]]:
    """Loaded and busy, a queue of two, and ten more requests for the same model."""
    host = OllamaModel(settings=Settings(max_queue=2), version=version)
    done(host, chat(host))
    asked = [chat(host, "hi") for _ in range(10)]
    for one in asked:
        done(host, one)
    return host, [status(one) for one in asked]


@pytest.mark.parametrize("version", ["0.9.3", "0.32.15"])
def test_requests_for_a_loaded_model_wait_without_bound(version: str) -> None:
    assert full(version)[1] == [200] * 10


@pytest.mark.parametrize(("version", "waiting"), [("0.9.3", 4), ("0.32.15", 3)])
def test_only_those_that_wait_for_a_load_fill_the_queue(version: str, waiting: int) -> None:
    """One loads and two wait; before 0.30 one more stands at the head of the queue, no longer in it."""
    host = OllamaModel(settings=Settings(max_queue=2), version=version)
    asked = [chat(host, "hi") for _ in range(6)]
    assert [status(one) for one in asked] == [None] * waiting + [503] * (6 - waiting)
    assert error(asked[-1]) == "server busy, please try again.  maximum pending requests exceeded"
    assert asked[-1].truth.outcome == "refused"
    host.hang_up(asked[2])  # who has left keeps his place until his turn
    assert status(chat(host, "hi")) == 503
    for one in asked:
        done(host, one)
    assert len(host.loads) == 1


def test_a_load_ends_with_the_request_that_began_it_and_the_next_begins_anew() -> None:
    """ollama/ollama#8006."""
    host = OllamaModel()
    first, second = chat(host, "hi"), chat(host, "hi")
    host.advance(LOAD / 2)
    host.hang_up(first)
    done(host, second)
    assert [one.outcome for one in host.loads] == ["aborted", "completed"]
    assert second.truth.pending == pytest.approx(LOAD / 2)
    assert second.truth.load == pytest.approx(AGAIN)  # only the file is in memory already
    assert first.truth.outcome == "disconnected"


def test_who_waits_for_a_load_and_leaves_does_no_harm() -> None:
    host = OllamaModel()
    first, second = chat(host, "hi"), chat(host, "hi")
    host.hang_up(second)
    done(host, first)
    assert loads(host) == [("llama3.2", "cold", "completed")]


@pytest.mark.parametrize(("version", "seconds"), [("0.9.3", 0), ("0.32.15", LOAD)])
def test_one_load_holds_up_every_other(version: str, seconds: float) -> None:
    host = OllamaModel("a", "b", machine=Machine(vram=200 * GIB), version=version)
    one, other = chat(host, "hi", model="a"), chat(host, "hi", model="b")
    done(host, one)
    done(host, other)
    assert other.truth.pending == pytest.approx(seconds)


@pytest.mark.parametrize(("version", "listed"), [("0.9.3", True), ("0.32.15", False)])
def test_a_model_that_is_loading_is_not_listed(version: str, listed: bool) -> None:
    host = OllamaModel(version=version)
    chat(host, "hi")
    assert bool(in_memory(host)) is listed


def test_the_list_waits_while_the_memory_of_a_gpu_comes_free() -> None:
    host = OllamaModel()
    done(host, chat(host))
    chat(host, keep_alive=0)
    asked = host.send("GET", "/api/ps")
    assert not asked.over
    done(host, asked)
    assert 0.25 < host.now - asked.truth.began < 5.1


WINDOWS = [(0, 4096), (8, 4096), (24, 32768), (48, 262144)]


@pytest.mark.parametrize(("gib", "window"), WINDOWS)
def test_the_window_of_nobodys_choice_goes_by_the_memory_of_the_gpu(gib: int, window: int) -> None:
    host = OllamaModel(Pulled(trained=10**6), machine=Machine(vram=gib * GIB))
    done(host, chat(host))
    assert in_memory(host)["llama3.2"]["context_length"] == window


def test_the_models_own_window_and_the_variable_come_before_that() -> None:
    host = OllamaModel(
        Pulled("a", num_ctx=2000), "b", settings=Settings(context_length=3000), machine=Machine(80 * GIB)
    )
    done(host, chat(host, model="a"))
    done(host, chat(host, model="b"))
    assert {name: one["context_length"] for name, one in in_memory(host).items()} == {"a": 2000, "b": 3000}


def test_what_does_not_fit_on_the_gpu_is_on_the_cpu_and_slow() -> None:
    big = Pulled(size=20 * GIB, kv_bytes=0)
    fast, slow = (OllamaModel(big, machine=Machine(vram=gib * GIB)) for gib in (24, 5))
    rates = []
    for host in (fast, slow):
        answer = last(done(host, chat(host, "hi")))
        rates.append(answer["eval_count"] / answer["eval_duration"])
    assert (fast.log[0].cpu, slow.log[0].cpu) == (0.0, 0.75)
    assert rates[0] / rates[1] == pytest.approx(0.25 + 0.75 * 8)
    (shown,) = in_memory(slow).values()
    assert shown["size_vram"] / shown["size"] == 0.25


def test_a_window_of_nobodys_choice_shrinks_where_memory_ends_and_another_fails() -> None:
    small = Machine(vram=0, ram=6 * GIB)
    wide = Settings(context_length=32768)
    auto = OllamaModel(Pulled(kv_bytes=200_000), machine=small, settings=wide)
    assert done(auto, chat(auto, "hi")).truth.window == 4096
    assert [one.outcome for one in auto.loads] == ["failed", "completed"]
    failed = done(auto, chat(auto, "hi", options={"num_ctx": 65536}))
    assert (status(failed), failed.truth.outcome) == (500, "failed")
    assert "out-of-memory" in error(failed)


def test_each_load_of_a_model_that_leaks_leaves_less_of_the_gpu() -> None:
    host = OllamaModel(Pulled(leak=3 * GIB, kv_bytes=0), machine=Machine(vram=4 * GIB))
    shares: list[LoadTruth] = []
    for _ in range(3):
        done(host, chat(host, keep_alive=1))
        host.advance(host.now + 10)
        shares.append(host.loads[-1])
    assert shares[0].cpu == 0
    assert 0 < shares[1].cpu < shares[2].cpu == 1


def test_slots_and_window_take_memory_together() -> None:
    host = OllamaModel(settings=Settings(num_parallel=4))
    done(host, chat(host, options={"num_ctx": 1000}))
    assert in_memory(host)["llama3.2"]["size"] == 2_019_393_189 + 4 * 1000 * 114_688


@pytest.mark.parametrize(("kept", "share"), [("f16", 1), ("q8_0", 34 / 64), ("q4_0", 18 / 64)])
def test_a_window_may_be_kept_in_less(kept: str, share: float) -> None:
    host = OllamaModel(settings=Settings(kv_cache_type=kept))  # type: ignore[arg-type]  # one of its three words
    done(host, chat(host, options={"num_ctx": 6400}))
    assert in_memory(host)["llama3.2"]["size"] == 2_019_393_189 + round(6400 * 114_688 * share)


def test_another_program_takes_part() -> None:
    host = OllamaModel()
    host.also(100, "/api/chat", {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "keep_alive": 0})
    done(host, chat(host, "hi"))
    host.advance(200)
    assert [one.tenant for one in host.log] == [False, True]
    assert host.loaded == ()  # the last who says something about it has his way


def test_a_model_for_embeddings_alone_has_one_slot_and_does_not_chat() -> None:
    host = OllamaModel(Pulled("bge", capabilities=("embedding",)), settings=Settings(num_parallel=4))
    refused = chat(host, "hi", model="bge")
    assert (status(refused), error(refused)) == (400, '"bge" does not support chat')
    assert error(generate(host, "hi", model="bge")) == '"bge" does not support generate'
    one, other = embed(host, "x" * 20_000, model="bge"), embed(host, "x" * 20_000, model="bge")
    done(host, one)
    assert done(host, other).truth.slot > 0


def test_settings_that_make_no_sense_are_said_at_once() -> None:
    for wrong in ({"num_parallel": 0}, {"max_queue": -1}, {"keep_alive": math.nan}, {"kv_cache_type": "f32"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)  # type: ignore[arg-type]
