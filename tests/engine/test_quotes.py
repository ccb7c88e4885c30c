"""What a server quotes of the prompt in its error is not shown, whatever else it says is."""

from __future__ import annotations

import random
import string
from contextlib import AbstractAsyncContextManager
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import Message, OpenAICompatible, Retry, Route, ToolCall
from resilient_llm._quotes import OURS, unquote, without
from resilient_llm._types import ChatRequest, EmbedRequest, Request
from resilient_llm._watch import Watch
from resilient_llm.backends.base import Batches
from resilient_llm.errors import LLMError, ServerError
from resilient_llm.testing import FakeBackend, FakeOpenAI, error_line, fail, status

from .kit import REAL, Ask, client, error_of

pytestmark = pytest.mark.anyio
SECRET = "the patient is Ms Miller, born in 1971"


def asked(*texts: str) -> ChatRequest:
    return ChatRequest(tuple(Message("user", text) for text in texts))


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (f"HTTP 400: cannot parse {SECRET!r}", "HTTP 400: cannot parse '[prompt]'"),
        (f"HTTP 400: {SECRET}", "HTTP 400: [prompt]"),
        (f"{SECRET}: {SECRET}", "[prompt]: [prompt]"),
        ("HTTP 400: bad input: the patient is Ms Miller, bo…", "HTTP 400: bad input: [prompt]…"),
        ("HTTP 400: no such model: the patient one", "HTTP 400: no such model: the patient one"),
        ("HTTP 503: busy", "HTTP 503: busy"),
        ("", ""),
    ],
)
def test_what_is_quoted_is_taken_out_and_the_rest_stays(words: str, left: str) -> None:
    assert without(words, asked("hi", SECRET)) == left


def test_everything_that_somebody_wrote_is_looked_for() -> None:
    inner = [{"note": "she was here in May"}, 3, None]
    call = ToolCall("look_up", {"name": "Ms Miller of Leeds", "age": 55, "visits": inner})
    request = ChatRequest((Message("assistant", "", reasoning="she may be ill", tool_calls=(call,)),))
    assert without("a Ms Miller of Leeds b she may be ill c", request) == "a [prompt] b [prompt] c"
    assert without("visits.0.note: 'she was here in May' is no date", request) == "visits.0.note: '[prompt]' is no date"
    assert without("a Ms Miller of Leeds b", EmbedRequest(("Ms Miller of Leeds",))) == "a [prompt] b"


@given(st.integers(0, 10**6), st.integers(23, 120), st.integers(0, 200) | st.integers(600, 700))
def test_any_run_of_23_characters_is_found(seed: int, size: int, before: int) -> None:
    letters = random.Random(seed)
    prompt = "".join(letters.choices(string.ascii_letters, k=400))
    start = letters.randrange(len(prompt) - size)
    words = "1" * before + prompt[start : start + size] + "2" * 40
    assert without(words, asked(prompt)) == "1" * before + "[prompt]" + "2" * 40


def test_long_words_about_a_long_prompt_do_not_hold_up_the_loop() -> None:
    letters = random.Random(1)
    prompt, words = ("".join(letters.choices("abcdefgh ", k=size)) for size in (1_000_000, 64_000))
    began = process_time()
    assert without(f"{words}{prompt[5000:6000]}", asked(prompt)) == f"{words}[prompt]"
    assert process_time() - began < 2  # 0.1 s; to look for each piece of the words in the prompt takes ten


class Unread:
    """A request that nobody may look at: its prompt may be as long as it likes."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} was read")


@pytest.mark.invariant(21, 43)
@pytest.mark.parametrize("kind", OURS)
def test_in_our_own_words_no_prompt_is_looked_for(kind: type[LLMError]) -> None:
    unquote(kind("no"), Unread())  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="was read"):
        unquote(ServerError("no"), Unread())  # type: ignore[arg-type]


def test_the_words_of_a_server_are_looked_for_in_a_long_prompt_without_holding_up_the_loop() -> None:
    prompt, words = "The old ferry left an hour late. " * 90_000, "no tokens for a request of this kind " * 8
    began = process_time()
    assert without(words, asked(prompt)) == words
    assert process_time() - began < 1  # 0.05 s


class OfItself(FakeBackend):
    """A backend of the user's with an error in a circle."""

    def open(self, request: Request, watch: Watch, *, stream: bool = True) -> AbstractAsyncContextManager[Batches]:
        error = ServerError(f"cannot parse {SECRET}")
        raise error from error


async def test_an_error_that_is_its_own_cause_is_an_error(ask: Ask) -> None:
    async with client(Route(OfItself(), retry=Retry(attempts=1))) as llm:
        assert "[prompt]" in (await error_of(ask(llm, SECRET), ServerError)).message


@REAL
@pytest.mark.parametrize(
    "fault",
    [
        status(400, body={"error": {"message": f"cannot parse {SECRET!r}"}}),
        status(500, body={"detail": f"{SECRET} is not what we like"}),
        error_line(f"no tokens for {SECRET}"),
        error_line(f"no tokens for {SECRET}", after=["a"]),
    ],
)
async def test_no_error_on_the_way_quotes_the_prompt(ask: Ask, fault: object) -> None:
    with FakeOpenAI(fault) as server:  # type: ignore[arg-type]
        route = Route(OpenAICompatible("m", base_url=server.url, api_key="k"), retry=Retry(attempts=1))
        async with client(route) as llm:
            error: BaseException | None = await error_of(ask(llm, SECRET), LLMError)
    assert "[prompt]" in str(error)
    while error is not None:
        assert "Miller" not in str(error) + repr(error)
        error = error.__cause__


async def test_that_of_a_route_before_is_not_shown_either(ask: Ask) -> None:
    routes = [Route(FakeBackend(fail(ServerError(SECRET)), name=name), retry=Retry(attempts=1)) for name in "ab"]
    error = await error_of(ask(client(*routes), SECRET))
    assert "Miller" not in str(error)
