"""The fake servers on the wire: ordinary answers and scripts, byte for byte."""

from __future__ import annotations

import json
import math
import time

import httpx2

from resilient_llm import Usage
from resilient_llm.testing import (
    FakeOllama,
    FakeOpenAI,
    say,
)

from .peer import QUIET, WEATHER, Kind, answer, asks, chat, peer, texts


def test_ollama_streams_a_line_and_a_chunk_for_each_token() -> None:
    with FakeOllama(say("hel", "lo <b> ü", usage=Usage(7, 2))) as server, peer(server) as one:
        one.send("/api/chat", chat())
        first, headers = one.head()
        chunks = one.chunks()
    assert first == "HTTP/1.1 200 OK"
    assert headers["Content-Type"] == "application/x-ndjson"
    assert headers["Transfer-Encoding"] == "chunked"
    assert all(chunk.endswith(b"}\n") and chunk.count(b"\n") == 1 for chunk in chunks)
    assert "lo \\u003cb\\u003e ü".encode() in chunks[1]  # Go escapes what is special in HTML and leaves the rest
    lines = [json.loads(chunk) for chunk in chunks]
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "hel"},
        {"role": "assistant", "content": "lo <b> ü"},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in lines] == [False, False, True]
    last = lines[-1]
    assert (last["model"], last["done_reason"]) == ("llama3.2", "stop")
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 2)
    parts = last["load_duration"] + last.get("prompt_eval_duration", 0) + last["eval_duration"]
    assert parts == last["total_duration"]
    assert set(lines[0]) == {"model", "created_at", "message", "done"}


def test_headers_wait_for_the_first_token(kind: Kind) -> None:
    with kind(say("late", first=QUIET), say("never", first=math.inf)) as server, peer(server) as one:
        started = time.monotonic()
        asks(server, one).head()
        assert time.monotonic() - started >= QUIET
        assert texts(one.chunks()) == ["late"]
        assert asks(server, one).is_quiet()


def test_gap_is_between_tokens(kind: Kind) -> None:
    with kind(say("a", "b", gap=QUIET), say("a", "never", gap=math.inf)) as server, peer(server) as one:
        started = time.monotonic()
        asks(server, one).head()
        assert texts(one.chunks()) == ["a", "b"]
        assert time.monotonic() - started >= QUIET
        asks(server, one).head()
        one.chunk()
        while not one.is_quiet():
            one.chunk()
        assert server.active == 1


def test_omitempty_leaves_zero_figures_out() -> None:
    with FakeOllama(say(usage=Usage(0, 0))) as server, peer(server) as one:
        one.send("/api/chat", chat())
        one.head()
        (last,) = map(json.loads, one.chunks())
    assert not {"prompt_eval_count", "eval_count"} & set(last)


def test_joined_answer_is_one_chunk(kind: Kind) -> None:
    with kind(say("a", "b", joined=True)) as server, peer(server) as one:
        asks(server, one)
        one.head()
        (chunk,) = one.chunks()
    assert chunk.count(b"\n") >= 3


def test_ollama_thinks_then_calls_tools_whole() -> None:
    with FakeOllama(say("ok", reasoning=("hm",), tool_calls=(WEATHER,))) as server, peer(server) as one:
        one.send("/api/chat", chat())
        one.head()
        messages = [json.loads(chunk)["message"] for chunk in one.chunks()]
    assert messages[0] == {"role": "assistant", "content": "", "thinking": "hm"}
    function = {"index": 0, "name": "get_weather", "arguments": {"city": "Paris", "days": 3}}
    assert messages[2]["tool_calls"] == [{"id": "call_7", "function": function}]


