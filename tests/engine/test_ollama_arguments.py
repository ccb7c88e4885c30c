"""What is wrong with an `Ollama` as it is written is said when it is made, with the right spelling."""

from __future__ import annotations

import math

import pytest

from resilient_llm import ConfigError, Ollama, OptionWarning
from resilient_llm.backends import _ollama_settings as settings


def test_a_wrong_name_among_the_options_is_warned_of_where_it_is_written() -> None:
    with pytest.warns(OptionWarning, match="did you mean 'num_ctx'") as caught:
        Ollama("m", options={"num_cxt": 8192})
    assert caught[0].filename == __file__
    with pytest.raises(ConfigError, match="'num_gpu' is a number, not str"):
        Ollama("m", options={"num_gpu": "all"})


@pytest.mark.parametrize("wrong", ["5", "-1", "forever", "10 m", True, "m"])
def test_a_keep_alive_that_ollama_refuses_is_refused_with_the_right_spelling(wrong: object) -> None:
    with pytest.raises(ConfigError, match="keep_alive") as caught:
        Ollama("m", keep_alive=wrong)  # type: ignore[arg-type]
    if wrong == "5":
        assert "write 5 without quotes, or '5s'" in str(caught.value)


@pytest.mark.parametrize(
    ("good", "seconds"),
    [(5, 5), (0, 0), (-1, math.inf), (2.5, 2.5), ("10m", 600), ("1h30m", 5400), ("-1m", math.inf), ("0s", 0),
     ("500ms", 0.5), ("1.5h", 5400)],
)  # fmt: skip
def test_every_spelling_that_ollama_takes_is_taken_for_what_it_means(good: float | str, seconds: float) -> None:
    Ollama("m", keep_alive=good)
    assert settings.stays(good) == pytest.approx(seconds)
