"""A tool call comes in pieces and is handed over whole: until then each piece is a sign of life, and is looked at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import httpx2
import pytest

from resilient_llm import OpenAICompatible, Route, Tool
from resilient_llm.errors import OutputInvalid, StreamInterrupted, StreamStalled
from resilient_llm.testing import FakeBackend, say

from .kit import Ask, assert_nothing_held, client, error_of

pytestmark = pytest.mark.anyio
TOOLS = [Tool("write", "Writes a file.", {"type": "object"})]
Piece = str | float | None  # text of the arguments; seconds of silence; the end of the connection


class Server(httpx2.AsyncByteStream):
    """Streams one tool call, in these pieces, and counts who asked."""

    def __init__(self, *answers: Sequence[Piece], text: str = "") -> None:
        self.answers, self.text, self.asked = list(answers), text, 0

    def client(self, **route: Any) -> Route:
        web = httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))
        return Route(OpenAICompatible("m", base_url="http://there.example/v1", http_client=web), name="m", **route)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = self.answers[min(self.asked, len(self.answers)) - 1]
        yield _chunk({"role": "assistant", "content": self.text})
        yield _chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "write", "arguments": ""}}]})
        for piece in pieces:
            if piece is None:
                raise httpx2.ReadError("gone")
            if isinstance(piece, float):
                await anyio.sleep(piece)
            else:
                yield _chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        yield _chunk({}, "tool_calls")
        yield b"data: [DONE]\n\n"


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]})}\n\n".encode()


def slowly(words: int, gap: float) -> list[Piece]:
    """A file that takes its time."""
    return ['{"text": "', *(part for number in range(words) for part in (gap, f"word{number} ")), '"}']


@pytest.mark.parametrize("text", ["", "I will write it."])
async def test_a_call_that_is_long_in_coming_is_no_hang(ask: Ask, text: str) -> None:
    server = Server(slowly(300, 0.5), text=text)  # 150 s: more than the first token, or a gap, may take
    reply = await ask(client(server.client()), tools=TOOLS)
    (call,) = reply.tool_calls
    assert call.arguments["text"].endswith("word298 word299 ")
    assert (len(reply.attempts), reply.timings.first_token) == (1, pytest.approx(0, abs=0.1))


async def test_one_that_stops_coming_is(ask: Ask) -> None:
    server = Server([*slowly(5, 0.5)[:-1], 1000.0])
    began = anyio.current_time()
    await error_of(ask(client(server.client(on_break="raise")), tools=TOOLS), StreamStalled)
    assert anyio.current_time() - began >= 30


async def test_a_reader_sees_whole_calls_only() -> None:
    server = Server(slowly(20, 0.5), text="So: ")
    async with client(server.client()).stream("hi", tools=TOOLS) as stream:
        assert [type(event).__name__ async for event in stream] == ["TextDelta", "ToolCall", "Done"]


async def test_one_that_breaks_before_anything_was_handed_over_is_asked_for_again(ask: Ask) -> None:
    server = Server([*slowly(20, 0.5)[:-1], None], slowly(20, 0.5))
    llm = client(server.client())
    reply = await ask(llm, tools=TOOLS)
    assert [type(one.error) for one in reply.attempts] == [StreamInterrupted, type(None)]
    assert len(reply.tool_calls) == 1
    assert_nothing_held(llm)


@pytest.mark.parametrize(("piece", "kind"), [("and so on, ", "loop"), ("\\n  ", "loop"), ("\n  ", "whitespace")])
async def test_one_that_runs_in_circles_is_cut_and_asked_for_again(ask: Ask, piece: str, kind: str) -> None:
    endless: list[Piece] = ['{"text":', *(part for _ in range(5000) for part in (0.02, piece))]
    server = Server(endless, slowly(3, 0.5))
    reply = await ask(client(server.client()), tools=TOOLS, timeout=600)
    error = reply.attempts[0].error
    assert isinstance(error, OutputInvalid)
    assert error.kind == kind
    assert "a tool call was cut" in error.message
    assert reply.attempts[0].total < 0.02 * 5000 / 2
    assert len(reply.tool_calls) == 1


async def test_a_stream_that_has_begun_goes_on_elsewhere_only_where_its_route_says_so() -> None:
    endless = ['{"text":', *["and so on, "] * 3000]
    other = FakeBackend(say("Here it is."), name="other")
    routes = [Server(endless, text="So: ").client(on_break=how, falls_back_on=(OutputInvalid,)) for how in
              ("raise", "restart")]  # fmt: skip
    async with client(routes[0], other).stream("hi", tools=TOOLS) as stream:
        with pytest.raises(OutputInvalid) as caught:
            async for _ in stream:
                pass
    assert caught.value.partial == "So: "
    async with client(routes[1], other).stream("hi", tools=TOOLS) as stream:
        assert [type(event).__name__ async for event in stream] == ["TextDelta", "Restarted", "TextDelta", "Done"]
