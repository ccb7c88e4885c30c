"""How long to wait, in all the ways that servers say it; the most exact source wins."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm.wire._hints import request_id, retry_after

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def wait(headers: dict[str, str] | None = None, message: str = "", body: Any = None) -> float | None:
    return retry_after(headers or {}, message, body, now=lambda: NOW)


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("retry-after-ms", "1500", 1.5),
        ("x-ms-retry-after-ms", "250.5", 0.2505),
        ("retry-after", "0", 0.0),
        ("retry-after", "7", 7.0),
        ("retry-after", " 4.77 ", 4.77),
        ("retry-after", "Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("retry-after", "Fri, 15 Jan 2027 09:00:30 +0100", 30.0),
        ("retry-after", "2027-01-15T08:00:20Z", 20.0),
        ("retry-after", "1m30s", 90.0),
        ("retry-after", "1800000060", 60.0),
        ("retry-after", "1800000060000", 60.0),
    ],
)
def test_headers(name: str, value: str, seconds: float) -> None:
    assert wait({name: value}) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "-0.5",
        "nan",
        "inf",
        "Infinity",
        "1e309",
        "9" * 400,
        "soon",
        "1_0",
        "٣",
        "7;",
        "1h2x",
        "9" * 20,
        "Fri, 15 Jan 2027 07:59:59 GMT",
        "Fri, 99 Foo 2027",
        "1799999999",
        "0x10",
    ],
)
@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
def test_what_is_no_wait_is_not_there(name: str, value: str) -> None:
    assert wait({name: value}) is None or (name == "retry-after-ms" and value == "1799999999")


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached. Please try again in 4.77s. Visit …", 4.77),
        ("Please try again in 120ms.", 0.12),
        ("Please try again in 6m0s.", 360.0),
        ("Please retry after 6 seconds.", 6.0),
        ("please try again in 2 minutes", 120.0),
        ("Please retry in 7.2s", 7.2),
        ("Your quota will reset after 18h31m10s.", 66670.0),
        ("Please wait 20 seconds", 20.0),
        ("try again in 1 minute, 5 seconds", 65.0),
        ("Try again in 1 day", 86400.0),
        ("try again later", None),
        ("Limit 30000, used 4s", None),
        ("try again in 5 moons", None),
    ],
)
def test_messages(message: str, seconds: float | None) -> None:
    assert wait(message=message) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("delay", ["34.4s", {"seconds": 34.4}, {"seconds": "34.4", "nanos": 0}])
def test_geminis_retry_delay(delay: object) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    assert wait(body=[{"error": {"code": 429, "details": [{"@type": "x"}, info]}}]) == pytest.approx(34.4)


@pytest.mark.parametrize(
    ("remaining", "reset", "seconds"),
    [
        ("0", "2m59.56s", 179.56),
        ("0", "1s", 1.0),
        ("0", "13", 13.0),
        ("0", "-1", None),
        ("0", "0", None),
        ("1", "2m", None),
        ("-1", "2m", None),
        ("0", "1800000005", 5.0),
        ("0", "2027-01-15T08:00:05Z", 5.0),
    ],
)
def test_the_reset_counts_only_where_nothing_remains(remaining: str, reset: str, seconds: float | None) -> None:
    for kind in ("x-ratelimit-{}-tokens", "x-ratelimit-{}", "anthropic-ratelimit-tokens-{}"):
        headers = {kind.format("remaining"): remaining, kind.format("reset"): reset}
        assert wait(headers) == (None if seconds is None else pytest.approx(seconds))


def test_of_two_empty_buckets_the_later_counts() -> None:
    empty = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "3s"}
    assert wait({**empty, "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m"}) == 60
    assert wait({**empty, "x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "1m"}) == 3


def test_openrouter_quotes_the_headers_in_the_body() -> None:
    quoted = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1800000060000"}
    assert wait(body={"error": {"code": 429, "metadata": {"headers": quoted}}}) == 60


def test_sources_are_asked_in_order_and_an_unreadable_one_is_passed_over() -> None:
    headers = {
        "retry-after-ms": "1000",
        "x-ms-retry-after-ms": "2000",
        "retry-after": "3",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "6",
    }
    body = {"error": {"details": [{"retryDelay": "4s"}]}}
    got = []
    for name in ("retry-after-ms", "x-ms-retry-after-ms", "retry-after"):
        got.append(wait(headers, "try again in 5s", body))
        headers[name] = "nan"
    got.append(wait(headers, "try again in 5s", body))
    got.append(wait(headers, "try again in 5s"))
    got.append(wait(headers))
    assert got == [1, 2, 3, 4, 5, 6]


json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["retryDelay", "headers", "a"]), inner),
    max_leaves=12,
)


@given(st.text(max_size=40) | st.from_regex(r"[0-9.:TZ+\-smhd ]{1,30}", fullmatch=True), json)
def test_whatever_comes_it_is_a_wait_or_none(text: str, body: object) -> None:
    names = ("retry-after-ms", "retry-after", "x-ratelimit-reset")
    for headers in [{name: text, "x-ratelimit-remaining": "0"} for name in names]:
        seconds = wait(headers, f"try again in {text}", body)
        assert seconds is None or 0 <= seconds < 1e8


@pytest.mark.parametrize(
    "name",
    [
        "x-request-id",
        "request-id",
        "apim-request-id",
        "mistral-correlation-id",
        "inference-id",
        "x-generation-id",
        "cf-ray",
    ],
)
def test_request_ids(name: str) -> None:
    assert request_id({name: " req_1 ", "date": "x"}) == "req_1"


def test_a_request_id_names_the_request_rather_than_the_hop() -> None:
    assert request_id({"cf-ray": "hop", "x-request-id": "req"}) == "req"


@pytest.mark.parametrize("value", ["", "  ", "a\x1b[31m", "é"])
def test_a_request_id_that_could_spoil_a_log_is_left_out(value: str) -> None:
    assert request_id({"x-request-id": value}) is None
    assert len(request_id({"x-request-id": "a" * 5000}) or "") == 128
