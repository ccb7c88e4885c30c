"""What moves a breaker through the engine, and what does not; and that a call on which nothing fails costs nothing."""

from __future__ import annotations

import anyio
import pytest

from resilient_llm import Bulkhead, CircuitBreaker, EmbedRequest, LLMError, Retry, Route, errors
from resilient_llm.errors import BackendFailed, CircuitOpen, ConnectFailed, RequestRejected
from resilient_llm.testing import FakeBackend, fail, hang, say

from .kit import Ask, client, error_of, unlimited

pytestmark = pytest.mark.anyio
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LLMError)]
MISTAKES = [kind for kind in KINDS if issubclass(kind, RequestRejected)]
FAILURES = [kind for kind in KINDS if issubclass(kind, BackendFailed)]


@pytest.mark.invariant(12)
@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.__name__)
async def test_a_callers_mistake_never_opens_a_breaker(ask: Ask, kind: type[LLMError]) -> None:
    llm = client(FakeBackend(fail(kind("no", status=400)), name="a"))
    for _ in range(30):
        await error_of(ask(llm), kind)
    state = llm.snapshot()["a"]["breaker"]
    assert (state.state, state.failures, state.failed, state.slow) == ("closed", 0, 0, 0)


@pytest.mark.parametrize("kind", FAILURES, ids=lambda kind: kind.__name__)
async def test_a_dead_server_always_opens_it(ask: Ask, kind: type[LLMError]) -> None:
    backend = FakeBackend(fail(kind("no")), name="a")
    llm = client(Route(backend, retry=Retry(attempts=1)))
    for _ in range(20):
        await error_of(ask(llm))
    assert llm.snapshot()["a"]["breaker"].state == "open"
    assert len(backend.requests) <= 5


@pytest.mark.invariant(7, 12)
@pytest.mark.parametrize("kind", ["RateLimited", "QuotaExhausted", "EmptyReply", "OutputInvalid"])
async def test_what_nobody_is_to_blame_for_moves_nothing(ask: Ask, kind: str) -> None:
    llm = client(Route(FakeBackend(fail(getattr(errors, kind)("no")), name="a"), budget=unlimited()))
    for _ in range(30):
        await error_of(ask(llm), getattr(errors, kind))
    state = llm.snapshot()["a"]["breaker"]
    assert (state.state, state.failures, state.failed) == ("closed", 0, 0)


@pytest.mark.invariant(41)
async def test_where_nothing_fails_the_answer_is_the_backends_after_one_attempt_and_all_is_as_before(ask: Ask) -> None:
    backend = FakeBackend(say("just ", "this"), name="a")
    llm = client(backend, FakeBackend(name="b"))
    before = {name: repr(state) for name, state in llm.snapshot().items()}
    reply = await ask(llm)
    assert (reply.text, reply.route, reply.degraded) == ("just this", "a", ())
    assert [(one.number, one.kind, one.error) for one in reply.attempts] == [(1, "first", None)]
    assert reply.timings.total == reply.timings.backoff == 0
    after = {name: repr(state) for name, state in llm.snapshot().items()}
    assert after["b"] == before["b"]
    assert (backend.opened, backend.active) == (1, 0)


@pytest.mark.invariant(30)
async def test_an_error_never_raises_the_number_of_slots_however_fast_it_comes(ask: Ask) -> None:
    llm = client(
        Route(
            FakeBackend(fail(errors.ServerError("no")), name="a"),
            bulkhead=Bulkhead(2, max_slots=10),
            breaker=CircuitBreaker(mode="observe_only"),
            retry=Retry(attempts=1),
        )
    )
    for _ in range(30):
        await error_of(ask(llm), errors.ServerError)
    assert llm.snapshot()["a"]["bulkhead"].slots == 2


async def test_one_caller_in_a_hurry_does_not_shut_a_healthy_server_out_for_the_others(ask: Ask) -> None:
    llm = client(FakeBackend(say("yes", first=1), name="a"), FakeBackend(say("yes", first=1), name="b"))
    for _ in range(20):
        await error_of(ask(llm, timeout=0.2))  # 0.1 s for each: the word comes after one second
        assert (await ask(llm)).route == "a"
    assert [state["breaker"].state for state in llm.snapshot().values()] == ["closed", "closed"]


