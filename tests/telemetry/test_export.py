"""Over the wire: what a collector gets by OTLP, and what happens where there is no SDK at all."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from resilient_llm import Client, Ollama, OpenAICompatible
from resilient_llm.telemetry import Telemetry
from resilient_llm.telemetry import _semconv as names
from resilient_llm.testing import FakeOllama, FakeOpenAI, say, status

KINDS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps what it gets."""

    def __init__(self) -> None:
        self.got: dict[str, list[object]] = {path: [] for path in KINDS}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.got[self.path].append(KINDS[self.path].FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def test_what_a_collector_gets_of_a_fallback(collector: Collector) -> None:
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{collector.url}/v1/metrics"))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    with FakeOpenAI(status(503)) as hosted, FakeOllama(say("hello")) as local:
        routes = OpenAICompatible("gpt-5-mini", base_url=hosted.url), Ollama("llama3.2", base_url=local.url)
        with Client(*routes, tracer_provider=tracers, meter_provider=meters, telemetry=Telemetry(content=True)) as llm:
            llm.chat("hi")
    tracers.shutdown()
    meters.shutdown()
    spans = {
        span.name: span
        for request in collector.got["/v1/traces"]
        for resource in request.resource_spans  # type: ignore[attr-defined]
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert spans.keys() == {"chat llama3.2", "attempt compatible/gpt-5-mini", "attempt ollama/llama3.2"}
    call = spans["chat llama3.2"]
    found = {one.key: one.value for one in call.attributes}
    assert found[names.PROVIDER].string_value == "ollama"
    assert found[names.INPUT_TOKENS].int_value > 0
    assert '"finish_reason": "stop"' in found[names.OUTPUT_MESSAGES].string_value
    assert {one.parent_span_id for name, one in spans.items() if name.startswith("attempt")} == {call.span_id}
    metrics = {
        metric.name
        for request in collector.got["/v1/metrics"]
        for resource in request.resource_metrics  # type: ignore[attr-defined]
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert {"gen_ai.client.operation.duration", "resilient_llm.fallbacks", "resilient_llm.queue.size"} <= metrics


WITHOUT = """
import asyncio, sys
{before}
from resilient_llm import AsyncClient
from resilient_llm.testing import FakeBackend
from resilient_llm.telemetry import execute_tool
from resilient_llm import ToolCall

async def main():
    llm = AsyncClient(FakeBackend())
    await llm.chat("hi")
    async with llm.stream("hi") as stream:
        async for _ in stream: pass
    with execute_tool(ToolCall("f", {{}})): pass

asyncio.run(main())
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry", "resilient_llm.telemetry._s"))))
"""


def loaded(before: str = "") -> list[str]:
    code = [sys.executable, "-W", "error", "-c", WITHOUT.format(before=before)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found: list[str] = eval(done.stdout)
    return found


def test_where_nobody_uses_opentelemetry_nothing_of_it_is_imported() -> None:
    assert loaded() == ["resilient_llm.telemetry._semconv"]


def test_where_there_is_only_its_api_nothing_is_traced() -> None:
    """As with an application whose other libraries have imported it."""
    found = loaded("import opentelemetry.trace, opentelemetry.metrics; sys.modules['opentelemetry.sdk'] = None")
    assert "opentelemetry.trace" in found
    assert "resilient_llm.telemetry._spans" not in found


BROKEN = """
from resilient_llm import Client
from resilient_llm.testing import FakeBackend

class Broken:
    def get_tracer(self, *args, **options): raise OSError("the disk is full")

with Client(FakeBackend(), tracer_provider={given}) as llm:
    print(llm.chat("hi").text, llm.chat("hi").text)
"""


@pytest.mark.parametrize(("variable", "given"), [("no such provider", "None"), ("", "Broken()")])
def test_a_provider_that_cannot_be_had_is_no_matter_of_a_calls(variable: str, given: str) -> None:
    environment = {**os.environ, **({"OTEL_PYTHON_TRACER_PROVIDER": variable} if variable else {})}
    code = [sys.executable, "-c", BROKEN.format(given=given)]
    done = subprocess.run(code, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "You said: hi You said: hi\n"), done.stderr


@pytest.mark.parametrize("before", ["", "import opentelemetry.trace"], ids=["nothing", "the API"])
def test_a_provider_that_comes_later_is_found(before: str) -> None:
    late = f"""
import asyncio
{before}
from resilient_llm import AsyncClient
from resilient_llm.testing import FakeBackend
llm = AsyncClient(FakeBackend())
asyncio.run(llm.chat("before"))
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")))
trace.set_tracer_provider(provider)
asyncio.run(llm.chat("after"))
"""
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["attempt fake/fake", "chat fake"]
