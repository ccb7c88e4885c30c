"""Loads, residency and who puts a model out, in virtual time against a whole Ollama, by its log of what happened."""

from __future__ import annotations

import logging
from itertools import pairwise

import anyio
import pytest

from resilient_llm import Bulkhead, ChatReply, DeadlineExceeded, Route, Timeouts
from resilient_llm.events import AnswerDegraded
from resilient_llm.testing import FakeBackend, Fault, Machine, OllamaModel, Pulled, Settings, say
from resilient_llm.testing._host.facts import GIB

from .box import Box, ollama, slow_disk
from .kit import client

pytestmark = pytest.mark.anyio
NAME = "ollama:llama3.2"


@pytest.mark.invariant(36)
@pytest.mark.parametrize("slots", [1, 50])
@pytest.mark.parametrize("every", [0.0, 2.0], ids=["all at once", "one by one"])
async def test_fifty_callers_without_patience_are_one_load_that_completes_and_serves_the_late_ones(
    every: float, slots: int
) -> None:
    host, served, late = slow_disk(60), list[float](), list[float]()
    async with client(Route(ollama(host), bulkhead=Bulkhead(slots))) as llm:

        async def ask(at: float) -> None:
            await anyio.sleep(at)
            try:
                assert (await llm.chat("hi", timeout=10)).text == "You said: hi"
                served.append(at)
            except DeadlineExceeded:
                assert anyio.current_time() == pytest.approx(at + 10, abs=0.05)
                late.append(at)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(ask, number * every)
        assert (len(served), len(late)) == ((0, 50) if not every else (24, 26))  # from 52 s on: in memory at 60 s
        await anyio.sleep(61 - anyio.current_time() if not every else 0)
        assert [(load.outcome, load.request) for load in host.loads] == [("completed", 1)]
        assert host.log[0].load == pytest.approx(60, abs=0.01)
        assert len(host.log) == len(host.chats) + 1  # one request asked for the load
        assert (await llm.chat("hi", timeout=10)).text == "You said: hi"
        assert len(host.loads) == 1
        assert llm.snapshot()[NAME]["breaker"].state == "closed"


async def test_models_that_put_each_other_out_are_loaded_one_after_the_other() -> None:
    """The server has one loader: what waits there is lost with its connection."""
    host = Box(Pulled("a", size=14 * GIB), Pulled("b", size=14 * GIB), machine=Machine(vram=20 * GIB))
    async with client(ollama(host, "a")) as one, client(ollama(host, "b")) as other:
        async with anyio.create_task_group() as group:
            for llm in (one, other) * 3:
                group.start_soon(llm.chat, "hi")
        asked = [truth for truth in host.log if truth not in host.chats]
        for before, after in pairwise(asked):
            assert before.ended is not None
            assert after.began >= before.ended
        assert all(load.outcome == "completed" for load in host.loads)


async def test_what_served_is_on_the_reply() -> None:
    host = Box(Pulled(quantization="Q6_K"))
    async with client(ollama(host, num_ctx=8192)) as llm:
        served = (await llm.chat("hi", seed=7)).served_by
    assert (served.model, served.quantization, served.window, served.seed) == ("llama3.2", "Q6_K", 8192, 7)
    assert len(served.digest or "") == 64


async def test_keep_alive_is_said_with_a_load_and_never_with_a_question() -> None:
    host = Box()
    async with client(ollama(host, keep_alive="1h")) as llm:
        for _ in range(5):
            await llm.chat("hi")
            await anyio.sleep(600)  # nobody else's five minutes put it out
    assert [body.get("keep_alive") for body in host.bodies] == ["1h", None, None, None, None, None]
    assert len(host.loads) == 1


async def test_a_model_that_another_program_has_loaded_is_told_how_long_to_stay_too() -> None:
    host = Box()
    host.also(0, "/api/generate", {"model": "llama3.2", "prompt": "hi", "keep_alive": 60, "shift": False})
    await anyio.sleep(20)
    async with client(ollama(host, keep_alive=-1)) as llm:
        await llm.warm_up()
        await anyio.sleep(3600)
        await llm.chat("hi")
        assert llm.snapshot()[NAME]["model"]["loads"] == 0
    assert len(host.loads) == 1


async def test_after_a_loss_it_is_told_once_more_how_long_to_stay() -> None:
    host = Box(Pulled(size=10**10), settings=Settings(num_parallel=8), machine=Machine(vram=48 * GIB))
    async with client(Route(ollama(host, num_ctx=4096, keep_alive="1h"), bulkhead=Bulkhead(8))) as llm:
        await llm.chat("hi")
        host.evict()
        async with anyio.create_task_group() as group:
            for _ in range(8):  # whose answers tell of one load
                group.start_soon(llm.chat, "hi")
        await llm.chat("hi")
    assert [body.get("keep_alive") for body in host.bodies].count("1h") == 2