async def test_a_connect_that_the_deadline_cut_short_is_no_failure(ask: Ask) -> None:
    llm = client(FakeBackend(say("yes"), name="a", local=True, connects=99), FakeBackend(say("yes"), name="b"))
    for _ in range(6):
        reply = await ask(llm, timeout=2)  # half of it is for the second
        assert (reply.route, reply.attempts[0].error.fault) == ("b", None)
        assert llm.snapshot()["a"]["breaker"].failures == 0


async def test_a_load_that_never_ends_is_found_out_by_callers_in_a_hurry(ask: Ask) -> None:
    deadlocked = FakeBackend(say("yes"), name="a", local=True, loads=9999)
    llm, began = client(deadlocked, FakeBackend(say("yes"), name="b")), anyio.current_time()
    for _ in range(20):
        assert (await ask(llm, timeout=20)).route == "b"
    assert llm.snapshot()["a"]["breaker"].state == "open"
    assert round(anyio.current_time() - began) == 5 * 15  # of 20 s each, 5 are for the next route


async def test_a_server_that_hangs_is_found_out_by_callers_in_a_hurry(ask: Ask) -> None:
    hangs = FakeBackend(hang(), name="a")
    llm = client(hangs, FakeBackend(say("yes"), name="b"))
    for _ in range(20):
        assert (await ask(llm, timeout=6)).route == "b"
    # Of each 6 s the server that hangs gets 3, so every second attempt makes 5 s of silence full.
    assert (llm.snapshot()["a"]["breaker"].state, hangs.opened) == ("open", 4)


@pytest.mark.parametrize("slots", [1, 4])
async def test_a_lone_route_that_is_back_lets_its_callers_wait_for_their_turn(ask: Ask, slots: int) -> None:
    down, back = fail(ConnectFailed("refused")), say("yes", first=1)
    backend = FakeBackend(down, back, name="a", slots=slots)
    llm = client(Route(backend, breaker=CircuitBreaker(failures=1, cooldown=5, successes=1), retry=Retry(attempts=1)))
    await error_of(ask(llm), ConnectFailed)
    await anyio.sleep(5)
    assert (await ask(llm)).attempts[0].kind == "probe"
    replies: list[str] = []

    async def one() -> None:
        replies.append((await ask(llm, timeout=30)).text)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one)
    assert replies == ["yes"] * 20


async def test_the_time_of_a_load_is_no_silence() -> None:
    llm = client(FakeBackend(say("yes", first=9), name="a", local=True, loads=20))
    for _ in range(3):
        with anyio.move_on_after(21):  # one second after the model is in memory
            await llm.chat("hi")
    assert llm.snapshot()["a"]["breaker"].slow == 0


async def test_a_health_check_asks_a_route_of_embeddings_for_a_vector() -> None:
    vectors = FakeBackend(name="vectors", local=True)
    assert await client(Route(vectors, space="nomic")).health() == {"vectors": None}
    assert [type(one) for one in vectors.requests] == [EmbedRequest]


async def test_a_server_that_says_nothing_and_is_done_is_well_and_one_whose_breaker_is_open_is_not_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    silent, down = FakeBackend(say(""), name="silent"), FakeBackend(fail(ConnectFailed("refused")), name="down")
    llm = client(silent, Route(down, breaker=CircuitBreaker(failures=1), retry=Retry(attempts=1)))
    assert [type(one) for one in (await llm.health()).values()] == [type(None), ConnectFailed]
    assert [type(one) for one in (await llm.health()).values()] == [type(None), CircuitOpen]
    assert down.opened == 1
    assert [one.getMessage() for one in caplog.records if "lost" in one.getMessage()] == []


async def test_our_own_half_minute_aside_is_not_taken_for_what_the_server_said(ask: Ask) -> None:
    script = fail(errors.ModelNotFound("gone")), fail(errors.RateLimited("slow", retry_after=2)), say("back")
    backend = FakeBackend(*script, name="a")
    llm = client(Route(backend, retry=Retry(attempts=1)))
    await error_of(ask(llm, timeout=10), errors.ModelNotFound)  # puts it aside for 30 s
    await error_of(ask(llm, timeout=10), errors.RateLimited)  # and the server says 2 s
    await anyio.sleep(2)
    assert (await ask(llm, timeout=10)).text == "back"
