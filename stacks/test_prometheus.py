"""Prometheus scrapes the metrics; the questions of the dashboard and the alerts have the right answers there."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from docs.observability import queries
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

from resilient_llm import AsyncClient, CircuitBreaker, Retry, Route, Usage
from resilient_llm.errors import LLMError, ServerError
from resilient_llm.testing import FakeBackend, fail, say

from .conftest import free_port, program, running

CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [alerts.yml]
scrape_configs: [{{job_name: app, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
SECONDS, EACH = 12, 0.25


async def traffic(meters: MeterProvider) -> None:
    """For some seconds, in turns: a call, of which one in four needs the second route, and a call that is lost."""
    steps = [fail(ServerError("no", status=500)), *[say("a", usage=Usage(100, 10))] * 3] * 100
    flaky = FakeBackend(*steps, name="flaky", provider="openai", model="gpt")
    calm = CircuitBreaker(failures=50, min_calls=20, window=20, rate=1.0)
    first = Route(flaky, retry=Retry(attempts=1), breaker=calm)
    llm = AsyncClient(
        first, FakeBackend(say("b", usage=Usage(100, 10)), name="steady", model="qwen3"), meter_provider=meters
    )
    dead = Route(FakeBackend(fail(ServerError("no", status=502)), name="dead"), retry=Retry(attempts=1))
    lost = AsyncClient(dead, meter_provider=meters)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        async with llm.stream("hi") as stream:
            async for _ in stream:
                pass
        with suppress(LLMError):
            await lost.chat("hi")
        await anyio.sleep(EACH)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = program("prometheus")
    folder, exposed, port = tmp_path_factory.mktemp("prometheus"), free_port(), free_port()
    (folder / "prometheus.yml").write_text(CONFIG.format(port=exposed))
    (folder / "alerts.yml").write_text(queries.alerts().replace("[5m]", "[10s]").replace("for: ", "for: 0s #"))
    meters = MeterProvider([PrometheusMetricReader()], shutdown_on_exit=False)
    http, thread = start_http_server(exposed, addr="127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    command = [
        server, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with running(command, f"{url}/-/ready", folder):
        anyio.run(traffic, meters)
        time.sleep(2)
        yield url
    http.shutdown()
    http.server_close()
    thread.join()
    meters.shutdown()


def ask(url: str, query: str) -> list[dict[str, Any]]:
    query = query.replace("$__rate_interval", "10s").replace("[5m]", "[10s]")
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as reply:
        found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    return found


def value(url: str, title: str) -> float:
    (panel,) = (one for one in queries.PANELS if one.title == title)
    (found,) = ask(url, panel.query)
    return float(found["value"][1])


def test_the_rules_are_rules() -> None:
    command = [program("promtool"), "check", "rules", str(queries.HERE / "alerts.yml")]
    assert "SUCCESS" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_question_is_understood(prometheus: str) -> None:
    unanswered = {one.title for one in queries.PANELS if not ask(prometheus, one.query)}
    assert unanswered <= {"Repeats for each call", "Tokens for nothing", "Wait for a slot, 95 of 100"}


def test_the_answers_are_right(prometheus: str) -> None:
    """Half of the calls are lost, a quarter of the other half falls back."""
    assert value(prometheus, "Calls that failed") == pytest.approx(0.5, abs=0.1)
    assert value(prometheus, "Fallbacks for each call") == pytest.approx(0.125, abs=0.05)
    (open_now,) = (one.query for one in queries.PANELS if one.title == "Breakers that are not closed")
    found = {one["metric"]["resilient_llm_circuit_breaker_name"] for one in ask(prometheus, open_now)}
    assert found == {"dead"}
    (tokens,) = (one.query for one in queries.PANELS if one.title == "Tokens")
    served = {
        (one["metric"]["gen_ai_request_model"], one["metric"]["gen_ai_token_type"]): float(one["value"][1])
        for one in ask(prometheus, tokens)
    }
    for model in ("gpt", "qwen3"):
        assert served[model, "input"] == pytest.approx(10 * served[model, "output"])
    assert served["gpt", "input"] == pytest.approx(3 * served["qwen3", "input"], rel=0.5)


def test_the_alerts_fire_that_should(prometheus: str) -> None:
    with urllib.request.urlopen(f"{prometheus}/api/v1/alerts") as reply:
        firing = {one["labels"]["alertname"] for one in json.load(reply)["data"]["alerts"] if one["state"] == "firing"}
    assert {"LLMCallsFail", "LLMBreakerOpen"} <= firing
    assert not firing & {"LLMRetries", "LLMQueueLong", "LLMFirstTokenSlow"}
