"""Phoenix shows one call as one LLM call: its tokens, its price, its messages, its error."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from ._feed import ANSWER, CONVERSATION, HOSTED, INPUT, LOCAL, OUTPUT, feed
from .conftest import free_port, program, running, shoot

PRICE = 0.15 * INPUT / 1e6 + 0.6 * OUTPUT / 1e6  # dollars; Phoenix's own list for gpt-4o-mini


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("phoenix"), free_port()
    command = [program("phoenix", "phoenix"), "serve"]
    url = f"http://127.0.0.1:{port}"
    settings = {
        "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(port), "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_WORKING_DIR": str(folder), "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false", "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
    }  # fmt: skip
    with running(command, url, folder, **settings):
        tracers = TracerProvider(resource=Resource({"openinference.project.name": "app"}))
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
        asyncio.run(feed(tracer_provider=tracers))
        tracers.shutdown()
        yield url


def spans(url: str) -> list[dict[str, Any]]:
    """Everything that it got, the first first."""
    end = time.monotonic() + 30
    while True:
        found: list[dict[str, Any]] = []
        with suppress(urllib.error.HTTPError):  # the project is there with its first span
            found = json.load(urllib.request.urlopen(f"{url}/v1/projects/app/spans?limit=100"))["data"]
        if len(found) == 15 or time.monotonic() > end:
            return sorted(found, key=lambda span: span["start_time"])
        time.sleep(0.2)


def ask(url: str, query: str) -> Any:
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        projects = json.load(reply)["data"]["projects"]["edges"]
    return next(one["node"] for one in projects if one["node"]["name"] == "app")


def test_only_calls_are_llm_calls(phoenix: str) -> None:
    found = [(one["name"], one["status_code"]) for one in spans(phoenix) if one["span_kind"] == "LLM"]
    hosted, local = (f"chat {HOSTED}", "UNSET"), (f"chat {LOCAL}", "UNSET")
    assert found == [hosted, local, local, local, (f"chat {HOSTED}", "ERROR")]
    assert [one["name"] for one in spans(phoenix) if one["span_kind"] == "TOOL"] == ["execute_tool get_weather"]
    attempts = [one for one in spans(phoenix) if one["name"].startswith("attempt ")]
    assert {one["span_kind"] for one in attempts} == {"UNKNOWN"}
    assert len(attempts) == 9


def test_a_fallback_to_a_local_model_costs_nothing(phoenix: str) -> None:
    query = """{projects{edges{node{name costSummary{total{cost tokens}}
        spans(first: 50, filterCondition: "span_kind == 'LLM'"){edges{node{
            name startTime cumulativeTokenCountTotal trace{costSummary{total{cost}}}}}}}}}}"""
    spans(phoenix)  # they are there
    project = ask(phoenix, query)
    assert project["costSummary"]["total"] == {"cost": pytest.approx(PRICE), "tokens": 4 * (INPUT + OUTPUT)}
    calls = sorted((one["node"] for one in project["spans"]["edges"]), key=lambda one: one["startTime"])
    assert [one["cumulativeTokenCountTotal"] for one in calls] == [INPUT + OUTPUT] * 4 + [0]
    costs = [one["trace"]["costSummary"]["total"]["cost"] for one in calls]
    assert costs[0] == pytest.approx(PRICE)
    assert not any(costs[1:])


def test_messages_errors_and_conversations_are_shown(phoenix: str) -> None:
    calls = [one for one in spans(phoenix) if one["span_kind"] == "LLM"]
    shown = [json.dumps(one["attributes"]) for one in calls]
    assert [ANSWER in shown[0], ANSWER in shown[1], "get_weather" in shown[2], "Sunny." in shown[3]] == [True] * 4
    assert calls[-1]["status_message"].startswith("AllRoutesFailed: 2 routes failed: ")
    assert "exception" in [event["name"] for event in calls[-1]["events"]]
    sessions = [one["attributes"].get("session.id") for one in calls]
    assert sessions == [None, None, CONVERSATION, CONVERSATION, None]


def test_it_can_be_asked_for_what_did_not_go_by_itself(phoenix: str) -> None:
    condition = "attributes['resilient_llm']['attempts'] > 1"
    query = '{projects{edges{node{name spans(first: 50, filterCondition: "%s"){edges{node{name}}}}}}}'
    spans(phoenix)
    found = [one["node"]["name"] for one in ask(phoenix, query % condition)["spans"]["edges"]]
    assert sorted(found) == [f"chat {HOSTED}", f"chat {LOCAL}"]


def test_the_picture_in_the_documentation(phoenix: str, tmp_path: Path) -> None:
    trace = next(one for one in spans(phoenix) if one["name"] == f"chat {LOCAL}")["context"]["trace_id"]
    project = ask(phoenix, "{projects{edges{node{name id}}}}")["id"]
    shoot(f"{phoenix}/projects/{project}/traces/{trace}", "phoenix", tmp_path)