def test_openai_streams_role_text_finish_usage_done() -> None:
    with FakeOpenAI(say("hel", "lo")) as server, peer(server) as one:
        asks(server, one, stream_options={"include_usage": True})
        _, headers = one.head()
        *chunks, usage, done = one.chunks()
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["x-request-id"].startswith("req_")
    events = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "hel"},
        {"content": "lo"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
    assert {event["usage"] for event in events} == {None}
    last = json.loads(usage.removeprefix(b"data: "))
    assert last["choices"] == []
    assert {name: last["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
    }
    assert done == b"data: [DONE]\n\n"
    assert all(chunk.endswith(b"\n\n") and chunk.count(b"\n") == 2 for chunk in chunks)


def test_openai_sends_no_usage_unless_asked() -> None:
    with FakeOpenAI(say("a")) as server, peer(server) as one:
        asks(server, one)
        one.head()
        assert b"usage" not in b"".join(one.chunks())


def test_openai_sends_the_arguments_of_a_tool_in_pieces() -> None:
    with FakeOpenAI(say(reasoning=("hm",), tool_calls=(WEATHER,))) as server, peer(server) as one:
        asks(server, one)
        one.head()
        choices = [json.loads(chunk[6:])["choices"][0] for chunk in one.chunks()[:-1]]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[1] == {"reasoning_content": "hm"}
    first, *others = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (first["id"], first["function"]) == ("call_7", {"name": "get_weather", "arguments": ""})
    assert len(others) > 1
    assert json.loads("".join(piece["function"]["arguments"] for piece in others)) == WEATHER.arguments
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_answers_that_are_no_stream() -> None:
    step = say("hel", "lo", reasoning=("hm",), tool_calls=(WEATHER,), usage=Usage(5, 4))
    with FakeOllama(step) as ollama, FakeOpenAI(step) as openai:
        _, native = answer(ollama, "/api/chat", chat(stream=False))
        _, compatible = answer(openai, "/v1/chat/completions", chat())
    message = native["message"]
    assert (message["content"], message["thinking"], native["done"]) == ("hello", "hm", True)
    choice = compatible["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("hello", "tool_calls")
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == message["tool_calls"][0]["function"]["arguments"] == WEATHER.arguments
    assert compatible["usage"]["total_tokens"] == 9


def test_without_a_script_the_prompt_comes_back_within_the_limit(kind: Kind) -> None:
    limits = {"options": {"num_predict": 3}, "max_tokens": 3}
    with kind() as server, peer(server) as one:
        asks(server, one)
        one.head()
        assert texts(one.chunks()) == ["You", " said:", " why"]
        asks(server, one, **{**limits, "messages": [{"role": "user", "content": "a b c d"}]})
        one.head()
        chunks = one.chunks()
    assert texts(chunks) == ["You", " said:", " a"]
    assert b'"length"' in b"".join(chunks)


def test_generate_answers_in_its_own_field() -> None:
    with FakeOllama(say("a", "b")) as server:
        code, body = answer(server, "/api/generate", {"model": "llama3.2", "prompt": "hi", "stream": False})
    assert (code, body["response"], body["done_reason"]) == (200, "ab", "stop")
    assert "context" in body


def test_steps_answer_in_turn_and_the_last_repeats(kind: Kind) -> None:
    with kind(say("1"), say("2")) as server, peer(server) as one:
        heard = []
        for _ in range(3):
            asks(server, one).head()
            heard += texts(one.chunks())
        server.then(say("3"))
        asks(server, one).head()
        heard += texts(one.chunks())
        assert server.connections == 1
    assert heard == ["1", "2", "2", "3"]


def test_metadata_takes_no_step() -> None:
    with FakeOllama(say("1"), say("2")) as server, peer(server) as one:
        httpx2.get(f"{server.url}/api/tags")
        answer(server, "/api/chat", {"model": "llama3.2", "messages": []})
        asks(server, one).head()
        assert texts(one.chunks()) == ["1"]
        assert [record.kind for record in server.requests] == ["other", "load", "chat"]
        assert len(server.chats) == 1


def test_delay_is_before_every_answer(kind: Kind) -> None:
    with kind(say("a"), delay=QUIET) as server, peer(server) as one:
        started = time.monotonic()
        for _ in range(2):
            asks(server, one).head()
            assert texts(one.chunks()) == ["a"]
        assert time.monotonic() - started >= 2 * QUIET
