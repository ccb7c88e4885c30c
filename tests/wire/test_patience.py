"""The header that carries what is left of a deadline: four forms are read, one is written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm.wire._patience import HEADER, say_left, seconds_left


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-request-timeout-ms": "1500"}, 1.5),
        ({"x-request-timeout-ms": " 1 "}, 0.001),
        ({"connect-timeout-ms": "9999999999"}, 9999999.999),  # the ten digits of its protocol
        ({"x-envoy-expected-rq-timeout-ms": "15000"}, 15),
        ({"grpc-timeout": "2H"}, 7200),
        ({"grpc-timeout": "3M"}, 180),
        ({"grpc-timeout": "3m"}, 0.003),  # minutes and milliseconds differ in the case alone
        ({"grpc-timeout": "4S"}, 4),
        ({"grpc-timeout": "500000u"}, 0.5),
        ({"grpc-timeout": "99999999n"}, 0.099999999),
        ({"x-request-timeout-ms": "9000", "grpc-timeout": "8S", "x-envoy-expected-rq-timeout-ms": "10000"}, 8),
        ({"x-request-timeout-ms": "soon", "grpc-timeout": "8S"}, 8),
        ({"x-request-timeout-ms": "0", "connect-timeout-ms": "7"}, 0.007),
    ],
)
def test_what_is_left_is_read(headers: dict[str, str], seconds: float) -> None:
    assert seconds_left(headers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "0", "000", "-5", "+5", "1.5", "1e3", "1500ms", "1 500", "٣", "99999999999", "NaN", "inf", "5,6"]
)
def test_what_is_no_number_of_milliseconds_is_not_there(value: str) -> None:
    assert seconds_left({"x-request-timeout-ms": value}) is None


@pytest.mark.parametrize("value", ["", "5", "S", "5s", "5h", "0S", "123456789S", "-1S", "1.5S", "5 S", "5SS"])
def test_what_is_no_timeout_of_grpc_is_not_there(value: str) -> None:
    assert seconds_left({"grpc-timeout": value}) is None


def test_without_such_a_header_nobody_said_anything() -> None:
    assert seconds_left({}) is None
    assert seconds_left({"x-request-timeout": "5"}) is None


@pytest.mark.parametrize(
    ("seconds", "value"), [(1.5, "1500"), (0.0019, "1"), (0.0001, "1"), (-3, "1"), (9_999_999, "9999999000")]
)
def test_what_is_left_is_written_in_milliseconds_and_never_as_none_at_all(seconds: float, value: str) -> None:
    assert say_left(seconds) == {HEADER: value}


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e7])
def test_where_there_is_no_end_nothing_is_written(seconds: float) -> None:
    assert say_left(seconds) == {}


@given(st.floats(0.001, 9_999_999))
def test_what_was_written_is_read_as_no_more_than_it_was(seconds: float) -> None:
    read = seconds_left(say_left(seconds))
    assert read is not None
    assert seconds - 0.001001 <= read <= seconds


@given(st.dictionaries(st.sampled_from([HEADER, "grpc-timeout", "connect-timeout-ms"]), st.text()))
def test_no_text_is_an_error(headers: dict[str, str]) -> None:
    seconds = seconds_left(headers)
    assert seconds is None or 0 < seconds < math.inf
