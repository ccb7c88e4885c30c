"""What an Ollama has in memory: found out beside the calls, shown on replies, and never taken for a hang."""

from __future__ import annotations

import anyio
import pytest

from resilient_llm import (
    ContextOverflow,
    Image,
    Message,
    OptionWarning,
    ReloadWarning,
    Retry,
    Route,
)
from resilient_llm.errors import ModelNotFound, UnsupportedParameter
from resilient_llm.testing import FakeBackend, Fault, Machine, Pulled, say
from resilient_llm.testing._host.facts import GIB

from .box import Box, ollama
from .kit import Ask, client, error_of

pytestmark = pytest.mark.anyio
NAME = "ollama:llama3.2"
WORDS = [f"{at} " for at in range(5000)]
ONCE = Retry(attempts=1)


async def test_the_wait_for_a_slot_at_the_server_is_told(ask: Ask) -> None:
    host = Box(Pulled(says=lambda _: WORDS[:200], decode=20))
    async with client(ollama(host)) as llm:
        await llm.warm_up()
        host.send(
            "POST", "/api/chat", {"model": "llama3.2", "shift": False, "messages": [{"role": "user", "content": "a"}]}
        )
        await anyio.sleep(0.1)
        reply = await ask(llm)
    assert host.log[-1].slot > 9
    assert reply.timings.server_queue == pytest.approx(host.log[-1].slot + host.log[-1].overhead, abs=0.01)
    assert (reply.timings.first_token or 0) > (reply.timings.server_queue or 99)  # it is a part of it


async def test_an_answer_that_outgrew_the_window_is_told(ask: Ask) -> None:
    host = Box(Pulled(says=lambda _: WORDS))
    backend = ollama(host, num_ctx=512, shift=True)
    async with client(backend) as llm:
        assert "context_shifted" in (await ask(llm, "word " * 200)).degraded
        assert host.log[-1].shifts == 1
    async with client(Route(backend, on_truncation="fail")) as llm:
        error = await error_of(ask(llm, "word " * 200), ContextOverflow)
        assert "dropped the middle of the context" in str(error)


async def test_an_answer_that_ends_where_the_window_ends_is_only_cut_at_its_length(ask: Ask) -> None:
    host = Box(Pulled(says=lambda _: WORDS))
    async with client(ollama(host, num_ctx=512)) as llm:
        assert (await ask(llm, "word " * 200)).degraded == ("cut_at_length",)
    assert host.log[-1].shifts == 0


@pytest.mark.parametrize(
    ("vram", "options", "degraded"),
    [
        (24, {}, ()),
        (6, {}, ("cpu_spill",)),
        (6, {"num_gpu": 20}, ()),  # as the caller wanted it
        (0, {}, ()),  # a box without a GPU is no worse than it always is
    ],
)
async def test_a_model_that_is_partly_on_the_cpu_is_told(
    vram: int, options: dict[str, int], degraded: tuple[str, ...], ask: Ask
) -> None:
    host = Box(Pulled(size=8 * GIB), machine=Machine(vram=vram * GIB))
    async with client(ollama(host, num_ctx=4096, options=options)) as llm:
        reply = await ask(llm)
        assert reply.degraded == degraded
        state = llm.snapshot()[NAME]["model"]
    assert state["cpu_share"] == pytest.approx(host.log[-1].cpu, abs=1e-6)
    assert (state["cpu_share"] > 0.1) is (vram != 24)
    assert (state["in_memory"], state["loads"], state["load_budget"]) == (True, 1, 30)


async def test_a_model_that_falls_back_on_the_cpu_as_a_whole_is_told(ask: Ask) -> None:
    host = Box(machine=Machine(vram=8 * GIB))
    async with client(ollama(host, num_ctx=4096)) as llm:
        assert (await ask(llm)).degraded == ()
        host.inject(Fault("falls back to CPU"))
        host.evict()
        await anyio.sleep(61)
        assert "cpu_spill" in (await ask(llm)).degraded


async def test_in_use_its_state_is_asked_for_twice_a_minute_and_nobody_waits_for_it() -> None:
    host = Box()
    async with client(ollama(host)) as llm:
        await llm.chat("hi")
        began, before = anyio.current_time(), len(host.paths)
        while anyio.current_time() < began + 600:
            at = len(host.paths)
            await llm.chat("hi")
            assert host.paths[at] == "/api/chat"
            await anyio.sleep(5)
        asked = host.paths[before:].count("/api/ps")
        assert 15 <= asked <= 20
        assert len(host.loads) == 1


async def test_an_option_of_a_call_that_means_a_reload_is_warned_of() -> None:
    async with client(ollama(Box(), num_ctx=4096)) as llm:
        with pytest.warns(ReloadWarning, match="num_ctx: 8192 instead of 4096") as caught:
            await llm.chat("hi", extra={"options": {"num_ctx": 8192}})
        assert {one.filename for one in caught} == {__file__}
        with pytest.warns(ReloadWarning, match="shift: True instead of False"):
            await llm.chat("hi", extra={"shift": True})
        with pytest.warns(ReloadWarning, match="keep_alive"):
            await llm.chat("hi", extra={"keep_alive": 5})
        with pytest.warns(OptionWarning, match="did you mean 'top_k'"):
            await llm.chat("hi", extra={"options": {"topk": 3}})
        await llm.chat("hi", extra={"options": {"num_ctx": 4096, "top_k": 3}, "shift": False})


@pytest.mark.parametrize("version", ["0.32.15", "0.9.3"])
async def test_a_window_beyond_what_was_trained_is_warned_of_and_the_real_one_is_used(version: str) -> None:
    host = Box(Pulled(trained=2048), version=version)
    async with client(ollama(host, num_ctx=999_999)) as llm:
        with pytest.warns(OptionWarning, match="not trained for 999999 tokens; its window is the 2048"):
            reply = await llm.chat("hi")
        assert reply.served_by.window == 2048
        await llm.chat("hi")
        error = await error_of(llm.chat("word " * 4000), ContextOverflow)
        assert error.limit == 2048 - 256
    assert len(host.loads) == 1


async def test_a_model_that_is_not_pulled_is_named_with_how_to_pull_it_and_what_is_there(ask: Ask) -> None:
    async with client(Route(ollama(Box("qwen3:8b", "llama3.1")), retry=ONCE)) as llm:
        error = await error_of(ask(llm), ModelNotFound)
        assert "ollama pull llama3.2" in str(error)
        assert "it has llama3.1:latest, qwen3:8b" in str(error)
        error = await error_of(llm.warm_up(), ModelNotFound)
        assert "qwen3:8b" in str(error)


async def test_an_image_for_a_model_that_sees_none_is_refused_and_goes_where_it_is_seen(ask: Ask) -> None:
    picture = Message("user", "what is it?", images=[Image(data="aGVsbG8=")])
    host = Box()
    async with client(ollama(host)) as llm:
        error = await error_of(ask(llm, [picture]), UnsupportedParameter)
        assert (error.parameter, host.chats) == ("images", [])
    async with client(ollama(host), FakeBackend(say("a dog"))) as llm:
        assert (await ask(llm, [picture])).text == "a dog"
