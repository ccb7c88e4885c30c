"""The limits of the phases of one attempt: each has its own error, and counts only what it is there for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from resilient_llm import LLMError, Retry, Route, Timeouts
from resilient_llm.errors import ConfigError, ConnectTimeout, FirstTokenTimeout, LoadTimeout, StreamStalled
from resilient_llm.testing import FakeBackend, hang, say, stall
from resilient_llm.testing._steps import Broken

from .kit import Ask, assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio
LIMITS = Timeouts(connect=3, load=20, first_token=8, between_tokens=5)
ONCE = Retry(attempts=1)

PHASES: dict[str, tuple[Callable[[], FakeBackend], type[LLMError], float]] = {
    "connect": (lambda: FakeBackend(connects=100), ConnectTimeout, 3),
    "load": (lambda: FakeBackend(loads=100), LoadTimeout, 20),
    "first token": (lambda: FakeBackend(hang()), FirstTokenTimeout, 8),
    "first token after the headers": (lambda: FakeBackend(hang(after_headers=True)), FirstTokenTimeout, 8),
    "first token counts from the connection": (lambda: FakeBackend(hang(), connects=2), FirstTokenTimeout, 10),
    "first token counts from in memory": (lambda: FakeBackend(hang(), loads=15), FirstTokenTimeout, 23),
    "between tokens": (lambda: FakeBackend(stall("a", "b")), StreamStalled, 5),
    "between tokens counts from the last one": (
        lambda: FakeBackend(Broken(say("a", "b", gap=4), "stall")), StreamStalled, 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PHASES)
async def test_each_phase_has_its_limit_and_its_error(ask: Ask, what: str) -> None:
    make, kind, seconds = PHASES[what]
    backend = make()
    llm = client(Route(backend, timeouts=LIMITS, retry=ONCE))
    began = anyio.current_time()
    error = await error_of(ask(llm), kind)
    assert anyio.current_time() - began == pytest.approx(seconds, abs=1e-6)
    assert error.attempts[-1].total == pytest.approx(anyio.current_time() - began)
    assert_nothing_held(llm, backend)


class StandsStill(FakeBackend):
    """Before it connects the event loop stands still for longer than a first token may take."""

    @asynccontextmanager
    async def open(self, request: Any, watch: Any, **more: Any) -> AsyncIterator[Any]:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(9)
        watch.enter("connect")
        async with super().open(request, watch, **more) as batches:
            yield batches


async def test_the_next_phase_is_not_blamed_for_the_time_that_the_last_one_took(ask: Ask) -> None:
    llm = client(Route(StandsStill(say("yes")), timeouts=LIMITS, retry=ONCE))
    error = await error_of(ask(llm, timeout=60), FirstTokenTimeout)
    assert error.message == "no first token within 8 s"
    assert (error.attempts[-1].connect, error.attempts[-1].total) == (None, pytest.approx(9.0))


HEALTHY: dict[str, Callable[[], FakeBackend]] = {
    "connect": lambda: FakeBackend(say("yes"), connects=2.9),
    "load": lambda: FakeBackend(say("yes"), loads=19.9),
    "first token": lambda: FakeBackend(say("yes", first=7.9)),
    "between tokens": lambda: FakeBackend(say("y", "e", "s", gap=4.9)),
    "all of them": lambda: FakeBackend(say("y", "es", first=7.9, gap=4.9), connects=2.9, loads=19.9),
}


@pytest.mark.parametrize("what", HEALTHY)
async def test_what_stays_below_the_limits_is_left_alone(ask: Ask, what: str) -> None:
    reply = await ask(client(Route(HEALTHY[what](), timeouts=LIMITS)))
    assert reply.text == "yes"
    assert len(reply.attempts) == 1


DEFAULTS: list[tuple[dict[str, Any], Callable[[], Any], type[LLMError], float]] = [
    ({"local": True}, lambda: {"connects": 500.0}, ConnectTimeout, 2),
    ({"local": False}, lambda: {"connects": 500.0}, ConnectTimeout, 5),
    ({"local": True}, lambda: {"loads": 500.0}, LoadTimeout, 170),
    ({"local": True}, dict, FirstTokenTimeout, 60),
    ({"local": False}, dict, FirstTokenTimeout, 60),
]


@pytest.mark.parametrize(("kind", "more", "error", "seconds"), DEFAULTS)
async def test_the_defaults_by_kind_of_route(
    ask: Ask, kind: dict[str, Any], more: Callable[[], Any], error: type[LLMError], seconds: float
) -> None:
    llm = client(Route(FakeBackend(hang(), **kind, **more()), retry=ONCE))
    began = anyio.current_time()
    await error_of(ask(llm), error)
    assert anyio.current_time() - began == pytest.approx(seconds)


@pytest.mark.parametrize("local", [True, False])
async def test_between_tokens_the_default_is_half_a_minute(ask: Ask, local: bool) -> None:
    llm = client(Route(FakeBackend(stall("a"), local=local), retry=ONCE))
    began = anyio.current_time()
    await error_of(ask(llm), StreamStalled)
    assert anyio.current_time() - began == pytest.approx(30, abs=1e-6)


@pytest.mark.parametrize(("local", "text"), [(False, "thought"), (True, None)])
async def test_a_hosted_model_that_thinks_has_five_minutes_to_its_first_word(
    ask: Ask, local: bool, text: str | None
) -> None:
    llm = client(Route(FakeBackend(say("thought", first=290), local=local), retry=ONCE))
    if text is None:
        await error_of(ask(llm, timeout=900, reasoning="high"), FirstTokenTimeout)
    else:
        assert (await ask(llm, timeout=900, reasoning="high")).text == text
        await error_of(ask(llm, timeout=900), FirstTokenTimeout)


async def test_reasoning_is_a_first_token_and_keeps_an_answer_alive(ask: Ask) -> None:
    backend = FakeBackend(say("yes", reasoning=["a", "b", "c", "d"], first=7, gap=4.9))
    reply = await ask(client(Route(backend, timeouts=LIMITS)))
    assert (reply.text, reply.reasoning) == ("yes", "abcd")


async def test_an_answer_that_is_not_streamed_has_no_limit_but_the_deadline(ask: Ask) -> None:
    backend = FakeBackend(say("yes", first=100))
    llm = client(Route(backend, timeouts=LIMITS, streams=False))
    assert (await ask(llm)).text == "yes"
    await error_of(ask(client(Route(FakeBackend(hang(), connects=4), timeouts=LIMITS, streams=False))), ConnectTimeout)


async def test_an_embedding_has_no_first_token_to_wait_for() -> None:
    llm = client(Route(FakeBackend(say(first=20)), timeouts=LIMITS))
    assert len((await llm.embed("text")).vectors) == 1


async def test_a_limit_longer_than_what_is_left_is_clamped_and_says_so(ask: Ask) -> None:
    first, second = FakeBackend(hang(), name="first"), FakeBackend(say("yes"), name="second")
    error = (await ask(client(Route(first, timeouts=LIMITS), second), timeout=10)).attempts[0].error
    assert isinstance(error, FirstTokenTimeout)
    assert "within 5 s" in error.message
    assert "of its 8 s" in error.message


async def test_the_gap_limit_does_not_count_the_thinking_of_the_reader() -> None:
    llm = client(Route(FakeBackend(say(*"abcdef", gap=1)), timeouts=LIMITS))
    async with llm.stream("hi") as stream:
        texts = []
        async for text in stream.text():
            texts.append(text)
            await anyio.sleep(30)  # six times the gap limit
    assert "".join(texts) == "abcdef"


async def test_the_gap_limit_counts_every_read_anew_after_a_pause() -> None:
    llm = client(Route(FakeBackend(stall("a")), timeouts=LIMITS))
    async with llm.stream("hi") as stream:
        await anext(stream)
        await anyio.sleep(100)
        began = anyio.current_time()
        await error_of(anext(stream), StreamStalled)
        assert anyio.current_time() - began == pytest.approx(5)


async def test_the_thinking_of_the_reader_counts_against_a_deadline_of_the_user() -> None:
    llm = client(FakeBackend(say(*"abcdef", gap=1)))
    async with llm.stream("hi", timeout=10) as stream:
        await anext(stream)
        await anyio.sleep(20)
        error = await error_of(anext(stream))
    assert type(error).__name__ == "DeadlineExceeded"
    assert error.partial == "a"


@pytest.mark.parametrize("field", ["connect", "load", "first_token", "between_tokens"])
@pytest.mark.parametrize("value", [0, -1, "3", True, float("nan")])
def test_a_limit_that_is_no_duration_is_told_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        Timeouts(**{field: value})
