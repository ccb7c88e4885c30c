"""What a trace does to requests on the wire, and what others above and below us do with theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry import baggage, context
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from tests.engine.kit import REAL

from resilient_llm import AsyncClient, OpenAICompatible
from resilient_llm.errors import ConfigError
from resilient_llm.telemetry import Telemetry
from resilient_llm.telemetry import _semconv as names
from resilient_llm.testing import FakeBackend, FakeOpenAI, say, status

from .kit import Otel, check, is_call, of

pytestmark = pytest.mark.anyio
KEY = "sk-very-secret"


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(say("hello"), status(503), say("hello")) as one:
        yield one


def traceparent(span: Any) -> str:
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


@REAL
async def test_a_server_on_this_machine_is_told_of_the_attempt_and_of_nothing_else(
    otel: Otel, server: FakeOpenAI
) -> None:
    token = context.attach(baggage.set_baggage("customer", "the name of a customer"))
    try:
        async with AsyncClient(OpenAICompatible("m", base_url=server.url, api_key=KEY), **otel.providers) as llm:
            await llm.chat("hi")
            await llm.chat("hi")
    finally:
        context.detach(token)
    check(otel, 2)
    sent = [one.headers for one in server.chats]
    attempts = [one for one in otel.spans if not is_call(one)]
    assert [one.get("traceparent") for one in sent] == [traceparent(one) for one in attempts]
    assert not any({"baggage", "tracestate"} & {name.lower() for name in one} for one in sent)
    found = of(attempts[0])
    assert (found[names.URL], found[names.METHOD]) == (f"{server.url}/chat/completions", "POST")
    assert (found[names.STATUS], of(attempts[1])[names.STATUS]) == (200, 503)
    assert found[names.REQUEST_ID].startswith("req_")
    assert KEY not in repr([span.to_json() for span in otel.spans])


@pytest.mark.parametrize(
    ("host", "allowed", "told"),
    [
        ("api.openai.com", (), False),
        ("10.0.0.7", (), False),
        ("vllm.internal", ("other", "VLLM.internal"), True),
        ("vllm.internal.example.com", ("vllm.internal",), False),
        ("localhost", (), True),
        ("127.1.2.3", (), True),
        ("[::1]", (), True),
        ("localhost.example.com", (), False),
    ],
)
@REAL
async def test_who_is_told(host: str, allowed: tuple[str, ...], told: bool, otel: Otel) -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(401, json={"error": {"message": "no"}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        route = OpenAICompatible("m", base_url=f"http://{host}/v1", http_client=http, api_key=KEY)
        llm = AsyncClient(route, **otel.providers, telemetry=Telemetry(propagate_to=allowed))
        with pytest.raises(Exception, match="no"):
            await llm.chat("hi")
    assert ("traceparent" in seen[0]) is told
    assert "baggage" not in seen[0]


@REAL
async def test_an_instrumented_client_of_the_user_does_not_tell_of_it_twice(otel: Otel, server: FakeOpenAI) -> None:
    async with httpx.AsyncClient() as http:
        HTTPXClientInstrumentor.instrument_client(http, tracer_provider=otel.tracer_provider)
        await http.get(server.url)
        assert len(otel.spans) == 1, "it is instrumented"
        llm = AsyncClient(OpenAICompatible("m", base_url=server.url, http_client=http), **otel.providers)
        await llm.chat("hi")
    assert [span.name for span in otel.spans][1:] == ["chat m", "attempt compatible/m"]


@pytest.mark.parametrize(
    "key", ["opentelemetry.genai.client.inference.context", "suppress_language_model_instrumentation"]
)
async def test_below_a_span_that_counts_the_call_only_attempts_are_told(key: str, otel: Otel) -> None:
    llm = otel.client(FakeBackend(say("hi")))
    tracer = otel.tracer_provider.get_tracer("above")
    with tracer.start_as_current_span("chat of somebody else") as above:
        token = context.attach(context.set_value(key, True))
        await llm.chat("hi")
        context.detach(token)
    assert otel.calls == []
    (attempt,) = otel.attempts(above)  # type: ignore[arg-type]
    assert attempt.name == "attempt fake/fake"
    assert otel.points("gen_ai.client.operation.duration") == otel.points("gen_ai.client.token.usage") == []
    assert len(otel.points("resilient_llm.attempt.duration")) == 1


@pytest.mark.parametrize("key", [context._SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"])
async def test_where_silence_was_asked_for_there_is_nothing(key: str, otel: Otel) -> None:
    token = context.attach(context.set_value(key, True))
    await otel.client(FakeBackend(say("hi"))).chat("hi")
    context.detach(token)
    assert otel.spans == []


async def test_the_conversation_may_come_as_baggage(otel: Otel) -> None:
    given = baggage.set_baggage(names.CONVERSATION, "c7", baggage.set_baggage(names.AGENT, "planner"))
    token = context.attach(baggage.set_baggage("other", "no", given))
    llm = otel.client(FakeBackend())
    await llm.chat("hi")
    await llm.chat("hi", conversation="mine")
    context.detach(token)
    found = [of(call) for call in otel.calls]
    assert [(one[names.CONVERSATION], one[names.AGENT]) for one in found] == [("c7", "planner"), ("mine", "planner")]
    assert not any("other" in one for one in found)


async def test_a_call_that_is_sampled_out_says_so_to_the_server(otel: Otel) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    sampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    seen: list[Any] = []

    class Curious(FakeBackend):
        def open(self, request: Any, watch: Any, *, stream: bool = True) -> Any:
            seen.append(dict(watch.trace.headers))
            return super().open(request, watch, stream=stream)

    llm = otel.client(Curious(say("hi"), origin="http://localhost:1"))
    await llm.chat("hi")
    llm = AsyncClient(Curious(say("hi"), origin="http://localhost:1"), tracer_provider=sampled)
    await llm.chat("hi")
    assert [int(one[b"traceparent"][-2:], 16) & 1 for one in seen] == [1, 0]


@pytest.mark.parametrize("value", ["example.com", ["http://example.com"], [""], [7], ["example.com/v1"]])
def test_what_is_no_list_of_hosts_is_said_at_once(value: Any) -> None:
    with pytest.raises(ConfigError, match="propagate_to"):
        Telemetry(propagate_to=value)


def test_what_is_no_provider_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="tracer_provider: int has no get_tracer"):
        AsyncClient(FakeBackend(), tracer_provider=7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="meter_provider: int has no get_meter"):
        AsyncClient(FakeBackend(), meter_provider=7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="telemetry: bool is not a Telemetry"):
        AsyncClient(FakeBackend(), telemetry=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="conventions: '2' is not one of"):
        Telemetry(conventions="2")  # type: ignore[arg-type]
