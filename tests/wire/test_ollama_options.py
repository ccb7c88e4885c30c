"""The options of Ollama: a wrong name is found, and so is what makes it load the model anew."""

from __future__ import annotations

import pytest

from resilient_llm.wire._ollama_options import KNOWN, RUNNER, differing, mistyped, unknown


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("num_cxt", "num_ctx"),
        ("numctx", "num_ctx"),
        ("n_ctx", "num_ctx"),
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("num_predikt", "num_predict"),
        ("topk", "top_k"),
        ("repetition_penalty", "repeat_penalty"),
        ("num_threads", "num_thread"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_real_one(wrong: str, meant: str) -> None:
    (said,) = unknown({wrong: 1})
    assert repr(wrong) in said
    assert f"did you mean {meant!r}?" in said


def test_a_name_like_none_is_only_said_to_be_ignored() -> None:
    (said,) = unknown({"zzz": 1})
    assert "ignores it" in said
    assert "mean" not in said


def test_a_former_name_is_said_to_be_one_of_older_servers() -> None:
    (said,) = unknown({"mirostat": 1})
    assert "older servers" in said


def test_every_real_name_passes() -> None:
    assert unknown(dict.fromkeys(KNOWN, 1)) == []
    assert RUNNER <= KNOWN


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"num_gpu": "1"}, "num_gpu"),
        ({"temperature": [0.1]}, "temperature"),
        ({"num_ctx": True}, "num_ctx"),
        ({"use_mmap": 1}, "use_mmap"),
        ({"num_gpu": 1, "temperature": 0.5, "use_mmap": False, "stop": ["a"], "seed": None, "top_k": 20.0}, None),
    ],
)
def test_a_type_that_ollama_answers_with_a_500_is_found(options: dict[str, object], wrong: str | None) -> None:
    said = mistyped(options)
    assert (said is None) == (wrong is None)
    assert wrong is None or repr(wrong) in str(said)


@pytest.mark.parametrize(
    ("pinned", "given", "said"),
    [
        ({"num_ctx": 4096}, {"num_ctx": 8192}, ["num_ctx: 8192 instead of 4096"]),
        ({}, {"num_ctx": 8192}, ["num_ctx: 8192"]),
        ({"num_ctx": 4096}, {"num_ctx": 4096, "top_k": 3, "num_predict": 5}, []),
        ({"num_gpu": 1}, {}, []),
    ],
)
def test_only_the_options_of_the_runner_mean_a_load(
    pinned: dict[str, object], given: dict[str, object], said: list[str]
) -> None:
    assert differing(pinned, given) == said
