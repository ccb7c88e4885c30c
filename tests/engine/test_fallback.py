"""The list of routes is the fallback policy: who is asked next, after which error, and what the caller sees."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from resilient_llm import (
    AllRoutesFailed,
    ChatRequest,
    DeadlineExceeded,
    EmbedRequest,
    LLMError,
    RateLimited,
    Retry,
    Route,
    errors,
)
from resilient_llm.errors import (
    AuthFailed,
    ConfigError,
    ConnectFailed,
    ContextOverflow,
    LimitExceeded,
    ModelNotFound,
    NoEligibleRoute,
    OutputInvalid,
    QuotaExhausted,
    ServerError,
)
from resilient_llm.testing import FakeBackend, fail, hang, say

from .kit import Ask, client, error_of

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)

FALLS_BACK = {
    "BackendFailed", "ConnectFailed", "ConnectTimeout", "LoadTimeout", "FirstTokenTimeout", "ServerError", "Malformed",
    "Overloaded", "StreamInterrupted", "Truncated", "StreamStalled", "EmptyReply", "RateLimited", "QuotaExhausted",
    "ContextOverflow", "ModelNotFound", "Rejected", "CircuitOpen", "CircuitOpenTooLong", "DeadlineUnattainable",
}  # fmt: skip
STAYS = {
    "LLMError", "RequestRejected", "BadRequest", "AuthFailed", "ContentFiltered", "UnsupportedParameter",
    "OutputInvalid", "NoEligibleRoute", "LimitExceeded", "DeadlineExceeded", "ConfigError", "ClientClosed",
    "AllRoutesFailed",
}  # fmt: skip


def test_every_error_has_a_row_in_these_tables() -> None:
    assert {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, LLMError)
    } == FALLS_BACK | STAYS


@pytest.mark.parametrize("name", sorted(FALLS_BACK))
async def test_after_this_error_the_next_route_is_asked(ask: Ask, name: str) -> None:
    first, second = FakeBackend(fail(getattr(errors, name)("no")), name="first"), FakeBackend(say("yes"), name="second")
    reply = await ask(client(Route(first, retry=ONCE), second))
    assert (reply.text, reply.route) == ("yes", "second")
    assert [(one.route, one.kind, type(one.error).__name__) for one in reply.attempts] == [
        ("first", "first", name),
        ("second", "fallback", "NoneType"),
    ]


@pytest.mark.parametrize("name", sorted(STAYS))
async def test_after_this_error_no_other_route_is_asked(ask: Ask, name: str) -> None:
    first, second = FakeBackend(fail(getattr(errors, name)("no"))), FakeBackend(say("yes"), name="second")
    error = await error_of(ask(client(Route(first, retry=ONCE), second)))
    assert (type(error).__name__, error.route, error.message) == (name, "fake", "no")
    assert second.requests == []


@pytest.mark.parametrize("kind", [AuthFailed, OutputInvalid])
async def test_a_route_can_name_errors_that_go_on_all_the_same(ask: Ask, kind: type[LLMError]) -> None:
    first = Route(FakeBackend(fail(kind("no"))), falls_back_on=(kind,), retry=ONCE)
    reply = await ask(client(first, FakeBackend(say("yes"), name="second")))
    assert reply.route == "second"


async def test_an_instance_may_say_otherwise_than_its_class(ask: Ask) -> None:
    first = FakeBackend(fail(ServerError("no", retryable=False, falls_back=False)))
    second = FakeBackend(say("yes"), name="second")
    error = await error_of(ask(client(first, second)), ServerError)
    assert error.route == "fake"
    assert second.requests == []


@pytest.mark.invariant(42)
async def test_all_routes_failed_carries_every_failure_and_every_attempt(ask: Ask) -> None:
    routes = [
        Route(FakeBackend(fail(ServerError("broken", status=500)), name="a"), retry=Retry(attempts=2)),
        Route(FakeBackend(fail(RateLimited("slow", retry_after=700)), name="b"), retry=ONCE),
        Route(FakeBackend(fail(QuotaExhausted("spent", retry_after=500)), name="c"), retry=ONCE),
    ]
    error = await error_of(ask(client(*routes)), AllRoutesFailed)
    assert [(one.route, type(one).__name__) for one in error.failures] == [
        ("a", "ServerError"), ("b", "RateLimited"), ("c", "QuotaExhausted"),
    ]  # fmt: skip
    assert error.last is error.failures[-1] is error.__cause__
    assert error.retry_after == 500
    assert [(one.route, one.number, one.kind) for one in error.attempts] == [
        ("a", 1, "first"), ("a", 2, "retry"), ("b", 3, "fallback"), ("c", 4, "fallback"),
    ]  # fmt: skip
    assert str(error) == "3 routes failed: a: ServerError: broken; b: RateLimited: slow; c: QuotaExhausted: spent"


async def test_one_failed_route_raises_its_own_error_with_its_attempts(ask: Ask) -> None:
    error = await error_of(ask(client(Route(FakeBackend(fail(ServerError("no"))), retry=Retry(attempts=2)))))
    assert type(error) is ServerError
    assert [one.kind for one in error.attempts] == ["first", "retry"]


async def test_a_mistake_of_the_caller_on_the_second_route_is_shown_with_the_first_failure(ask: Ask) -> None:
    first, second = FakeBackend(fail(ConnectFailed("down"))), FakeBackend(fail(AuthFailed("bad key")), name="second")
    error = await error_of(ask(client(Route(first, retry=ONCE), second)), AllRoutesFailed)
    assert error.fault == "caller"
    assert [type(one) for one in error.failures] == [ConnectFailed, AuthFailed]


async def test_the_end_of_the_deadline_is_raised_bare_even_after_several_routes(ask: Ask) -> None:
    first, second = FakeBackend(fail(ConnectFailed("down"))), FakeBackend(hang(), name="second")
    error = await error_of(ask(client(Route(first, retry=ONCE), second), timeout=5), DeadlineExceeded)
    assert error.route == "second"
    assert [type(one.error) for one in error.attempts] == [ConnectFailed, DeadlineExceeded]


ASIDE = [
    (RateLimited("slow down", retry_after=40), 40),
    (RateLimited("slow down"), 30),
    (QuotaExhausted("spent"), 30),
    (QuotaExhausted("spent", retry_after=3600), 3600),
    (ModelNotFound("not here"), 30),
]


@pytest.mark.parametrize(("error", "seconds"), ASIDE)
async def test_a_route_that_was_put_aside_is_tried_last_until_its_time_is_over(
    ask: Ask, error: LLMError, seconds: float
) -> None:
    first = FakeBackend(fail(error), say("back"), name="first")
    second = FakeBackend(say("there"), name="second")
    llm = client(Route(first, retry=ONCE), second)
    assert (await ask(llm)).route == "second"
    await anyio.sleep(seconds * 0.99)
    assert (await ask(llm)).route == "second"
    assert len(first.requests) == 1  # not even asked meanwhile
    await anyio.sleep(seconds * 0.02)
    assert (await ask(llm)).route == "first"


async def test_a_route_put_aside_is_still_tried_when_the_others_fail(ask: Ask) -> None:
    first = FakeBackend(fail(RateLimited("slow", retry_after=40)), say("back"), name="first")
    second = FakeBackend(say("there"), fail(ServerError("no")), name="second")
    llm = client(Route(first, retry=ONCE), Route(second, retry=ONCE))
    assert (await ask(llm)).route == "second"
    reply = await ask(llm)
    assert [one.route for one in reply.attempts] == ["second", "first"]


@pytest.mark.invariant(35)
async def test_a_route_put_aside_that_is_alone_is_always_tried(ask: Ask) -> None:
    only = FakeBackend(fail(QuotaExhausted("spent", retry_after=3600)), say("back"))
    llm = client(only)
    await error_of(ask(llm), QuotaExhausted)
    assert (await ask(llm)).text == "back"


async def test_a_request_that_is_too_large_for_the_limit_does_not_put_its_route_aside(ask: Ask) -> None:
    first = FakeBackend(fail(RateLimited("too many tokens", oversize=True)), say("small"), name="first")
    llm = client(first, FakeBackend(say("large"), name="second"))
    assert (await ask(llm)).route == "second"
    assert len(first.requests) == 1  # waiting would not have helped
    assert (await ask(llm)).route == "first"


async def test_an_overflow_goes_only_to_larger_windows(ask: Ask) -> None:
    backends = [
        FakeBackend(fail(ContextOverflow("too long", tokens=9000, limit=8192)), name="told", window=None),
        FakeBackend(say("no"), name="small", window=8192),
        FakeBackend(say("yes"), name="large", window=16384),
    ]
    reply = await ask(client(*backends))
    assert reply.route == "large"
    assert backends[1].requests == []


async def test_a_prompt_too_long_for_the_first_window_is_never_sent_there(ask: Ask) -> None:
    small, large = FakeBackend(name="small", window=512), FakeBackend(say("yes"), name="large", window=32768)
    reply = await ask(client(small, large), "word " * 2000)
    assert reply.route == "large"
    assert small.requests == []


async def test_a_prompt_too_long_for_every_window_is_refused_with_both_numbers(ask: Ask) -> None:
    backends = [FakeBackend(name="a", window=512), FakeBackend(name="b", window=256)]
    error = await error_of(ask(client(*backends), "word " * 2000), ContextOverflow)
    assert error.tokens > error.limit > 0
    assert [one.requests for one in backends] == [[], []]


async def test_a_plan_chooses_and_orders_the_routes_of_each_call(ask: Ask) -> None:
    a, b, c = (Route(FakeBackend(say(name), name=name)) for name in "abc")

    def plan(request: object, routes: object) -> list[Route]:
        assert isinstance(request, ChatRequest)
        assert routes == [a, b, c]
        return [c, a] if "fast" in request.tags else [b]

    llm = client(a, b, c, plan=plan)
    assert (await ask(llm, tags=["fast"])).route == "c"
    assert (await ask(llm)).route == "b"


async def test_a_plan_that_leaves_no_route_is_told_as_such(ask: Ask) -> None:
    backend = FakeBackend()
    error = await error_of(ask(client(backend, plan=lambda request, routes: [])), NoEligibleRoute)
    assert "plan" in error.message
    assert backend.requests == []


async def test_a_conversation_stays_on_the_route_that_answered_it(ask: Ask) -> None:
    first = FakeBackend(fail(ServerError("no")), say("back"), name="first")
    second = FakeBackend(say("there"), name="second")
    llm = client(Route(first, retry=ONCE), second)
    assert (await ask(llm, conversation="c1")).route == "second"
    assert (await ask(llm, conversation="c1")).route == "second"
    assert (await ask(llm, conversation="c2")).route == "first"
    assert (await ask(llm)).route == "first"


async def test_a_conversation_leaves_a_route_that_is_put_aside(ask: Ask) -> None:
    first, second = FakeBackend(say("here"), name="first"), FakeBackend(say("there"), name="second")

    def plan(request: object, routes: object) -> object:
        return reversed(routes) if "second" in request.tags else routes  # type: ignore[attr-defined, call-overload]

    llm = client(first, Route(second, retry=ONCE), plan=plan)
    assert (await ask(llm, conversation="c1", tags=["second"])).route == "second"
    second.then(fail(RateLimited("slow", retry_after=60)), say("back"))
    await ask(llm, tags=["second"])  # puts it aside, and says nothing of the conversation
    reply = await ask(llm, conversation="c1", tags=["second"])
    assert [one.route for one in reply.attempts] == ["first"]
    await anyio.sleep(61)
    assert (await ask(llm, conversation="c1", tags=["second"])).route == "first"  # there it has its cache now


async def test_routes_of_one_name_are_told_apart(ask: Ask) -> None:
    llm = client(Route(FakeBackend(fail(ServerError("no"))), retry=ONCE), FakeBackend(say("yes")))
    reply = await ask(llm)
    assert [one.route for one in reply.attempts] == ["fake", "fake#2"]
    with pytest.raises(ConfigError, match="two are named 'x'"):
        client(Route(FakeBackend(), name="x"), Route(FakeBackend(), name="x"))


async def test_a_limit_of_the_users_is_for_his_plan_to_raise(ask: Ask) -> None:
    def plan(request: ChatRequest | EmbedRequest, routes: Sequence[Route]) -> Sequence[Route]:
        raise LimitExceeded("no more than 100 calls a day")

    backend = FakeBackend(say("yes"))
    error = await error_of(ask(client(backend, plan=plan)), LimitExceeded)
    assert (error.message, error.attempts, backend.opened) == ("no more than 100 calls a day", (), 0)
