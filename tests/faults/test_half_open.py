"""A breaker over real sockets: a flapping server, a crowd at half-open, cancelled probes, a wall clock that jumps."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

from resilient_llm import CircuitBreaker, DeadlineExceeded, LLMError, Retry, RetryBudget, Timeouts
from resilient_llm.errors import BackendFailed, CircuitOpen, RateLimited, ServerError
from resilient_llm.testing import hang, say, status

from .ways import LATE, PROMISE, Late, door, error_within, every_way, serve

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)
COOLDOWN = 0.2


def quick(**options: Any) -> CircuitBreaker:
    """Opens at the first failure and not for long."""
    return CircuitBreaker(**{"failures": 1, "cooldown": COOLDOWN, "max_cooldown": COOLDOWN} | options)


async def test_a_flapping_server_is_left_alone_while_it_is_down_and_used_when_it_is_up() -> None:
    async def check(way: str, kind: str, case: None) -> None:
        with serve(kind, say("up")) as (server, route):
            async with door(way, route(breaker=quick(successes=1), retry=ONCE)) as ask:
                for _ in range(3):
                    assert (await ask(timeout=20)).text == "up"
                    server.kill()
                    killed = time.monotonic()
                    await error_within(0.1, ask(timeout=20), BackendFailed)
                    refusal = await error_within(0.1, ask(timeout=20), LLMError)
                    if time.monotonic() - killed > COOLDOWN:
                        raise Late("the cooldown was over before the next call had come")
                    assert isinstance(refusal, CircuitOpen)
                    server.restart()
                    await anyio.sleep(COOLDOWN * 1.1)
                assert (await ask(timeout=20)).text == "up"

    await every_way(check)


@pytest.mark.invariant(4, 5, 43)
async def test_of_twenty_calls_at_half_open_one_reaches_the_server() -> None:
    async def check(way: str, kind: str, case: None) -> None:
        with serve(kind, status(500), hang()) as (server, route):
            async with door(way, route(breaker=quick(), retry=ONCE, timeouts=Timeouts(first_token=60))) as ask:
                await error_within(0.1, ask(timeout=20), ServerError)
                await anyio.sleep(COOLDOWN * 1.1)
                errors: list[LLMError] = []

                async def one() -> None:
                    try:
                        await ask(timeout=20)
                    except LLMError as error:
                        errors.append(error)

                async with anyio.create_task_group() as group:
                    for _ in range(20):
                        group.start_soon(one)
                    with anyio.fail_after(10):
                        while len(errors) < 19 or len(server.chats) < 2:
                            await anyio.sleep(0.01)
                    server.kill()  # and so ends the probe
                assert [type(error) for error in errors[:19]] == [CircuitOpen] * 19
                if max(error.attempts[-1].total for error in errors[:19]) > PROMISE:
                    raise Late("a refusal waits for nothing")
                assert isinstance(errors[19], BackendFailed)
                assert len(server.chats) == 2

    await every_way(check)


@pytest.mark.invariant(7, 11)
async def test_five_probes_that_are_cancelled_change_nothing_and_the_sixth_call_probes_again() -> None:
    async def check(way: str, kind: str, case: None) -> None:
        breaker = quick(successes=1)
        with serve(kind, status(500), hang()) as (server, route):
            async with door(way, route(breaker=breaker, retry=ONCE)) as ask:
                await error_within(0.1, ask(timeout=20), ServerError)
                await anyio.sleep(COOLDOWN * 1.1)
                for _ in range(5):
                    if way.startswith("async"):
                        with anyio.move_on_after(0.1):
                            await ask(timeout=20)
                    else:  # nobody can cancel a thread: its deadline does
                        await error_within(0.1, ask(timeout=0.1), DeadlineExceeded)
                    assert breaker.state(time.monotonic()) == "half-open"
                server.then(say("back"))
                reply = await ask(timeout=20)
                assert (reply.text, reply.attempts[-1].kind) == ("back", "probe")
                assert breaker.state(time.monotonic()) == "closed"

    await every_way(check)


HINTS: dict[str, tuple[dict[str, str], float, float]] = {
    # the header: what is kept of it, and how long the repeat waits at least and at most
    "seconds": ({"Retry-After": "1"}, 1.0, 1.1),
    "a float": ({"Retry-After": "0.3"}, 0.3, 0.33),
    "milliseconds": ({"Retry-After-Ms": "300"}, 0.3, 0.33),
    "milliseconds come first": ({"Retry-After": "900", "Retry-After-Ms": "300"}, 0.3, 0.33),
    "a date": ({"Retry-After": "{date}"}, 0.0, 2.2),
    "a date that is over": ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0, 1.0),
    "negative": ({"Retry-After": "-5"}, 0.0, 1.0),
    "NaN": ({"Retry-After": "NaN"}, 0.0, 1.0),
    "1e309": ({"Retry-After": "1e309"}, 0.0, 1.0),
    "infinite": ({"Retry-After": "inf"}, 0.0, 1.0),
    "no number": ({"Retry-After": "soon"}, 0.0, 1.0),
}


@pytest.mark.invariant(18, 19)
async def test_retry_after_in_every_form_is_kept_or_ignored_and_never_makes_a_call_hang() -> None:
    async def check(way: str, kind: str, name: str) -> None:
        given, least, most = HINTS[name]
        at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
        headers = {key: value.format(date=at) for key, value in given.items()}
        with serve(kind, status(429, "slow down", headers), say("yes")) as (_, route):
            async with door(way, route(retry=Retry(attempts=2), budget=RetryBudget(burst=10))) as ask:
                reply = await ask(timeout=20)
                first, second = reply.attempts
                assert isinstance(first.error, RateLimited)
                waited = second.started - (first.started + first.total)
                assert least - 0.001 <= waited <= most + LATE, waited
                assert reply.timings.backoff == pytest.approx(waited, abs=0.1)

    await every_way(check, HINTS, at_once=16)


@pytest.mark.parametrize("hint", ["20", "100"])
async def test_a_retry_after_that_does_not_fit_the_deadline_is_told_at_once(hint: str) -> None:
    async def check(way: str, kind: str, case: None) -> None:
        with serve(kind, status(429, "slow down", {"Retry-After": hint})) as (server, route):
            async with door(way, route()) as ask:
                await error_within(0.1, ask(timeout=1), RateLimited)
                assert len(server.chats) == 1

    await every_way(check)


@pytest.mark.invariant(10)
@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_wall_clock_that_jumps_by_an_hour_moves_no_deadline_and_no_breaker(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumped = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + jumped[0])

    async def check(way: str, kind: str, case: None) -> None:
        breaker = quick(cooldown=1.0, max_cooldown=1.0)
        with serve(kind, status(500), hang()) as (_, route):
            async with door(way, route(retry=ONCE, breaker=breaker)) as ask:
                await error_within(0.1, ask(timeout=20), ServerError)
                assert breaker.snapshot(time.monotonic()).state == "open"
            async with door(way, route(retry=ONCE)) as ask, anyio.create_task_group() as group:

                async def later() -> None:
                    await anyio.sleep(0.1)
                    jumped[0] = jump

                group.start_soon(later)
                await error_within(0.3, ask(timeout=0.3), DeadlineExceeded, least=0.3)
        left = breaker.snapshot(time.monotonic()).retry_after
        assert left is None or left <= 1.0

    await every_way(check)


@pytest.mark.invariant(9, 43)
async def test_a_client_of_an_open_breaker_waits_for_nothing_and_sends_nothing() -> None:
    async def check(way: str, kind: str, case: None) -> None:
        with serve(kind, say("no")) as (server, route):
            async with door(way, route(breaker=CircuitBreaker(mode="forced_open"))) as ask:
                await error_within(0.0, ask(timeout=20), CircuitOpen)
            assert server.requests == []
            assert server.connections == 0

    await every_way(check)