async def test_after_a_loss_that_was_over_within_a_second_it_is_told_too() -> None:
    host = Box(machine=Machine(disk=1e10, cached=1e10))
    async with client(ollama(host, keep_alive="1h")) as llm:
        await llm.chat("hi")
        await anyio.sleep(35)
        host.evict()
        await llm.chat("hi")  # beside which it is asked what is there: nothing
        await anyio.sleep(100)
        await llm.chat("hi")
        await anyio.sleep(3000)
        await llm.chat("hi")
    assert [body.get("keep_alive") for body in host.bodies].count("1h") == 2
    assert len(host.loads) == 2


async def test_to_be_told_that_it_does_not_wait_for_the_load_of_another_model() -> None:
    host = Box(Pulled("small", size=10**8), Pulled("large", size=2 * 10**9), machine=Machine(disk=3e7, cached=3e7))
    host.also(0, "/api/generate", {"model": "small", "prompt": "hi", "shift": False})
    await anyio.sleep(20)
    large, small = client(ollama(host, "large")), client(ollama(host, "small", keep_alive="1h"))
    async with large, small, anyio.create_task_group() as group:
        group.start_soon(large.warm_up)
        await anyio.sleep(1)
        assert (await small.chat("hi")).timings.total < 1
        assert large.snapshot()["ollama:large"]["model"]["loads"] == 0  # it takes a minute
    assert [body.get("keep_alive") for body in host.bodies if body["model"] == "small"] == [None, "1h", None]


async def test_those_that_wait_for_one_load_are_one_loss(caplog: pytest.LogCaptureFixture) -> None:
    host = Box(Pulled(size=10**10), settings=Settings(num_parallel=8), machine=Machine(vram=48 * GIB))
    async with client(Route(ollama(host, num_ctx=4096), bulkhead=Bulkhead(8))) as llm:
        await llm.chat("hi")
        host.evict()
        replies = list[ChatReply]()

        async def ask() -> None:
            replies.append(await llm.chat("hi"))

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(ask)
    assert [one.degraded for one in replies] == [("reloaded",)] * 8
    assert len(host.loads) == 2
    assert not [one for one in caplog.records if "over and over" in one.getMessage()]


def tenant(host: OllamaModel, every: float, **body: object) -> None:
    """Another program asks for the same model so often for an hour."""
    for number in range(int(3600 / every)):
        host.also(number * every, "/api/generate", {"model": "llama3.2", "prompt": "hi", **body})


@pytest.mark.parametrize("every", [20.0, 120.0], ids=["several times a minute", "after a silence"])
@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ({"num_ctx": 8192}, {"options": {"num_ctx": 2048}}, "num_ctx: 2048 instead of 8192"),
        ({"num_ctx": 8192}, {}, "num_ctx: 32768 instead of 8192"),
        ({}, {"options": {"num_ctx": 2048}}, "num_ctx: 2048 instead of 32768"),
        ({"num_ctx": 8192}, {"model": "other"}, "not in memory, where other:latest is"),
        ({}, {"options": {"num_batch": 64}}, None),
    ],
)
async def test_who_fights_for_the_memory_is_named(
    ours: dict[str, int], theirs: dict[str, object], why: str | None, every: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "resilient_llm")
    models = Pulled(size=14 * GIB), Pulled("other", size=14 * GIB)
    host, events = Box(*models, machine=Machine(vram=24 * GIB)), list[object]()
    tenant(host, every, **theirs)
    async with client(ollama(host, **ours), on_event=events.append) as llm:
        await anyio.sleep(every / 2)
        for _ in range(6):
            reply = await llm.chat("hi")
            assert "reloaded" in reply.degraded or anyio.current_time() < 2 * every
            await anyio.sleep(every - anyio.current_time() % every + every / 2)
        assert llm.snapshot()[NAME]["model"]["found_instead"] == why
    told = [one.getMessage() for one in caplog.records if "over and over" in one.getMessage()]
    assert len(told) == 1
    assert (why or "another `shift` or `num_batch`") in told[0]
    degraded = [one for one in events if isinstance(one, AnswerDegraded)]
    assert {one.degraded for one in degraded} == {("reloaded",)}
    assert len(degraded) >= 5  # the first call found no model, or one that it could not use
    assert degraded[-1].cause == why


@pytest.mark.parametrize(
    ("given", "limit"),
    [({}, 170), ({"adapt": True}, 61), ({"adapt": True, "timeouts": Timeouts(load=100)}, 100)],
    ids=["by default", "learned", "as the user says"],
)
async def test_what_loads_have_taken_limits_the_next_where_the_route_says_so(
    given: dict[str, object], limit: float
) -> None:
    host = slow_disk(20)
    route = Route(ollama(host), **given)  # type: ignore[arg-type]
    async with client(route, FakeBackend(say("far"), name="far")) as llm:
        await llm.warm_up()  # 20.03 s
        host.evict()
        await anyio.sleep(100)
        host.inject(Fault("load stalls"))
        began = anyio.current_time()
        assert (await llm.chat("hi", timeout=400)).text == "far"
        assert anyio.current_time() - began == pytest.approx(limit, abs=0.1)
        shown = f"load {limit} s (61 s by its last loads"
        assert (shown in llm.explain(), "not used without adapt=True" in llm.explain()) == (True, not given)
