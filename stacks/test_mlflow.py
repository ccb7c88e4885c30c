"""MLflow shows one call as one chat model's: its tokens, its price, its messages, its error."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from ._feed import ANSWER, CONVERSATION, HOSTED, INPUT, LOCAL, OUTPUT, QUESTION, feed
from .conftest import REAL, free_port, program, running, shoot

LOOK = """
import json, sys, warnings
warnings.simplefilter("ignore")
from mlflow import MlflowClient

def told(trace):
    return {
        "id": trace.info.trace_id, "at": trace.info.request_time, "state": str(trace.info.state.value),
        "usage": trace.info.token_usage, "cost": trace.info.cost,
        "session": trace.info.trace_metadata.get("mlflow.trace.session"),
        "spans": [[one.name, one.span_type, one.inputs, one.outputs] for one in trace.data.spans],
    }

print(json.dumps([told(trace) for trace in MlflowClient(sys.argv[1]).search_traces(locations=["0"])]))
"""


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        program("mlflow", "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
    ]  # fmt: skip
    with running(command, f"{url}/health", folder, MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true"):
        tracers = TracerProvider(shutdown_on_exit=False)
        headers = {"x-mlflow-experiment-id": "0"}
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces", headers=headers)))
        asyncio.run(feed(tracer_provider=tracers))
        tracers.shutdown()
        yield url


@pytest.fixture(scope="module")
def traces(mlflow: str) -> list[dict[str, Any]]:
    """Everything that it got, the first first."""
    end = time.monotonic() + 60
    while True:
        command = [str(REAL / "mlflow" / "bin" / "python"), "-c", LOOK, mlflow]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        if len(found) == 6 or time.monotonic() > end:
            return sorted(found, key=lambda trace: trace["at"])


def calls(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in traces if one["spans"][0][1] == "CHAT_MODEL"]


def test_only_calls_are_calls_of_a_model(traces: list[dict[str, Any]]) -> None:
    found = [(one["spans"][0][0], one["state"]) for one in calls(traces)]
    hosted, local = f"chat {HOSTED}", f"chat {LOCAL}"
    assert found == [(hosted, "OK"), (local, "OK"), (local, "OK"), (local, "OK"), (hosted, "ERROR")]
    kinds = {span[1] for one in calls(traces) for span in one["spans"][1:]}
    assert not kinds & {"CHAT_MODEL", "LLM"}
    assert [one["spans"][0][:2] for one in traces if one not in calls(traces)] == [["execute_tool get_weather", "TOOL"]]


def test_a_fallback_to_a_local_model_costs_nothing(traces: list[dict[str, Any]]) -> None:
    found = calls(traces)
    assert [(one["usage"] or {}).get("total_tokens") for one in found] == [INPUT + OUTPUT] * 4 + [None]
    assert found[0]["cost"]["total_cost"] == pytest.approx(0.15 * INPUT / 1e6 + 0.6 * OUTPUT / 1e6)
    assert [one["cost"] for one in found[1:]] == [None] * 4


def test_messages_and_conversations_are_shown(traces: list[dict[str, Any]]) -> None:
    found = calls(traces)
    for one in found[:2]:
        _, _, asked, answered = one["spans"][0]
        assert asked == [{"role": "user", "parts": [{"type": "text", "content": QUESTION}]}]
        assert answered[0]["parts"] == [{"type": "text", "content": ANSWER}]
    assert [one["session"] for one in found] == [None, None, CONVERSATION, CONVERSATION, None]


def test_the_picture_in_the_documentation(mlflow: str, traces: list[dict[str, Any]], tmp_path: Path) -> None:
    trace = next(one for one in calls(traces) if one["spans"][0][0] == f"chat {LOCAL}")["id"]
    shoot(f"{mlflow}/#/experiments/0/traces?selectedEvaluationId={trace}&selectedTraceId={trace}", "mlflow", tmp_path)
