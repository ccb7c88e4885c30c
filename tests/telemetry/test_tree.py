"""One call is one call: what a trace shows of it, in every way in which it can end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.engine.kit import REAL, Ask, error_of, unlimited

from resilient_llm import (
    AsyncClient,
    Bulkhead,
    CircuitBreaker,
    ContextGuard,
    Message,
    Ollama,
    OpenAICompatible,
    Retry,
    Route,
    Usage,
    drop_oldest,
)
from resilient_llm.errors import (
    AuthFailed,
    ConnectFailed,
    LLMError,
    RateLimited,
    ServerError,
)
from resilient_llm.telemetry import _semconv as names
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, cut, fail, hang, say, stall

from .kit import Otel, check, events, of, seconds

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)
REFUSED = ConnectFailed("nobody listens", status=None)


def two(*first: Any, **options: Any) -> list[Route]:
    """A local route that does this, and a hosted one that answers."""
    local = FakeBackend(*first, name="ollama:qwen3", model="qwen3", provider="ollama", local=True)
    hosted = FakeBackend(
        say("yes"), name="openai:gpt", model="gpt", provider="openai", origin="https://api.openai.com:443"
    )
    return [Route(local, **options), Route(hosted)]


async def test_a_call_that_succeeds_at_once(ask: Ask, otel: Otel) -> None:
    answer = say("hel", "lo", first=2.0, gap=1.0, usage=Usage(9, 5, 3, 1))
    llm = otel.client(Route(FakeBackend(answer, name="here", model="m", origin="http://127.0.0.1:8080")))
    await ask(llm, temperature=0.2, max_tokens=7, seed=3, stop=["END"], conversation="c42", tags=["t"], timeout=10)
    check(otel, 1)
    found = of(otel.call)
    (attempt,) = otel.attempts()
    assert (otel.call.name, attempt.name) == ("chat m", "attempt fake/m")
    expected = {
        names.OPERATION: "chat", names.PROVIDER: "fake", names.REQUEST_MODEL: "m", names.RESPONSE_MODEL: "m",
        names.ADDRESS: "127.0.0.1", names.PORT: 8080, names.TEMPERATURE: 0.2, names.MAX_TOKENS: 7, names.SEED: 3,
        names.STOP: ("END",), names.CONVERSATION: "c42", names.TAGS: ("t",), names.FINISH_REASONS: ("stop",),
        names.INPUT_TOKENS: 9, names.OUTPUT_TOKENS: 5, names.CACHE_READ: 3, names.REASONING_TOKENS: 1,
        names.ROUTE: "here", names.ASKED_MODEL: "fake/m", names.OUTCOME: "success", names.ATTEMPTS: 1,
        names.DEADLINE: 10.0, names.DEADLINE_LEFT: pytest.approx(7.0), names.CHUNKS: 2,
        names.OUTPUT_RATE: pytest.approx(4.0),
    }  # fmt: skip
    if ask.way == "stream":
        expected |= {names.STREAM: True, names.FIRST_CHUNK: pytest.approx(2.0)}
    assert found == expected
    assert of(attempt) == {
        names.NUMBER: 1, names.KIND: "first", names.TARGET: "fake/m", names.ROUTE: "here", names.ADDRESS: "127.0.0.1",
        names.PORT: 8080, names.ATTEMPT_OUTCOME: "served", names.TTFT: pytest.approx(2.0),
    }  # fmt: skip
    assert seconds(otel.call) == pytest.approx(3.0)
    assert events(attempt) == ["stream.first_chunk"]


async def test_parameters_that_have_no_argument_are_told_too(ask: Ask, otel: Otel) -> None:
    given = {"top_p": 0.9, "top_k": 40, "frequency_penalty": 0.1, "presence_penalty": 0.2, "n": 2, "other": 1}
    await ask(otel.client(FakeBackend()), extra=given)
    check(otel, 1)
    found = of(otel.call)
    keys = [names.TOP_P, names.TOP_K, names.FREQUENCY, names.PRESENCE, names.CHOICES]
    assert [found[key] for key in keys] == [0.9, 40, 0.1, 0.2, 2]


async def test_a_typed_answer_says_so(otel: Otel) -> None:
    assert (await otel.client(FakeBackend(say("7"))).parse("How many?", int)).output == 7
    check(otel, 1)
    assert of(otel.call)[names.OUTPUT_TYPE] == "json"


async def test_after_a_fallback_the_call_is_the_one_that_served(ask: Ask, otel: Otel) -> None:
    await ask(otel.client(*two(fail(ServerError("broken", status=500)), retry=ONCE)))
    check(otel, 1)
    found = of(otel.call)
    assert otel.call.name == "chat gpt"
    assert (found[names.PROVIDER], found[names.REQUEST_MODEL], found[names.ADDRESS]) == (
        "openai",
        "gpt",
        "api.openai.com",
    )
    assert (found[names.ASKED_MODEL], found[names.OUTCOME], found[names.FALLBACK_DEPTH]) == (
        "ollama/qwen3",
        "fallback",
        1,
    )
    first, second = otel.attempts()
    assert (first.name, of(first)[names.ERROR_TYPE], of(first)[names.STATUS]) == ("attempt ollama/qwen3", "500", 500)
    assert (second.name, of(second)[names.KIND], of(second)[names.RESEND]) == ("attempt openai/gpt", "fallback", 1)
    assert events(otel.call) == ["fallback"]
    assert dict(otel.call.events[0].attributes or {}) == {
        names.FELL_FROM: "ollama:qwen3", names.FELL_TO: "openai:gpt", names.ERROR_TYPE: "500"
    }  # fmt: skip
    assert otel.value("resilient_llm.fallbacks") == 1
    assert otel.value("gen_ai.client.operation.duration", gen_ai__request__model="gpt") == pytest.approx(
        seconds(otel.call)
    )


async def test_a_repeat_that_helps(ask: Ask, otel: Otel) -> None:
    flaky = FakeBackend(fail(RateLimited("later", status=429, retry_after=2.0)), say("yes"))
    await ask(otel.client(flaky))
    check(otel, 1)
    found = of(otel.call)
    assert (found[names.OUTCOME], found[names.ATTEMPTS]) == ("success_after_retry", 2)
    assert found[names.RETRY_TOTAL] == pytest.approx(seconds(otel.call))
    failed, _ = otel.attempts()
    assert (of(failed)[names.ERROR_TYPE], of(failed)[names.RETRY_AFTER]) == ("429", 2.0)
    (retry,) = otel.call.events
    assert dict(retry.attributes or {}) == {
        names.NUMBER: 2, names.ERROR_TYPE: "429", names.DELAY: pytest.approx(found[names.RETRY_TOTAL]),
        names.SOURCE: "retry_after",
    }  # fmt: skip
    assert otel.value("resilient_llm.retries", error__type="429") == 1
    assert otel.value("resilient_llm.retry.delay") == pytest.approx(found[names.RETRY_TOTAL])


async def test_a_call_that_is_lost_shows_its_error_once(ask: Ask, otel: Otel) -> None:
    error = await error_of(ask(otel.client(FakeBackend(fail(AuthFailed("the key is wrong", status=401))))))
    check(otel, 1)
    call = otel.call
    assert (of(call)[names.OUTCOME], of(call)[names.ERROR_TYPE]) == ("failed", "authentication")
    assert call.status.description == "AuthFailed: fake: the key is wrong"
    assert events(call) == ["exception"]
    assert dict(call.events[0].attributes or {}) == {"exception.type": "AuthFailed", "exception.message": str(error)}
    assert events(otel.attempts()[0]) == []
    assert otel.points("gen_ai.client.token.usage") == []


async def test_a_breaker_opens_and_then_refuses(ask: Ask, otel: Otel) -> None:
    dead = FakeBackend(fail(ConnectFailed("no")), name="dead")
    llm = otel.client(Route(dead, retry=ONCE, breaker=CircuitBreaker(failures=1)))
    await error_of(ask(llm))
    await error_of(ask(llm))
    check(otel, 2)
    tripped, refused = otel.calls
    assert events(tripped) == ["circuit_breaker.transition", "exception"]
    assert dict(tripped.events[0].attributes or {}) == {
        names.BREAKER: "dead", names.BREAKER_FROM: "closed", names.BREAKER_TO: "open",
        names.REASON: "1 failure in a row",
    }  # fmt: skip
    assert (of(refused)[names.OUTCOME], of(refused)[names.ATTEMPTS]) == ("rejected", 0)
    assert events(refused) == ["rejected", "exception"]
    assert otel.value("resilient_llm.rejections", resilient_llm__reason="circuit_open") == 1
    assert otel.value("resilient_llm.circuit_breaker.transitions", resilient_llm__circuit_breaker__state="open") == 1
    states = {
        one.attributes[names.BREAKER_STATE]: one.value for one in otel.points("resilient_llm.circuit_breaker.state")
    }
    assert states == {"closed": 0, "open": 1, "half_open": 0}


async def test_a_place_in_the_queue_is_no_part_of_an_attempt(ask: Ask, otel: Otel) -> None:
    llm = otel.client(Route(FakeBackend(say("a", first=3.0)), bulkhead=Bulkhead(slots=1)))
    async with anyio.create_task_group() as group:
        group.start_soon(ask, llm)
        await anyio.sleep(1)
        group.start_soon(ask, llm)
        await anyio.sleep(1)
        assert otel.value("resilient_llm.queue.size") == 1
        assert otel.value("resilient_llm.active_requests") == 1
        assert otel.value("resilient_llm.concurrency.limit") == 1
    check(otel, 2)
    (attempt,) = otel.attempts(otel.calls[1])
    assert of(otel.calls[1])[names.QUEUE_WAIT] == of(attempt)[names.WAITED] == pytest.approx(2.0)
    assert (seconds(attempt), seconds(otel.calls[1])) == (pytest.approx(3.0), pytest.approx(5.0))
    assert events(otel.calls[1]) == ["queue.admitted"]
    assert otel.value("resilient_llm.queue.duration") == pytest.approx(2.0)


async def test_what_the_guard_does(otel: Otel) -> None:
    trims = Route(FakeBackend(say("ok"), window=100), guard=ContextGuard(reserve=20, overflow=drop_oldest))
    refuses = Route(FakeBackend(say("ok"), window=100), guard=ContextGuard(reserve=20))
    old = [Message("user", "word " * 90), Message("assistant", "yes"), Message("user", "and now?")]
    await otel.client(trims).chat(old)
    await error_of(otel.client(refuses).chat("word " * 1000))
    check(otel, 2)
    trimmed, denied = (dict(call.events[0].attributes or {}) for call in otel.calls)
    assert (trimmed[names.GUARD_VERDICT], trimmed[names.MESSAGES], trimmed[names.MESSAGES_LEFT]) == ("modify", 3, 1)
    assert (denied[names.GUARD_VERDICT], denied[names.TOKENS_ROOM]) == ("deny", 80)
    assert of(otel.calls[1])[names.ERROR_TYPE] == "context_length_exceeded"
    assert otel.value("resilient_llm.guard.decisions") == 2


async def test_a_stream_that_breaks_and_begins_anew(otel: Otel) -> None:
    first, second = two(cut("half"), on_break="restart")
    async with otel.client(first, second).stream("hi") as stream:
        async for _ in stream:
            pass
    check(otel, 1)
    assert of(otel.call)[names.DEGRADED] == ("restarted",)
    (restarted,) = (event for event in otel.call.events if event.name == names.RESTARTED.name)
    assert dict(restarted.attributes or {}) == {names.ERROR_TYPE: "stream_interrupted"}
    assert of(otel.attempts()[0])[names.ERROR_TYPE] == "stream_interrupted"


@REAL
async def test_the_call_says_what_exactly_answered(ask: Ask, otel: Otel) -> None:
    with FakeOllama(say("a")) as server:
        async with AsyncClient(Ollama("llama3.2", base_url=server.url), **otel.providers) as llm:
            await ask(llm)
            local = await llm.chat("hi")
    with FakeOpenAI(say("a")) as server:
        async with AsyncClient(OpenAICompatible("m", base_url=server.url), **otel.providers) as llm:
            hosted = await llm.chat("hi")
    check(otel, 3)
    first, second, third = (of(call) for call in otel.calls)
    served = local.served_by
    assert None not in (served.digest, served.quantization, served.window)
    for found in (first, second):
        assert (found[names.DIGEST], found[names.QUANTIZATION]) == (served.digest, served.quantization)
        assert found[names.WINDOW] == served.window
        assert names.RESPONSE_ID not in found
    assert hosted.served_by.fingerprint == "fp_fake"
    assert (third[names.FINGERPRINT], third[names.RESPONSE_ID]) == ("fp_fake", "chatcmpl-1")


async def test_an_embedding_in_parts_is_one_call(otel: Otel) -> None:
    await otel.client(FakeBackend(say("x", usage=Usage(5)), model="e")).embed(["text"] * 300)
    check(otel, 1)
    found = of(otel.call)
    assert (otel.call.name, found[names.ATTEMPTS], found[names.OUTCOME]) == ("embeddings e", 2, "success")
    assert (found[names.INPUT_TOKENS], found[names.DIMENSIONS]) == (10, 8)
    assert events(otel.call) == []


async def test_what_broke_before_anything_was_handed_over_is_no_restart(otel: Otel) -> None:
    await otel.client(*two(cut("half"), retry=ONCE)).chat("hi")
    assert events(otel.call) == ["fallback"]


async def test_a_call_that_is_tried_without_end_does_not_fill_its_span(otel: Otel) -> None:
    flaky = FakeBackend(*[fail(RateLimited("later"))] * 40, say("at last"))
    await otel.client(Route(flaky, retry=Retry(attempts=50), budget=unlimited()), timeout=10_000).chat("hi")
    check(otel, 1)
    assert of(otel.call)[names.ATTEMPTS] == 41
    assert len(otel.call.events) == names.MAX_EVENTS
    assert otel.value("resilient_llm.retries") == 40


Steps = Callable[[], list[Any]]
SCENARIOS: dict[str, Steps] = {
    "answers": lambda: [FakeBackend(say("a", "b"))],
    "falls back": lambda: two(fail(REFUSED)),
    "cut in the middle": lambda: two(cut("a")),
    "hangs": lambda: two(hang()),
    "stalls": lambda: two(stall("a")),
    "all fail": lambda: [FakeBackend(fail(REFUSED), name="a"), FakeBackend(fail(REFUSED), name="b")],
    "loads": lambda: [FakeBackend(say("a"), loads=20.0, connects=0.5, local=True)],
    "is empty": lambda: [FakeBackend(say())],
    "no such zone": lambda: [FakeBackend(say("a"))],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_what_must_hold_of_every_call(scenario: str, ask: Ask, otel: Otel) -> None:
    llm = otel.client(*SCENARIOS[scenario](), timeout=100, local_only=scenario == "no such zone")
    for _ in range(4):
        with contextlib.suppress(LLMError):
            await ask(llm)
    check(otel, 4)


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_call_that_is_cancelled_ends_too(scenario: str, ask: Ask, otel: Otel) -> None:
    llm = otel.client(*SCENARIOS[scenario](), timeout=100, local_only=scenario == "no such zone")
    with anyio.move_on_after(0.1):
        with contextlib.suppress(LLMError):
            await ask(llm)
    check(otel, 1)


async def test_the_listeners_of_the_user_hear_the_same(otel: Otel) -> None:
    told: list[object] = []
    await otel.client(FakeBackend(), on_event=told.append).chat("hi")
    quiet: list[object] = []
    await AsyncClient(FakeBackend(), on_event=quiet.append, clock=anyio.current_time).chat("hi")
    assert [type(one) for one in told] == [type(one) for one in quiet]


@pytest.mark.invariant(38)
async def test_nothing_that_goes_wrong_in_here_is_the_callers_matter(otel: Otel, caplog: Any) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise OSError("the disk is full")

    llm = otel.client(FakeBackend(say("hello")))
    llm._hub._sinks.calls = llm._hub._sinks.attempts = Broken()  # type: ignore[union-attr]
    assert (await llm.chat("hi")).text == "hello"
    assert "telemetry: OSError on CallStarted" in caplog.text
