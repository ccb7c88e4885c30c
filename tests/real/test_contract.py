"""What holds of every Ollama, and what differs between versions: one suite for the fake, the real one and yours.

The subjects: `OllamaModel` set to 0.9.3 and to the current version, the real Ollama 0.9.3, and the server at
`OLLAMA_TEST_HOST` if there is one. Where the fake and a real server differ, the fake is mended; what was seen on which
version stands in `docs/ollama-versions.md`.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .subjects import Subject

WINDOW = 256
FIGURES = ("load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration")


def words(count: int) -> str:
    """A text of about so many tokens for any tokenizer, or more."""
    return "word " * count


# -- what it says of itself and its models


def test_it_says_that_it_runs_and_as_what(subject: Subject) -> None:
    answer = subject.http.get(f"{subject.url}/")
    assert (answer.status_code, answer.text) == (200, "Ollama is running")
    assert subject.get("/api/version") == {"version": subject.version.number}


def test_it_lists_its_models_and_shows_one(subject: Subject) -> None:
    tags = subject.get("/api/tags")["models"]
    (one,) = [tag for tag in tags if tag["name"].removesuffix(":latest") == subject.model.removesuffix(":latest")]
    assert {"name", "model", "modified_at", "size", "digest", "details"} <= one.keys()
    assert len(one["digest"]) == 64
    show = subject.post("/api/show", {"model": subject.model}).json()
    arch = show["model_info"]["general.architecture"]
    assert {"modelfile", "template", "details", "model_info", "capabilities", "modified_at"} <= show.keys()
    assert show["model_info"][f"{arch}.context_length"] > 0
    assert "completion" in show["capabilities"]


def test_it_lists_what_is_in_memory_and_its_window_since_0_10(subject: Subject) -> None:
    subject.chat(("user", "hi"), options={"num_ctx": WINDOW}).raise_for_status()
    one = next(one for one in subject.get("/api/ps")["models"] if one["name"].startswith(subject.model))
    assert {"name", "model", "size", "digest", "details", "expires_at", "size_vram"} <= one.keys()
    assert one.get("context_length") == (WINDOW if subject.version.told else None)


def test_a_model_that_is_not_there_is_a_404_in_its_versions_words(subject: Subject) -> None:
    answer = subject.post("/api/chat", {"model": "nope", "messages": [{"role": "user", "content": "hi"}]})
    assert (answer.status_code, answer.json()) == (404, {"error": subject.version.missing.format("nope")})
    shown = subject.post("/api/show", {"model": "nope"})
    assert (shown.status_code, shown.json()) == (404, {"error": "model 'nope' not found"})


@pytest.mark.usefixtures("hands")
def test_a_model_made_from_another_has_its_own_window(subject: Subject) -> None:
    made = {"model": "small", "from": subject.model, "parameters": {"num_ctx": WINDOW}, "stream": False}
    assert subject.post("/api/create", made).json() == {"status": "success"}
    show = subject.post("/api/show", {"model": "small"}).json()
    assert f"num_ctx {WINDOW}" in " ".join(show["parameters"].split())
    assert subject.count(("user", words(1000)), model="small") == cut(subject, WINDOW)


# -- answers


def test_a_stream_is_a_line_of_json_for_each_piece_and_the_figures_come_last(subject: Subject) -> None:
    body = subject.asked(("user", "hi"), stream=True, options={"num_predict": 8})
    answer = subject.post("/api/chat", body)
    *pieces, last = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert {tuple(piece) for piece in pieces} == {("model", "created_at", "message", "done")}
    assert list(last) == ["model", "created_at", "message", "done_reason", "done", "total_duration", *FIGURES]
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 8)
    whole = subject.post("/api/chat", {**body, "stream": False}).json()
    assert whole["message"]["content"] == "".join(piece["message"]["content"] for piece in pieces)
    assert list(whole) == list(last)


def test_the_figures_add_up_to_no_more_than_the_total(subject: Subject) -> None:
    end = subject.chat(("user", "hi"), options={"num_predict": 8}).json()
    parts = end["load_duration"] + end["prompt_eval_duration"] + end["eval_duration"]
    assert 0 < parts <= end["total_duration"]


@pytest.mark.usefixtures("hands")
def test_the_wait_for_a_slot_is_in_the_total_and_in_no_part(subject: Subject) -> None:
    subject.chat(("user", "hi"), model=subject.endless)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(lambda: subject.chat(("user", "hi"), model=subject.endless, options={"num_predict": 3000}))
        time.sleep(0.15)
        end = subject.chat(("user", "hi"), model=subject.endless).json()
        busy = long.result().json()
    waited = end["total_duration"] - end["load_duration"] - end["prompt_eval_duration"] - end["eval_duration"]
    assert waited > 0.3 * busy["eval_duration"]


def test_what_is_cached_is_counted_and_not_timed(subject: Subject) -> None:
    prompt = ("user", f"{time.monotonic_ns()} " + words(150))
    first, second = (subject.chat(prompt, options={"num_ctx": 1024}).json() for _ in range(2))
    assert first["prompt_eval_count"] == second["prompt_eval_count"] > 100
    assert second["prompt_eval_duration"] < first["prompt_eval_duration"]


# -- what is too long


def cut(subject: Subject, window: int) -> int:
    """What is left of one message that is too long."""
    if not subject.version.halves:
        return window
    keep = 4 + subject.bos
    return window - max((window - keep) // 2, 1)


@pytest.mark.parametrize("window", [WINDOW, 512])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_message_that_is_too_long_is_cut_without_a_word(subject: Subject, path: str, window: int) -> None:
    body = subject.asked(("user", words(1500)), prompt=words(1500), options={"num_ctx": window})
    answer = subject.post(path, body)
    assert (answer.status_code, answer.json()["prompt_eval_count"]) == (200, cut(subject, window))


def test_a_cut_begins_where_the_window_ends_or_one_token_before(subject: Subject) -> None:
    prompt = ("user", words(300))
    size = subject.count(prompt, options={"num_ctx": 1024})
    room = int(subject.version.halves)  # for one token of an answer
    assert subject.count(prompt, options={"num_ctx": size + room}) == size
    assert subject.count(prompt, options={"num_ctx": size + room - 1}) == cut(subject, size + room - 1)


def test_the_oldest_turns_go_first_and_the_system_stays(subject: Subject) -> None:
    system, turn = ("system", words(20)), ("user", words(16))
    one, two = subject.count(system, turn), subject.count(system, turn, turn)
    fit = (WINDOW - one) // (two - one)  # turns that fit beside the system's words and the last one
    assert subject.count(system, *[turn] * 40, options={"num_ctx": WINDOW}) == one + fit * (two - one)


def test_what_may_not_be_cut_is_refused_since_0_12_6(subject: Subject) -> None:
    answer = subject.chat(("user", words(1500)), truncate=False, shift=False, options={"num_ctx": WINDOW})
    if not subject.version.flags:
        assert (answer.status_code, answer.json()["prompt_eval_count"]) == (200, WINDOW)
        return
    assert answer.status_code == 400
    told = json.loads(answer.json()["error"])["error"]
    assert told["n_prompt_tokens"] > told["n_ctx"] == WINDOW


def test_a_window_larger_than_trained_is_made_as_small_without_a_word(subject: Subject) -> None:
    show = subject.post("/api/show", {"model": subject.model}).json()["model_info"]
    trained = show[f"{show['general.architecture']}.context_length"]
    if trained > 8192:
        pytest.skip("filling the window of this model takes too long")
    assert subject.count(("user", words(2 * trained)), options={"num_ctx": 10**6}) == cut(subject, trained)


@pytest.mark.usefixtures("hands")
def test_an_answer_that_outgrows_its_window_goes_on_unless_it_may_not(subject: Subject) -> None:
    options = {"num_ctx": 64, "num_predict": 150}
    long = subject.chat(("user", "hi"), model=subject.endless, options=options).json()
    assert (long["eval_count"], long["done_reason"]) == (150, "length")
    kept = subject.chat(("user", "hi"), model=subject.endless, shift=False, options=options).json()
    expected = 64 - kept["prompt_eval_count"] if subject.version.flags else 150
    assert (kept["eval_count"], kept["done_reason"]) == (expected, "length")


@pytest.mark.usefixtures("hands")
def test_an_answer_without_a_limit_ends_after_ten_windows(subject: Subject) -> None:
    options = {"num_ctx": 64, "num_predict": -1}
    end = subject.chat(("user", "hi"), model=subject.endless, options=options).json()
    assert (end["eval_count"], end["done_reason"]) == (640, "length")


def test_a_text_to_embed_is_cut_or_refused_in_its_versions_words(subject: Subject) -> None:
    body = {"model": subject.model, "input": words(1500), "options": {"num_ctx": WINDOW}}
    assert subject.post("/api/embed", body).json()["prompt_eval_count"] <= WINDOW
    refused = subject.post("/api/embed", {**body, "truncate": False})
    assert (refused.status_code, refused.json()) == (400, {"error": subject.version.too_long})


# -- what is wrong with a request

WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"options": {"temperature": "hot"}}, 500, 'option "temperature" must be of type float32'),
    ({"options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
    ({"keep_alive": "5"}, 400, 'time: missing unit in duration "5"'),
    ({"model": ""}, 400, "model is required"),
]


@pytest.mark.parametrize(("wrong", "status", "text"), WRONG)
def test_a_callers_mistake_has_these_words_and_may_have_a_servers_status(
    subject: Subject, wrong: dict[str, Any], status: int, text: str
) -> None:
    answer = subject.chat(("user", "hi"), **wrong)
    assert (answer.status_code, answer.json()) == (status, {"error": text})


def test_an_option_that_is_not_there_does_nothing(subject: Subject) -> None:
    assert subject.chat(("user", "hi"), options={"num_ctxt": 5, "nonsense": "x"}).status_code == 200
