"""A refusal that names a field is answered once, and remembered; what a route lacks is known before it is asked."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from resilient_llm import (
    AllRoutesFailed,
    ChatRequest,
    Image,
    Message,
    Ollama,
    OpenAICompatible,
    Retry,
    RetryBudget,
    Route,
    ToolCall,
)
from resilient_llm.dialects import Profile, profile_for
from resilient_llm.errors import ConfigError, NoEligibleRoute, UnsupportedParameter
from resilient_llm.testing import FakeBackend, FakeOllama, FakeOpenAI, fail, say, status

from .kit import REAL, Ask, client, error_of

pytestmark = pytest.mark.anyio
NO_THINKING = {"error": '"m" does not support thinking'}
NO_TOOLS = {"error": "registry.ollama.ai/library/m does not support tools"}


def get_weather(city: str) -> str:
    """The weather in a city."""
    return city


class Learner(FakeBackend):
    """Learns from every refusal that names a field, once for each."""

    def __init__(self, *script: Any, **options: Any) -> None:
        super().__init__(*script, **options)
        self.known: set[str | None] = set()

    def learn(self, request: object, error: Exception) -> bool:
        new = isinstance(error, UnsupportedParameter) and error.parameter not in self.known
        self.known.add(getattr(error, "parameter", None))
        return new


def refused(name: str) -> Any:
    return fail(UnsupportedParameter("no", parameter=name))


async def test_a_refused_field_costs_one_repeat_at_once(ask: Ask) -> None:
    backend, before = Learner(refused("a"), say("yes")), anyio.current_time()
    reply = await ask(client(Route(backend, retry=Retry(attempts=1))))
    assert reply.text == "yes"
    assert [(one.kind, type(one.error)) for one in reply.attempts] == [
        ("first", UnsupportedParameter), ("retry", type(None)),
    ]  # fmt: skip
    assert anyio.current_time() == before


async def test_two_refused_fields_cost_two_repeats_and_the_same_one_no_second(ask: Ask) -> None:
    backend = Learner(refused("a"), refused("b"), refused("b"))
    error = await error_of(ask(client(backend)), UnsupportedParameter)
    assert [one.error.parameter for one in error.attempts] == ["a", "b", "b"]


async def test_the_repeat_draws_on_the_budget(ask: Ask) -> None:
    backend, budget = Learner(refused("a"), say("yes")), RetryBudget(ratio=0, burst=0)
    llm = client(Route(backend, budget=budget))
    error = await error_of(ask(llm), UnsupportedParameter)
    assert len(error.attempts) == 1
    assert (await ask(llm)).text == "yes"  # what was learned holds for the next call


async def test_a_refused_field_says_nothing_about_the_health_of_the_server(ask: Ask) -> None:
    llm = client(Learner(*(refused(str(at)) for at in range(9)), say("yes")))
    await ask(llm)
    (state,) = llm.snapshot().values()
    assert state["breaker"].state == "closed"


@REAL
async def test_a_server_that_refuses_to_stream_is_asked_for_the_whole(ask: Ask) -> None:
    """As OpenAI does for an organization that it has not verified."""
    text = "Your organization must be verified to stream this model."
    error = {"message": text, "type": "invalid_request_error", "param": "stream", "code": "unsupported_value"}
    with FakeOpenAI(status(400, {"error": error}), say("yes")) as server:
        async with client(OpenAICompatible("m", base_url=server.url)) as llm:
            reply = await ask(llm)
            assert (reply.text, len(reply.attempts), reply.degraded) == ("yes", 2, ())
            assert [one.json["stream"] for one in server.chats] == [True, False]
            await ask(llm)
            assert len(server.chats) == 3
            assert "streams: no" in llm.explain()
        server.then(status(400, {"error": error}))
        async with client(Route(OpenAICompatible("m", base_url=server.url), streams=True)) as llm:
            assert len((await error_of(ask(llm), UnsupportedParameter)).attempts) == 1  # the user insists


@pytest.mark.parametrize(
    ("model", "profile", "reasoning", "patient"),
    [
        ("gpt-5-mini", "openai", None, True),
        ("gpt-5.1", "openai", None, False),
        ("gpt-5.1", "openai", "high", True),
        ("gpt-5.1", "openai", "none", False),
        ("gpt-4o", "openai", "high", False),  # it cannot, and is not asked to
        ("deepseek-reasoner", "deepseek", "none", False),
        ("m", None, "low", True),
        ("m", None, None, False),
    ],
)
async def test_a_model_that_thinks_first_has_longer_to_its_first_token(
    model: str, profile: str | None, reasoning: Any, patient: bool
) -> None:
    llm = client(OpenAICompatible(model, base_url="http://127.0.0.1:1/v1", profile=profile))
    (leg,) = llm._legs
    limits = leg.limits_for(ChatRequest((Message("user", "hi"),), reasoning=reasoning))
    assert limits.first_token == (300.0 if patient else 60.0)


@REAL
async def test_what_a_strict_server_refuses_is_left_out_and_remembered(ask: Ask) -> None:
    with FakeOpenAI(strict="openai") as server:
        llm = client(OpenAICompatible("gpt-5-mini", base_url=server.url))  # at an address that the table does not know
        async with llm:
            first = await ask(llm, max_tokens=9, temperature=0.5)
            assert first.degraded == ("field_dropped",)  # the temperature; the cap goes under its other name
            assert [one.kind for one in first.attempts] == ["first", "retry", "retry"]
            second = await ask(llm, max_tokens=9, temperature=0.5)
            assert (len(second.attempts), second.degraded) == (1, ("field_dropped",))
            assert (await ask(llm, max_tokens=9)).degraded == ()
            assert server.chats[-1].json["max_completion_tokens"] == 9
            told = "dialect: compatible; learned: max_tokens_field is 'max_completion_tokens'; learned: no temperature"
            assert told in llm.explain()


@REAL
async def test_a_server_that_says_it_its_own_way_is_understood(ask: Ask) -> None:
    for server_name, model in (("mistral", "mistral-small"), ("gemini", "gemini-2.5-flash")):
        with FakeOpenAI(strict=server_name) as server:
            async with client(OpenAICompatible(model, base_url=server.url)) as llm:
                reply = await ask(llm, extra={"made_up": 1})
                assert reply.degraded == ("field_dropped",)
                assert "made_up" not in server.chats[-1].json


@REAL
async def test_a_dialect_may_be_named(ask: Ask) -> None:
    with FakeOpenAI(strict="mistral") as server:
        async with client(OpenAICompatible("m", base_url=server.url, profile="mistral")) as llm:
            assert len((await ask(llm, seed=3, tools=[get_weather], tool_choice="required")).attempts) == 1
            assert server.chats[-1].json["random_seed"] == 3
        own = profile_for("mistral", "m")
        async with client(OpenAICompatible("m", base_url=server.url, profile=own)) as llm:
            assert len((await ask(llm, seed=3)).attempts) == 1


def test_a_dialect_that_there_is_not_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"profile: 'klingon' is neither a Profile nor one of anthropic, azure"):
        OpenAICompatible("m", base_url="http://127.0.0.1:1/v1", profile="klingon")


@REAL
async def test_a_model_that_cannot_think_is_not_asked_to_again(ask: Ask) -> None:
    with FakeOllama(status(400, NO_THINKING), say("yes")) as server:
        async with client(Ollama("llama3.2", base_url=server.url)) as llm:
            reply = await ask(llm, reasoning="high")
            assert (reply.text, reply.degraded, len(reply.attempts)) == ("yes", ("field_dropped",), 2)
            assert "think" not in server.chats[-1].json
            assert len((await ask(llm, reasoning="high")).attempts) == 1
            assert "learned: no thinking" in llm.explain()


@REAL
async def test_a_level_of_thinking_becomes_a_yes_and_then_nothing(ask: Ask) -> None:
    level = {"error": "json: cannot unmarshal string into Go struct field ChatRequest.think of type bool"}
    with FakeOllama(status(400, level), status(400, NO_THINKING), say("yes")) as server:
        async with client(Ollama("llama3.2", base_url=server.url)) as llm:
            reply = await ask(llm, reasoning="high")
            assert [one.json.get("think") for one in server.chats] == ["high", True, None]
            assert reply.degraded == ("field_dropped",)
            await ask(llm, reasoning="none")
            assert server.chats[-1].json["think"] is False  # who cannot think may be told not to


@REAL
async def test_a_model_that_refuses_tools_is_passed_over_from_then_on(ask: Ask) -> None:
    with FakeOllama(status(400, NO_TOOLS), say("home")) as server:
        home, hosted = Ollama("llama3.2", base_url=server.url), FakeBackend(say("hosted"))
        async with client(home, hosted) as llm:
            first = await ask(llm, tools=[get_weather])
            assert [type(one.error) for one in first.attempts] == [UnsupportedParameter, type(None)]
            second = await ask(llm, tools=[get_weather])
            assert [type(one.error) for one in second.attempts] == [NoEligibleRoute, type(None)]
            assert (await ask(llm)).text == "home"
            assert len(server.chats) == 2


@pytest.mark.parametrize(
    ("need", "asked"),
    [
        ("tools", {"tools": [get_weather]}),
        ("vision", {"messages": Message(role="user", content="what?", images=(Image(data="AAAA"),))}),
    ],
)
async def test_a_route_that_lacks_what_the_call_needs_is_passed_over(
    ask: Ask, need: Any, asked: dict[str, Any]
) -> None:
    plain, able = FakeBackend(say("no")), FakeBackend(say("yes"))
    llm = client(Route(plain, lacks=[need]), able)
    options = dict(asked)
    reply = await ask(llm, options.pop("messages", "hi"), **options)
    assert (reply.text, plain.opened) == ("yes", 0)


async def test_typed_output_passes_over_a_route_without_schemas() -> None:
    plain, able = FakeBackend(say("1")), FakeBackend(say("2"))
    llm = client(Route(plain, lacks={"schema"}), able)
    assert (await llm.parse("?", int)).output == 2
    assert plain.opened == 0


async def test_where_no_route_can_the_reasons_are_told(ask: Ask) -> None:
    one = client(Route(FakeBackend(name="a"), lacks=["tools"]))
    error = await error_of(ask(one, tools=[get_weather]), NoEligibleRoute)
    assert "the call needs tools" in str(error)
    two = client(Route(FakeBackend(name="a"), lacks=["tools"]), Route(FakeBackend(name="b"), lacks=["tools"]))
    failed = await error_of(ask(two, tools=[get_weather]), AllRoutesFailed)
    assert [(type(each), each.route) for each in failed.failures] == [(NoEligibleRoute, "a"), (NoEligibleRoute, "b")]
    assert (await ask(two)).text  # what it lacks is not needed here


@pytest.mark.parametrize("lacks", ["tools", ["smell"], [3]])
def test_what_a_route_may_lack_is_checked(lacks: Any) -> None:
    with pytest.raises(ConfigError, match=r"lacks: .* is not a collection of tools, vision, schema"):
        Route(FakeBackend(), lacks=lacks)


async def test_reasoning_goes_back_to_the_route_that_wrote_it_and_to_no_other(ask: Ask) -> None:
    thinker, other = FakeBackend(say("hello", reasoning=["hm"]), name="thinker"), FakeBackend(name="other")
    reply = await ask(client(thinker))
    history = [Message("user", "hi"), reply.message, Message("user", "and?")]
    for backend, kept in ((thinker, "hm"), (other, None)):
        await ask(client(backend), history)
        assert backend.requests[-1].messages[1].reasoning == kept
        assert backend.requests[-1].messages[1].content == "hello"
    await ask(client(other), [{"role": "assistant", "content": "a", "reasoning_content": "mine"}, "and?"])
    assert other.requests[-1].messages[0].reasoning == "mine"  # nobody knows where it is from: it is the caller's


@REAL
async def test_a_conversation_moves_from_server_to_server(ask: Ask) -> None:
    """Tool calls by ids of one, sent to the next when the first is down."""
    call = say(tool_calls=[ToolCall("get_weather", {"city": "Paris"}, "call_" + "x" * 24)], reasoning=["hm"])
    with FakeOpenAI(call, status(503)) as first, FakeOpenAI(strict="mistral") as second:
        routes = [
            Route(OpenAICompatible("m", base_url=first.url), retry=Retry(attempts=1)),
            OpenAICompatible("m", base_url=second.url, profile="mistral", name="second"),
        ]
        async with client(*routes) as llm:
            asked = await ask(llm, "weather?", tools=[get_weather])
            result = Message(role="tool", content="sunny", tool_call_id=asked.tool_calls[0].id)
            reply = await ask(llm, [Message("user", "weather?"), asked.message, result], tools=[get_weather])
            assert (reply.route, len(second.requests)) == ("second", 1)  # taken at the first try


def test_a_profile_says_how_it_differs() -> None:
    assert Profile("x", max_stop=4).differences() == {"max_stop": 4}
