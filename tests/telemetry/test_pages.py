"""The names are a contract with whoever built a dashboard: the list changes on purpose, pages and files follow it."""

from __future__ import annotations

import inspect
import itertools
import json
import re
from pathlib import Path

import pytest
from docs.observability import names as names_page
from docs.observability import queries
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest

from resilient_llm import AsyncClient, Bulkhead, CircuitBreaker, Retry, Route, errors
from resilient_llm.errors import ConnectFailed, LLMError
from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry import _semconv_metrics as metrics
from resilient_llm.testing import FakeBackend, fail, say

GOLDEN = Path(__file__).with_name("names.json")
EVERY = {*metrics.METRICS, *itertools.chain(*metrics.CONVENTIONS.values())}


def contract() -> dict[str, object]:
    """Everything that somebody may have built on."""
    return {
        "attributes": {one.key: [*one.on, one.kind] for one in names.NAMES.values()},
        "events": {one.name: sorted(one.attributes) for one in names.EVENTS},
        "metrics": {one.name: [one.instrument, one.unit, *sorted(one.labels)] for one in EVERY},
        "error types": sorted({word for word, _ in names.ERROR_TYPES.values()}),
        "outcomes": sorted(names.OUTCOMES),
        "buckets": [*metrics.DURATIONS],
    }


def test_no_name_changes_by_accident() -> None:
    """If it was on purpose: write the file anew, and say so in the changelog."""
    assert contract() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("on", ["call", "attempt", "tool"])
def test_no_key_is_the_beginning_of_another(on: str) -> None:
    keys = [one.key for one in names.NAMES.values() if on in one.on]
    assert not [(a, b) for a in keys for b in keys if b.startswith(f"{a}.")]


def test_no_name_of_ours_stands_in_the_room_of_the_conventions() -> None:
    known = re.compile(r"(gen_ai|http|url|server|error)\.|resilient_llm\.")
    assert all(known.match(key) for key in names.NAMES)
    assert all(metric.name.startswith(("gen_ai.client.", "resilient_llm.")) for metric in EVERY)
    assert all(event.name.startswith("resilient_llm.") for event in names.EVENTS)


def test_attempts_have_nothing_that_makes_a_stack_take_them_for_calls() -> None:
    assert not [one.key for one in names.NAMES.values() if "attempt" in one.on and one.key.startswith("gen_ai.")]


def test_every_label_is_one_that_may_be_a_label() -> None:
    for metric in EVERY:
        for label in metric.labels:
            assert {"metric", "call", "attempt"} & set(names.NAMES[label].on), label
            assert "metric" in names.NAMES[label].on, label


def test_every_error_has_a_word() -> None:
    classes = [thing for thing in vars(errors).values() if inspect.isclass(thing) and issubclass(thing, LLMError)]
    assert len(classes) > 20
    general = {"LLMError", "RequestRejected", "BackendFailed", "Rejected"}
    bare = {kind.__name__ for kind in classes if names.error_type(kind("x")) == names.OTHER}
    assert bare == general


def test_the_page_of_the_names_is_up_to_date() -> None:
    """Else: `python -m docs.observability.names`."""
    assert names_page.PAGE.read_text() == names_page.page()


def test_dashboard_and_alerts_are_up_to_date() -> None:
    """Else: `python -m docs.observability.queries`."""
    assert (queries.HERE / "grafana.json").read_text() == queries.dashboard()
    assert (queries.HERE / "alerts.yml").read_text() == queries.alerts()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_query_asks_for_what_prometheus_gets(anyio_backend: str) -> None:
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    try:
        dead = FakeBackend(fail(ConnectFailed("no")), name="dead")
        broken = Route(
            dead, retry=Retry(attempts=2, wait=None), breaker=CircuitBreaker(failures=2), bulkhead=Bulkhead(1)
        )
        llm = AsyncClient(broken, FakeBackend(say("a")), meter_provider=provider)
        for _ in range(2):
            await llm.chat("hi")
            async with llm.stream("hi") as stream:
                async for _ in stream:
                    pass
        exposed = generate_latest(REGISTRY).decode()
    finally:
        provider.shutdown()
    series = {line.partition("{")[0].partition(" ")[0] for line in exposed.splitlines() if not line.startswith("#")}
    labels = set(re.findall(r'[{,](\w+)="', exposed))
    listed = {key.replace(".", "_") for metric in EVERY for key in metric.labels}
    possible = {  # for want of a reason in this test
        "resilient_llm_degradations_total",
        "resilient_llm_discarded_tokens_total",
        "resilient_llm_queue_duration_seconds_bucket",
    }
    for query in (one.query for one in (*queries.PANELS, *queries.ALERTS)):
        asked = set(re.findall(r"\b(?:gen_ai_client|resilient_llm)_\w+(?=[\[{)]| ==)", query)) - (listed - series)
        assert asked, query
        assert asked <= series | possible, query
        used = set(re.findall(r"(\w+)!?=\"", query)) | {
            one.strip() for group in re.findall(r"by \(([^)]*)\)", query) for one in group.split(",")
        }
        assert used - {"le"} <= labels | listed, query


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(contract(), indent=1, sort_keys=True) + "\n")
