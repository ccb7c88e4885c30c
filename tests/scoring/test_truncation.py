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

from resilient_llm import AsyncClient, ContextGuard, Ollama, Route
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
        hungry: how many times the tokens of that tokenizer it makes.
    """

    version: str
    model: str
    family: str
    template: str = "rendered"
    extra: Mapping[str, Any] = field(default_factory=dict)
    shift: bool | None = False
    hungry: int = 1


OLD = Server("0.9.3", "llama3.2", "llama3")  # a whole window is left; truncate: false does nothing
OLD_UNKNOWN = Server("0.9.3", "my-own", "cl100k")  # taken for o200k, which makes 2/3 as many tokens of Russian
HALVES = Server("0.32.15", "qwen3", "qwen", extra=MAY_CUT, shift=None)  # half a window is left
TURNS = Server("0.32.15", "gemma3", "gemma", template="native", extra=MAY_CUT)  # whole messages go, or it is refused
REFUSES = Server("0.32.15", "gpt-oss", "o200k")  # as the library asks: nothing is cut
MISNAMED = Server("0.9.3", "llama3.2", "cl100k")  # its name tells another vocabulary than it has
HUNGRY = Server("0.9.3", "my-own", "cl100k", hungry=2)  # as no model in use is
SERVERS = (OLD, OLD_UNKNOWN, HALVES, TURNS, REFUSES)


async def score(
    server: Server, prompts: int, near: float, seed: int, **route: Any
) -> Counter[tuple[str, bool, bool]]:  # fmt: skip
    """How often a prompt of each form was cut, and how often the reply said so, or was an error if the route says so.

    What was `only told` is no error there, though the reply says it.
    """
    count = tokenizer(server.family)
    pulled = Pulled(
        server.model, tokenizer=lambda text: server.hungry * count(text), around=AROUND, says=lambda _: ["ok"],
        template=server.template,  # type: ignore[arg-type]  # one of its three words
    )  # fmt: skip
    host = OllamaModel(pulled, version=server.version, seed=seed)
    http = httpx2.AsyncClient(transport=host.transport())
    backend = Ollama(server.model, num_ctx=WINDOW, shift=server.shift, http_client=http)
    drawn = Prompts(server.family, WINDOW, near, Random(f"{server.model} {seed}"))
    found: Counter[tuple[str, bool, bool]] = Counter()
    async with AsyncClient(Route(backend, **route), clock=anyio.current_time) as llm:
        for _ in range(prompts):
            form, messages = drawn.draw()
            failed, told = False, False
            try:
                reply = await llm.chat(messages, extra=server.extra or None)
                told = "prompt_truncated" in reply.degraded
            except ContextOverflow as error:
                if error.status is not None:
                    found["refused", False, False] += 1
                    continue
                failed = True
            truth = next(one for one in reversed(host.log) if one.prompt)
            assert truth.outcome == "complete"
            cut, strict = truth.truncated > 0, route.get("on_truncation") == "fail"
            found[form, cut, failed if strict else told] += 1
            if strict and told:
                found["only told", cut, True] += 1
    return found


def run(
    prompts: int, near: float, *servers: Server, seed: int = 1, **route: Any
) -> Counter[tuple[str, bool, bool]]:  # fmt: skip
    found: Counter[tuple[str, bool, bool]] = Counter()

    async def main() -> None:
        for server in servers:
            found.update(await score(server, prompts, near, seed, **route))

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


def test_where_a_cut_is_an_error_each_is_one_by_its_own_answer_and_few_good_answers_are_lost_to_it() -> None:
    """Nothing learned decides there, and what the beginning of a conversation was counted as is learned, too."""
    found = run(400, 0.0, *SERVERS, on_truncation="fail")
    cuts, missed, precision = rates(found, *ALL)
    assert found.total() == 2000
    assert cuts > 400
    assert missed == 0
    assert precision >= 0.95


@pytest.mark.parametrize(("server", "share"), [(MISNAMED, 0.1), (HUNGRY, 0.2)])
def test_a_vocabulary_that_its_name_does_not_tell_is_learned_so_that_what_is_no_error_is_still_told(
    server: Server, share: float
) -> None:
    found = run(400, 0.0, server, on_truncation="fail")
    cuts, missed, precision = rates(found, *ALL)
    assert 0 < missed < share * cuts
    assert precision >= 0.98
    assert missed - found["only told", True, True] <= 1
    _, missed, precision = rates(run(400, 0.0, server, on_truncation="fail", adapt=True), *ALL)
    assert missed <= 1
    assert precision >= 0.99
