"""A prompt that a server cut without a word: how many of them the library finds, and how often it cries wolf.

The guard is blind here, or it would refuse nearly all of what is cut. The server of 0.9.3 ignores `truncate: false`;
the newer ones are told by the call that they may cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import anyio
import httpx2
import pytest
import trio
from trio.testing import MockClock

from resilient_llm import AsyncClient, ContextGuard, Ollama
from resilient_llm.errors import ContextOverflow
from resilient_llm.testing import OllamaModel, Pulled

from .mixed import AROUND, Prompts, tokenizer

WINDOW = 2048
MAY_CUT = {"truncate": True}


@pytest.fixture(autouse=True)
def the_guard_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContextGuard, "fits_surely", lambda *_: True)


@dataclass(frozen=True)
class Server:
    """One server with one model, whose vocabulary is known by its name or is another one than that.

    Attributes:
        version: of Ollama.
        model: its name.
        family: whose real tokenizer counts.
        template: how it is rendered, which decides how it is cut.
        extra: of each call.
        shift: of the backend.
    """

    version: str
    model: str
    family: str
    template: str = "rendered"
    extra: Mapping[str, Any] = field(default_factory=dict)
    shift: bool | None = False


OLD = Server("0.9.3", "llama3.2", "llama3")  # a whole window is left; truncate: false does nothing
OLD_UNKNOWN = Server("0.9.3", "my-own", "cl100k")  # taken for o200k, which makes 2/3 as many tokens of Russian
HALVES = Server("0.32.15", "qwen3", "qwen", extra=MAY_CUT, shift=None)  # half a window is left
TURNS = Server("0.32.15", "gemma3", "gemma", template="native", extra=MAY_CUT)  # whole messages go, or it is refused
REFUSES = Server("0.32.15", "gpt-oss", "o200k")  # as the library asks: nothing is cut
SERVERS = (OLD, OLD_UNKNOWN, HALVES, TURNS, REFUSES)


async def score(server: Server, prompts: int, near: float, seed: int) -> Counter[tuple[str, bool, bool]]:
    """How often a prompt of each form was cut, and how often the reply said so."""
    pulled = Pulled(
        server.model, tokenizer=tokenizer(server.family), around=AROUND, says=lambda _: ["ok"],
        template=server.template,  # type: ignore[arg-type]  # one of its three words
    )  # fmt: skip
    host = OllamaModel(pulled, version=server.version, seed=seed)
    http = httpx2.AsyncClient(transport=host.transport())
    backend = Ollama(server.model, num_ctx=WINDOW, shift=server.shift, http_client=http)
    drawn = Prompts(server.family, WINDOW, near, Random(f"{server.model} {seed}"))
    found: Counter[tuple[str, bool, bool]] = Counter()
    async with AsyncClient(backend, clock=anyio.current_time) as llm:
        for _ in range(prompts):
            form, messages = drawn.draw()
            try:
                reply = await llm.chat(messages, extra=server.extra or None)
            except ContextOverflow:
                found["refused", False, False] += 1
                continue
            truth = next(one for one in reversed(host.log) if one.prompt)
            assert truth.outcome == "complete"
            found[form, truth.truncated > 0, "prompt_truncated" in reply.degraded] += 1
    return found


def run(prompts: int, near: float, *servers: Server, seed: int = 1) -> Counter[tuple[str, bool, bool]]:
    found: Counter[tuple[str, bool, bool]] = Counter()

    async def main() -> None:
        for server in servers:
            found.update(await score(server, prompts, near, seed))

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return found


def rates(found: Counter[tuple[str, bool, bool]], *forms: str) -> tuple[int, int, float]:
    """Cuts, those of them that were missed, and the precision of what was called one."""
    right, missed, wrong = (
        sum(many for (form, *which), many in found.items() if form in forms and which == [cut, said])
        for cut, said in ((True, True), (True, False), (False, True))
    )
    return right + missed, missed, right / (right + wrong)


ALL = ("one", "talk", "goes on")


def test_every_prompt_that_was_cut_is_found_and_hardly_any_other() -> None:
    """Two thousand prompts in five scripts, on five servers, from a twentieth of the window to three times as much."""
    found = run(400, 0.0, *SERVERS)
    cuts, missed, precision = rates(found, *ALL)
    assert found.total() == 2000
    assert cuts > 400
    assert missed == 0
    assert precision >= 0.99


def test_just_under_and_just_over_the_window_none_is_missed() -> None:
    """Within 5 % a talk of short turns that is new to us cannot be told from one that was cut, and is called one."""
    found = run(100, 1.0, *SERVERS)
    assert rates(found, *ALL)[1] == 0
    for form in ("one", "goes on"):
        cuts, _, precision = rates(found, form)
        assert cuts > 80
        assert precision >= 0.99


def test_a_server_that_refuses_what_is_too_long_is_never_said_to_have_cut_it() -> None:
    found = run(200, 1.0, REFUSES)
    assert {form for form, cut, said in found if cut or said} == set()
    assert found["refused", False, False] > 50


def test_a_server_that_does_not_count_what_is_cached_raises_no_false_alarm() -> None:
    """0.30.0 alone (ollama/ollama#16414): only the count of a whole window tells there of a cut."""
    found = run(300, 0.0, Server("0.30.0", "llama3.2", "llama3", extra=MAY_CUT, shift=None))
    assert rates(found, *ALL)[2] == 1
    assert found["one", True, True] > 10
