"""One table of what happens, on the fakes, on a real llama.cpp server and on a real Ollama: the outcome is the same.

Where a server cannot do the like, the table says so and says what it does instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from resilient_llm import (
    AsyncClient,
    ChatReply,
    ContextOverflow,
    DeadlineExceeded,
    LLMError,
    Ollama,
    OpenAICompatible,
    Retry,
    Route,
)
from resilient_llm.errors import AuthFailed, BadRequest, ConnectFailed, ModelNotFound
from resilient_llm.testing import FakeOllama, FakeOpenAI

from .conftest import KEY
from .helpers import served_once_more
from .script import CONTEXT

pytestmark = pytest.mark.anyio
MODEL, PATIENCE = "scripted", 20.0
TOO_LONG = "word " * 4 * CONTEXT  # more than a window of that many tokens by any count


@dataclass(frozen=True)
class Site:
    """A server, and the language that it is spoken to in."""

    url: str
    native: bool

    def __call__(self, *, model: str = MODEL, key: str = KEY, path: str = "", url: str = "") -> Route:
        """A route to it that makes one attempt."""
        at = (url or self.url) + path
        if self.native:
            return Route(Ollama(model, base_url=at, num_ctx=CONTEXT), retry=Retry(attempts=1))
        return Route(OpenAICompatible(model, base_url=at, api_key=key), retry=Retry(attempts=1))


def _fake_openai(_: pytest.FixtureRequest) -> Iterator[Site]:
    with FakeOpenAI(models=(MODEL,), api_key=KEY, window=CONTEXT) as server:
        yield Site(server.url, native=False)


def _fake_ollama(_: pytest.FixtureRequest) -> Iterator[Site]:
    with FakeOllama(models=(MODEL,), window=CONTEXT, trained=CONTEXT) as server:
        yield Site(server.url, native=True)


def _llamacpp(request: pytest.FixtureRequest) -> Iterator[Site]:
    yield Site(f"{request.getfixturevalue('llama').url}/v1", native=False)


def _ollama(request: pytest.FixtureRequest) -> Iterator[Site]:
    yield Site(request.getfixturevalue("ollama_server").url, native=True)


def _ollama_v1(request: pytest.FixtureRequest) -> Iterator[Site]:
    yield Site(f"{request.getfixturevalue('ollama_server').url}/v1", native=False)


SITES = {
    "FakeOpenAI": _fake_openai,
    "FakeOllama": _fake_ollama,
    "llama.cpp": _llamacpp,
    "Ollama": _ollama,
    "Ollama's /v1": _ollama_v1,
}


@pytest.fixture(params=SITES)
def where(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def site(where: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    yield from SITES[where](request)


@dataclass(frozen=True)
class Scenario:
    """What is asked, and what becomes of it.

    Attributes:
        route: of the client.
        options: of the call.
        prompt: what is said.
        becomes: an error, or what the reply has to satisfy.
        but: what it becomes at servers that cannot do the like, with the reason.
    """

    becomes: type[LLMError] | Callable[[ChatReply], bool]
    route: Callable[[Site], Route] = lambda site: site()
    options: dict[str, Any] = field(default_factory=dict)
    prompt: str = "hi"
    facts: dict[str, Any] = field(default_factory=dict)
    but: dict[str, tuple[str, type[LLMError] | Callable[[ChatReply], bool]]] = field(default_factory=dict)


def whole(reply: ChatReply) -> bool:
    """A whole answer, that says who gave it and what it cost."""
    counted = (reply.usage.input_tokens or 0) > 0 and (reply.usage.output_tokens or 0) > 0
    return bool(reply.text) and (reply.finish_reason, reply.degraded) == ("stop", ()) and counted


def cut(reply: ChatReply) -> bool:
    """Two tokens, and it says so."""
    said = (reply.finish_reason, reply.degraded, reply.usage.output_tokens)
    return bool(reply.text) and said == ("length", ("cut_at_length",), 2)


def short(reply: ChatReply) -> bool:
    """The prompt was cut down without a word, and only its count could tell."""
    return (reply.usage.input_tokens or 0) <= CONTEXT


_ANY_MODEL = ("it serves one model and answers to any name", whole)
_NO_KEY = ("it asks for no key", whole)
SCENARIOS = {
    "an answer": Scenario(whole),
    "an answer cut at its limit": Scenario(cut, options={"max_tokens": 2}),
    "a temperature and a seed": Scenario(whole, options={"temperature": 0.0, "seed": 7}),
    "a system prompt": Scenario(whole, options={"system": "Be brief."}),
    "a model that is not there": Scenario(
        ModelNotFound, lambda site: site(model="nope"), facts={"status": 404, "falls_back": True, "fault": "caller"},
        but={"llama.cpp": _ANY_MODEL},
    ),
    "a wrong key": Scenario(
        AuthFailed, lambda site: site(key="sk-wrong"), facts={"status": 401, "falls_back": False},
        but={"FakeOllama": _NO_KEY, "Ollama": _NO_KEY, "Ollama's /v1": _NO_KEY},
    ),
    "a prompt that is too long": Scenario(
        ContextOverflow, prompt=TOO_LONG, facts={"retryable": False, "falls_back": True},
        but={"Ollama's /v1": ("it cuts what is too long and tells nobody", short)},
    ),
    "a wrong path": Scenario(
        BadRequest, lambda site: site(path="/elsewhere"), facts={"status": 404, "fault": "caller", "retryable": False}
    ),
    "nobody there": Scenario(ConnectFailed, lambda site: site(url="http://127.0.0.1:9"), facts={"fault": "backend"}),
    "no time": Scenario(DeadlineExceeded, options={"timeout": 1e-6}, facts={"retryable": False, "falls_back": False}),
}  # fmt: skip


@pytest.mark.parametrize("way", ["chat", "stream"])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_same_becomes_of_it_everywhere(where: str, site: Site, name: str, way: str) -> None:
    scenario = SCENARIOS[name]
    _, becomes = scenario.but.get(where, ("", scenario.becomes))
    options = {"timeout": PATIENCE, **scenario.options}
    async with AsyncClient(scenario.route(site)) as llm:
        outcome = await _outcome(llm, way, scenario.prompt, options)
    if isinstance(becomes, type):
        assert type(outcome) is becomes
        assert {fact: getattr(outcome, fact) for fact in scenario.facts} == scenario.facts
    else:
        assert isinstance(outcome, ChatReply), outcome
        assert becomes(outcome), (outcome.text, outcome.usage, outcome.finish_reason, outcome.degraded)
    async with AsyncClient(site()) as llm:  # and the server is well
        assert whole(await llm.chat("hi", timeout=PATIENCE))


async def _outcome(llm: AsyncClient, way: str, prompt: str, options: dict[str, Any]) -> ChatReply | LLMError:
    try:
        if way == "chat":
            return await llm.chat(prompt, **options)
        async with llm.stream(prompt, **options) as stream:
            texts = [text async for text in stream.text()]
    except LLMError as error:
        return error
    assert "".join(texts) == stream.reply.text
    return stream.reply


async def test_a_prompt_that_is_too_long_is_told_with_both_numbers(where: str, site: Site) -> None:
    if where == "Ollama's /v1":
        pytest.skip("it cuts what is too long and tells nobody")
    async with AsyncClient(site()) as llm:
        with pytest.raises(ContextOverflow) as caught:
            await llm.chat(TOO_LONG, timeout=PATIENCE)
    assert 0 < (caught.value.limit or 0) <= CONTEXT < (caught.value.tokens or 0)  # the guard keeps room for the answer


async def test_a_stream_that_is_left_early_leaves_the_client_well(
    where: str, site: Site, request: pytest.FixtureRequest
) -> None:
    async with AsyncExitStack() as stack:
        if where.startswith("Ollama"):
            server = request.getfixturevalue("ollama_server")
            await stack.enter_async_context(served_once_more(server, MODEL))
        llm = await stack.enter_async_context(AsyncClient(site()))
        async with llm.stream("hi", timeout=PATIENCE) as stream:
            await anext(stream)
        assert whole(await llm.chat("hi", timeout=PATIENCE))
