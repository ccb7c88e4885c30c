"""`Client` is `AsyncClient` without `await`: the same names, arguments, defaults and replies, found by inspection."""

from __future__ import annotations

import inspect
import random
import threading
import time
from typing import Any

import pytest

from resilient_llm import AsyncClient, ChatStream, Client, LLMError, ModelInfo, Retry, Route, Stream
from resilient_llm.errors import ServerError
from resilient_llm.testing import FakeBackend, cut, fail, say

WITHOUT_AWAIT = {
    "aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__",
    "__anext__": "__next__",
}  # fmt: skip
SPECIAL = {"__aenter__", "__aexit__", "__aiter__", "__anext__", "__enter__", "__exit__", "__iter__", "__next__"}
PAIRS = [(AsyncClient, Client), (ChatStream, Stream)]


def surface(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_") or name in SPECIAL}


@pytest.mark.parametrize(("asynchronous", "sync"), PAIRS)
def test_the_names_are_the_same(asynchronous: type, sync: type) -> None:
    expected = {WITHOUT_AWAIT.get(name, name) for name in surface(asynchronous)}
    assert set(surface(sync)) - {"after_fork"} == expected


@pytest.mark.parametrize(("asynchronous", "sync"), PAIRS)
def test_the_signatures_are_the_same(asynchronous: type, sync: type) -> None:
    for name, value in surface(asynchronous).items():
        other = vars(sync)[WITHOUT_AWAIT.get(name, name)]
        if isinstance(value, property):
            value, other = value.fget, other.fget
        expected, got = inspect.signature(value), inspect.signature(other)
        assert list(got.parameters.values()) == list(expected.parameters.values()), name
        returns = str(expected.return_annotation).replace("ChatStream", "Stream").replace("Texts", "Iterator[str]")
        assert str(got.return_annotation) == returns, name


def test_the_constructors_are_the_same() -> None:
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


@pytest.mark.parametrize(("asynchronous", "sync"), PAIRS)
def test_everything_public_says_what_it_is(asynchronous: type, sync: type) -> None:
    for name, value in surface(sync).items():
        if not name.startswith("_"):
            assert inspect.getdoc(value), name


def test_arguments_of_the_constructor_reach_the_engine() -> None:
    hosted, home = FakeBackend(name="hosted"), FakeBackend(name="home", local=True)
    times: list[float] = []

    def clock() -> float:
        times.append(time.monotonic())
        return times[-1]

    with Client(
        hosted, home, plan=lambda request, routes: list(routes)[::-1], timeout=5, local_only=True, clock=clock,
        rng=random.Random(1),
    ) as llm:  # fmt: skip
        assert llm.chat("hi").route == "home"
        assert times
        assert set(llm.snapshot()) == {"hosted", "home"}
        assert llm.models() == {"hosted": (), "home": (ModelInfo("home"),)}  # the first may not be asked
        assert llm.warm_up() is None
        assert repr(llm) == "Client(hosted, home)"


def test_what_is_in_force_is_told_without_a_loop() -> None:
    routes = [Route(FakeBackend(name="one"), retry=Retry(attempts=7)), FakeBackend(name="two")]
    llm = Client(*routes)
    assert llm.explain() == AsyncClient(*routes).explain()
    assert llm.snapshot() == AsyncClient(*routes).snapshot()
    assert not [thread for thread in threading.enumerate() if thread.name == "resilient_llm"]


def test_replies_are_those_of_the_async_client() -> None:
    with Client(FakeBackend(say("17"), name="fake")) as llm:
        assert llm.chat("hi").text == "17"
        assert llm.parse("hi", int).output == 17
        assert len(llm.embed(["a", "b"]).vectors) == 2


SECRET = "attack at dawn"


@pytest.mark.parametrize("step", [fail(ServerError("no")), cut("x")], ids=["before", "in mid-answer"])
@pytest.mark.parametrize("what", ["chat", "parse", "embed", "stream"])
def test_a_traceback_shows_no_prompt_in_the_locals_of_our_frames(what: str, step: Any) -> None:
    """Tools that print tracebacks with their locals are common, and so are the logs where those end up."""
    route = Route(FakeBackend(step), retry=Retry(attempts=1))
    with Client(route) as llm, pytest.raises(LLMError) as caught:
        if what == "chat":
            llm.chat(SECRET, system=SECRET)
        elif what == "parse":
            llm.parse(SECRET, int, system=SECRET)
        elif what == "embed":
            llm.embed([SECRET])
        else:
            with llm.stream(SECRET, system=SECRET) as stream:
                list(stream)
    trace, seen = caught.value.__traceback__, 0
    while trace is not None:
        if "resilient_llm" in trace.tb_frame.f_code.co_filename and "testing" not in trace.tb_frame.f_code.co_filename:
            seen += 1
            assert SECRET not in repr(trace.tb_frame.f_locals), trace.tb_frame
        trace = trace.tb_next
    assert seen
