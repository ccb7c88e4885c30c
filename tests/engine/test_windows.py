"""Who says how large the window is, and who says how long the prompt is."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx2
import pytest

from resilient_llm import (
    AsyncClient,
    ChatRequest,
    ContextGuard,
    DeadlineExceeded,
    Ollama,
    OpenAICompatible,
    Route,
    Usage,
    drop_oldest,
    refuse,
)
from resilient_llm._fitting import NEAR
from resilient_llm.errors import ContextOverflow
from resilient_llm.policies.tokens import estimate_request
from resilient_llm.testing import FakeBackend, FakeOllama, OllamaModel, Pulled, Settings, say

from .kit import REAL, Ask, client, error_of

pytestmark = pytest.mark.anyio
PROMPT = "The old ferry left an hour late, and nobody minded. " * 60


class Counting(FakeBackend):
    """A backend whose server can count."""

    def __init__(self, tokens: int | None, *, seconds: float = 0.0, **options: Any) -> None:
        super().__init__(say("ok"), **options)
        self.tokens, self.seconds, self.asked = tokens, seconds, 0

    async def count(self, request: object, watch: object) -> int | None:
        self.asked += 1
        await anyio.sleep(self.seconds)
        return self.tokens


async def guess(prompt: str = PROMPT) -> int:
    """What the estimate makes of the prompt."""
    backend = FakeBackend(say("ok"))
    await client(backend).chat(prompt)
    return estimate_request(backend.requests[0])


def windowed(backend: FakeBackend, room: int, **options: Any) -> AsyncClient:
    return client(Route(backend, guard=ContextGuard(window=room, reserve=0), **options))


async def test_near_the_limit_the_server_is_asked_and_believed(ask: Ask) -> None:
    room = int(await guess() * 1.0)  # with its margin the estimate is too high
    fits = Counting(room)
    assert (await ask(windowed(fits, room), PROMPT)).text == "ok"
    too_long = Counting(room + 1)
    error = await error_of(ask(windowed(too_long, room), PROMPT), ContextOverflow)
    assert (error.tokens, error.limit) == (room + 1, room)
    assert (fits.asked, too_long.asked, too_long.requests) == (1, 1, [])


@pytest.mark.parametrize("share", [0.5, 1 + 2 * NEAR])
async def test_far_from_the_limit_it_is_not_asked(ask: Ask, share: float) -> None:
    backend = Counting(10)
    llm = windowed(backend, int(await guess() / share))
    if share < 1:
        await ask(llm, PROMPT)
    else:
        await error_of(ask(llm, PROMPT), ContextOverflow)
    assert backend.asked == 0


async def test_a_server_that_cannot_tell_leaves_it_to_the_estimate(ask: Ask) -> None:
    backend = Counting(None)
    await error_of(ask(windowed(backend, await guess()), PROMPT), ContextOverflow)
    assert backend.asked == 1


@REAL
async def test_a_counter_of_the_users_own_is_asked_instead(ask: Ask) -> None:
    backend = Counting(10**6)
    guard = ContextGuard(window=await guess(), reserve=0, counter=lambda request: 7)
    assert (await ask(client(Route(backend, guard=guard)), PROMPT)).text == "ok"
    assert backend.asked == 0


async def test_the_deadline_holds_while_the_server_counts(ask: Ask) -> None:
    backend = Counting(10, seconds=50)
    error = await error_of(ask(windowed(backend, await guess()), PROMPT, timeout=2), DeadlineExceeded)
    assert error.phase == "queue"
    assert anyio.current_time() < 3


async def test_what_the_server_counted_for_other_prompts_decides_only_where_the_route_says_so() -> None:
    """A model whose tokenizer makes a third more than we think: known after a few answers, and shown."""
    prompts = [f"{number}: {PROMPT[: 2500 + 37 * number]}" for number in range(12)]
    counts = [int(1.33 * await guess(prompt)) for prompt in prompts]
    room = int(1.15 * await guess())
    for adapt in (False, True):
        backend = FakeBackend(
            *[say("ok", usage=Usage(count, 1)) for count in counts], say("over the window", usage=Usage(room, 1))
        )
        llm = windowed(backend, room, adapt=adapt)
        llm._legs[0].guard = ContextGuard(window=100_000)  # while it learns
        for prompt in prompts:
            await llm.chat(prompt)
        llm._legs[0].guard = ContextGuard(window=room, reserve=0)
        assert ("words × 1.33" in llm.explain(), "not used without adapt=True" in llm.explain()) == (True, not adapt)
        if adapt:
            error = await error_of(llm.chat(PROMPT), ContextOverflow)
            assert error.tokens > 1.3 * await guess()
        else:
            assert (await llm.chat(PROMPT)).text == "over the window"


async def decisions(llm: AsyncClient, backend: FakeBackend) -> list[object]:
    """What becomes of prompts from half a window to twice as much: what was sent, or the two numbers of a refusal."""
    made: list[object] = []
    for share in range(10, 41):
        history = [PROMPT[: len(PROMPT) * share // 40], PROMPT[: len(PROMPT) // 4]]
        before = len(backend.requests)
        try:
            await llm.chat(history)
        except ContextOverflow as error:
            made.append((error.tokens, error.limit))
        else:
            made.append([message.content for message in backend.requests[before].messages])
    return made


@pytest.mark.parametrize("overflow", [refuse, drop_oldest])
@pytest.mark.parametrize("lie", [0.35, 3.0, 1000.0])
async def test_a_server_that_counts_nonsense_changes_nothing_without_adapt(lie: float, overflow: Any) -> None:
    room = int(1.1 * await guess())
    made: list[list[object]] = []
    for poisoned in (False, True):
        prompts = [f"{number}: {PROMPT[: 1500 + 37 * number]}" for number in range(30)]
        counts = [int(lie * await guess(prompt)) for prompt in prompts]
        steps = [say("ok", usage=Usage(count, 1)) for count in counts] if poisoned else [say("ok")] * len(prompts)
        backend = FakeBackend(*steps, say("ok"), window=room)
        llm = client(Route(backend, guard=ContextGuard(reserve=0, overflow=overflow)))
        for prompt in prompts:
            await llm.chat(prompt)
        made.append(await decisions(llm, backend))
    assert made[0] == made[1]
    assert len({type(one) for one in made[0]}) == (2 if overflow is refuse else 1)  # the prompts are both sides of it


async def test_a_count_that_no_tokenizer_can_have_is_not_learned() -> None:
    room = int(1.1 * await guess())
    for nonsense in (10**9, 1):
        backend = FakeBackend(say("ok", usage=Usage(nonsense, 1)), window=room)
        llm = client(Route(backend, guard=ContextGuard(reserve=0), adapt=True))
        for number in range(30):
            await llm.chat(f"{number}: {PROMPT[: 1500 + 37 * number]}")
        assert "the server's counts" not in llm.explain()
        assert (await llm.chat(PROMPT)).text == "ok"


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (Route(FakeBackend()), "window unknown"),
        (Route(FakeBackend(window=4096)), "window 4096 by backend"),
        (Route(FakeBackend(window=4096), guard=ContextGuard(window=9000)), "window 4096 by backend"),
        (Route(FakeBackend(window=4096), guard=ContextGuard(window=900)), "window 900 by ContextGuard(window=…)"),
        (Route(FakeBackend(), guard=ContextGuard(window=900)), "window 900 by ContextGuard(window=…)"),
        (Route(Ollama("m", num_ctx=2048)), "window 2048 by num_ctx"),
        (Route(OpenAICompatible("m", base_url="http://x/v1", context_window=512)), "window 512 by context_window"),
    ],
    ids=str,
)  # fmt: skip
def test_it_is_said_who_says_how_large_the_window_is(route: Route, said: str) -> None:
    assert said in client(route).explain()


def exact(request: ChatRequest) -> int:
    return 7


@pytest.mark.parametrize(
    ("window", "guard", "said"),
    [
        (None, None, "nothing to check without a window; estimated by the vocabulary of o200k"),
        (8192, None, "refuse; max_tokens, else 256, kept for the answer; estimated by the vocabulary of o200k"),
        (512, None, "refuse; max_tokens, else 128, kept for the answer; estimated by the vocabulary of o200k"),
        (8192, ContextGuard(reserve=99, overflow=drop_oldest), "drop_oldest; 99 kept for the answer; estimated by"),
        (8192, ContextGuard(counter=exact), "refuse; max_tokens, else 256, kept for the answer; counted by exact"),
    ],
)
def test_what_the_guard_does_is_said_in_words_and_numbers(
    window: int | None, guard: ContextGuard | None, said: str
) -> None:
    assert f"   guard: {said}" in client(Route(FakeBackend(window=window), guard=guard)).explain()


@REAL
async def test_what_ollama_has_loaded_comes_before_what_was_asked_for() -> None:
    with FakeOllama(models={"m": 1024}) as server:
        async with AsyncClient(Ollama("m", base_url=server.url)) as llm:
            await llm.chat("hi")
            assert "by /api/ps" in llm.explain()
            error = await error_of(llm.chat("word " * 9000), ContextOverflow)
            assert "(by /api/ps)" in error.message


def ollama(version: str, asked: int | None, **pulled: Any) -> Route:
    host = OllamaModel(Pulled("m", **pulled), settings=Settings(context_length=4096), version=version)
    http = httpx2.AsyncClient(transport=host.transport())
    return Route(Ollama("m", base_url="http://127.0.0.1:11434", http_client=http, num_ctx=asked))


def listed(told: dict[str, Any], given: int | None) -> Route:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"object": "list", "data": [{"id": "m", **told}]})

    web = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return Route(OpenAICompatible("m", base_url="http://there.example/v1", http_client=web, context_window=given))


def catalogued(own: int | None) -> Route:
    return Route(FakeBackend(model="gpt-5-mini", provider="openai"), guard=ContextGuard(window=own))


@pytest.mark.parametrize(
    ("route", "window", "by"),
    [
        (lambda: ollama("0.33.0", None, trained=9000), 4096, "/api/ps"),
        (lambda: ollama("0.33.0", 200_000, trained=9000), 9000, "/api/ps"),  # whatever was asked for
        (lambda: ollama("0.9.3", None, num_ctx=3000), 3000, "/api/show"),  # whose /api/ps tells no window
        (lambda: ollama("0.9.3", 200_000, trained=9000), 9000, "/api/show"),
        (lambda: listed({"max_model_len": 512}, 9000), 512, "server"),
        (lambda: listed({"max_model_len": 512}, 400), 400, "context_window"),  # a smaller one is a choice
        (lambda: listed({}, 400), 400, "context_window"),
        (lambda: catalogued(10**6), 10**6, "ContextGuard(window=…)"),  # who knows better than a list
        (lambda: catalogued(None), 400_000, "genai-prices "),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:num_ctx")
async def test_the_order_of_truth(route: Any, window: int, by: str) -> None:
    """What is loaded, what is trained, what the server lists, the user, a catalogue."""
    async with client(route()) as llm:
        if isinstance(llm._legs[0].backend, Ollama):
            await llm.chat("hi")
        await llm.models()
        assert f"window {window} by {by}" in llm.explain()
        if window < 10_000:
            error = await error_of(llm.chat("word " * 2 * window), ContextOverflow)
            assert f"the window of {window} (by {by})" in error.message


class Server:
    """Counts, and answers nothing else."""

    def __init__(self, path: str, answer: Any, code: int = 200) -> None:
        self.path, self.answer, self.code = path, answer, code
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((request.url.path, json.loads(request.content)))
        if request.url.path == self.path:
            return httpx2.Response(self.code, json=self.answer)
        return httpx2.Response(500, json={"error": "not here"})

    def client(self, room: int, **options: Any) -> AsyncClient:
        web = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        backend = OpenAICompatible("m", base_url="http://there.example/v1", http_client=web, **options)
        return client(Route(backend, guard=ContextGuard(window=room, reserve=0)))


@REAL
@pytest.mark.parametrize(
    ("profile", "path", "key"),
    [("llamacpp", "/v1/chat/completions/input_tokens", "input_tokens"), ("vllm", "/tokenize", "count")],
)
async def test_servers_that_can_count_are_asked_in_their_own_way(profile: str, path: str, key: str) -> None:
    room = await guess()
    server = Server(path, {key: room + 5})
    error = await error_of(server.client(room, profile=profile).chat(PROMPT), ContextOverflow)
    assert error.tokens == room + 5
    [(asked, body)] = server.asked
    assert asked == path
    assert body["messages"] == [{"role": "user", "content": PROMPT}]
    assert body["model"] == "m"


@REAL
@pytest.mark.parametrize(("answer", "code"), [({"no": 1}, 200), ({"count": "7"}, 200), ({"detail": "Not Found"}, 404)])
async def test_a_server_that_does_not_know_the_question_is_not_asked_again(answer: Any, code: int) -> None:
    server = Server("/tokenize", answer, code)
    llm = server.client(await guess(), profile="vllm")
    for _ in range(2):
        await error_of(llm.chat(PROMPT), ContextOverflow)
    assert len(server.asked) == (1 if code == 404 else 2)
