"""A prompt that is too long: what is left of it, by version and template, to the token."""

from __future__ import annotations

import json

import pytest

from resilient_llm.testing import OllamaModel, Pulled

from .drive import chat, done, embed, error, generate, last, status, text, words

OLD, NEW = "0.9.3", "0.32.15"


def host(version: str = NEW, **model: object) -> OllamaModel:
    given = {"says": lambda _: ["ok"], **model}
    return OllamaModel(Pulled(**given), version=version)  # type: ignore[arg-type]  # a table of them


# ollama/ollama#17427, #17889 and #3839 name these counts
HALVES = [
    *((window, True, window // 2 + 3) for window in (2048, 4096, 8192, 32768, 65536)),
    *((window, False, window // 2 + 2) for window in (2048, 4096, 8192, 32768, 65536)),
]


@pytest.mark.parametrize(("window", "bos", "left"), HALVES)
def test_a_prompt_of_one_message_keeps_half_a_window(window: int, bos: bool, left: int) -> None:
    for ask in (generate, chat):
        exchange = done(box := host(adds_bos=bos), ask(box, words(2 * window), options={"num_ctx": window}))
        assert last(exchange)["prompt_eval_count"] == left
        truth = exchange.truth
        assert (truth.prompt, truth.kept, truth.truncated) == (2 * window, left, 2 * window - left)


@pytest.mark.parametrize(
    ("size", "left"), [(255, 255), (256, 256 - (256 - 5) // 2), (257, 256 - (256 - 5) // 2)], ids=str
)
def test_the_cut_begins_where_no_room_is_left_for_a_token(size: int, left: int) -> None:
    exchange = done(box := host(), generate(box, words(size), options={"num_ctx": 256}))
    assert last(exchange)["prompt_eval_count"] == left


@pytest.mark.parametrize(("size", "left"), [(256, 256), (257, 256), (5000, 256)])
def test_an_old_version_keeps_a_whole_window(size: int, left: int) -> None:
    exchange = done(box := host(OLD), generate(box, words(size), options={"num_ctx": 256}))
    assert last(exchange)["prompt_eval_count"] == left


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize("template", ["rendered", "native"])
def test_whole_turns_go_from_the_front_and_the_system_stays(version: str, template: str) -> None:
    turns = [words(50) for _ in range(9)]
    box = host(version, template=template)
    exchange = done(box, chat(box, *turns, system=words(30), options={"num_ctx": 256}))
    assert last(exchange)["prompt_eval_count"] == 30 + 4 * 50
    assert (exchange.truth.dropped, exchange.truth.prompt) == (5, 30 + 9 * 50)


def test_the_system_alone_fills_the_window_and_is_cut_with_the_rest() -> None:
    exchange = done(box := host(), chat(box, words(10), system=words(300), options={"num_ctx": 256}))
    assert last(exchange)["prompt_eval_count"] == 256 - (256 - 5) // 2


@pytest.mark.parametrize(("keep", "left"), [(0, 256 - 255 // 2), (100, 256 - (256 - 101) // 2), (-1, 256 - 1)])
def test_num_keep_stays(keep: int, left: int) -> None:
    options = {"num_ctx": 256, "num_keep": keep}
    exchange = done(box := host(), generate(box, words(500), options=options))
    assert last(exchange)["prompt_eval_count"] == left


def test_what_may_not_be_cut_is_refused_with_both_numbers() -> None:
    exchange = done(box := host(), chat(box, words(300), truncate=False, options={"num_ctx": 256}))
    told = json.loads(error(exchange))["error"]
    assert (status(exchange), told["n_prompt_tokens"], told["n_ctx"]) == (400, 300, 256)
    assert told["type"] == "exceed_context_size_error"
    assert exchange.truth.outcome == "refused"


def test_a_window_that_may_not_be_shifted_refuses_in_other_words() -> None:
    exchange = done(box := host(), generate(box, words(300), shift=False, options={"num_ctx": 256}))
    assert status(exchange) == 400
    assert error(exchange).startswith("the prompt is longer than the context length currently available to the model")


def test_a_native_template_refuses_what_is_left_although_it_may_be_cut() -> None:
    box = host(template="native")
    exchange = done(box, chat(box, words(100), words(100), words(300), options={"num_ctx": 256}))
    assert json.loads(error(exchange))["error"]["n_prompt_tokens"] == 300


def test_mlx_cuts_nothing() -> None:
    box = host(template="mlx")
    exchange = done(box, chat(box, words(100), words(100), words(300), options={"num_ctx": 256}))
    said = "input length (500 tokens) exceeds the model's maximum context length (256 tokens)"
    assert (status(exchange), error(exchange)) == (400, said)


def test_an_old_version_knows_none_of_the_flags() -> None:
    box = host(OLD)
    exchange = done(box, chat(box, words(300), truncate=False, shift=False, options={"num_ctx": 256}))
    assert (status(exchange), last(exchange)["prompt_eval_count"]) == (200, 256)


@pytest.mark.parametrize(("asked", "window"), [(1, 4), (4, 4), (100, 100), (10**6, 1000)])
def test_a_window_is_raised_to_four_and_cut_to_what_was_trained(asked: int, window: int) -> None:
    exchange = done(box := host(trained=1000), chat(box, "hi", options={"num_ctx": asked}))
    assert exchange.truth.window == window


def long_answer(count: int) -> Pulled:
    return Pulled(says=lambda _: [f"{number} " for number in range(count)])


def test_an_answer_beyond_the_window_throws_the_middle_away_and_goes_on() -> None:
    box = OllamaModel(long_answer(450))
    exchange = done(box, chat(box, words(100), options={"num_ctx": 256}))
    assert (last(exchange)["done_reason"], last(exchange)["eval_count"]) == ("stop", 450)
    assert exchange.truth.shifts == 3  # after 156 tokens, and then after each 125: (256 - 5) // 2


@pytest.mark.parametrize("model", [{"shifts": False}, {"template": "mlx"}], ids=str)
@pytest.mark.parametrize("asked", [{}, {"shift": False}], ids=str)
def test_an_answer_that_may_not_be_shifted_ends_with_length(model: dict[str, object], asked: dict[str, object]) -> None:
    box = OllamaModel(Pulled(says=long_answer(400).says, **(model if not asked else {})))  # type: ignore[arg-type]
    exchange = done(box, chat(box, words(100), **asked, options={"num_ctx": 256}))
    assert (last(exchange)["done_reason"], last(exchange)["eval_count"]) == ("length", 156)


@pytest.mark.parametrize("limit", [None, -1, 10**9])
def test_an_answer_without_end_ends_after_ten_windows(limit: int | None) -> None:
    box = OllamaModel(long_answer(10_000))
    exchange = done(box, chat(box, "hi", options={"num_ctx": 64, "num_predict": limit}))
    assert (last(exchange)["done_reason"], last(exchange)["eval_count"]) == ("length", 640)


def test_a_limit_is_kept_and_a_negative_is_none() -> None:
    box = OllamaModel(long_answer(100))
    exchange = done(box, chat(box, "hi", options={"num_predict": 3}))
    assert (text(exchange), last(exchange)["done_reason"]) == ("0 1 2 ", "length")


def test_inputs_are_cut_each_for_itself() -> None:
    box = host()
    exchange = done(box, embed(box, words(10), words(500), options={"num_ctx": 256}))
    assert last(exchange)["prompt_eval_count"] == 266
    assert exchange.truth.truncated == 244


@pytest.mark.parametrize(
    ("version", "said"),
    [(OLD, "input length exceeds maximum context length"), (NEW, "the input length exceeds the context length")],
)
def test_inputs_that_may_not_be_cut_fail_together(version: str, said: str) -> None:
    box = host(version)
    exchange = done(box, embed(box, "short", words(500), truncate=False, options={"num_ctx": 256}))
    assert (status(exchange), error(exchange)) == (400, said)


def test_an_image_has_a_price_and_what_has_one_is_refused_and_not_cut() -> None:
    box = host(capabilities=("completion", "vision"))
    message = {"role": "user", "content": words(3000), "images": ["AAAA"]}
    body = {"model": "llama3.2", "messages": [message], "options": {"num_ctx": 2048}}
    exchange = done(box, box.send("POST", "/api/chat", body))
    assert json.loads(error(exchange))["error"]["n_prompt_tokens"] == 3000 + 768
