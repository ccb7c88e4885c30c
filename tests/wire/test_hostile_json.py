"""JSON that two programs would read differently, or that breaks one: never passed on, on either wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from resilient_llm import _errors as e
from resilient_llm._replies import Done
from resilient_llm._types import ChatRequest, Message, ToolCall
from resilient_llm.wire import WireEvent
from resilient_llm.wire.ollama import OllamaCodec
from resilient_llm.wire.openai import OpenAICodec

REQUEST = ChatRequest((Message("user", "hi"),))
ESCAPES = "\x1b[31m\r\n\u202e"


def openai(arguments: str, name: str = "f", id: str = "call_a") -> list[WireEvent]:
    """What comes of a call whose arguments are this text, as OpenAI's servers send it."""
    call = {"index": 0, "id": id, "function": {"name": name, "arguments": arguments}}
    chunk = {"model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    decoder = OpenAICodec("m").decoder(REQUEST, stream=True)
    return [*decoder.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n"), *decoder.close()]


def openai_object(arguments: str, name: str = "f", id: str = "call_a") -> list[WireEvent]:
    """The same where the arguments are an object and not a text."""
    head = {"index": 0, "id": id, "function": {"name": name, "arguments": 5}}
    chunk = {"model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [head]}, "finish_reason": "tool_calls"}]}
    body = json.dumps(chunk).replace('"arguments": 5', f'"arguments": {arguments}')
    decoder = OpenAICodec("m").decoder(REQUEST, stream=True)
    return [*decoder.feed(b"data: " + body.encode() + b"\n\n"), *decoder.close()]


def openai_whole(arguments: str) -> list[WireEvent]:
    """The same in an answer in one piece."""
    head = {"index": 0, "id": "call_a", "function": {"name": "f", "arguments": 5}}
    answer = {"model": "m", "choices": [{"message": {"tool_calls": [head]}, "finish_reason": "tool_calls"}]}
    decoder = OpenAICodec("m").decoder(REQUEST, stream=False)
    body = json.dumps(answer).replace('"arguments": 5', f'"arguments": {arguments}')
    return [*decoder.feed(body.encode()), *decoder.close()]


def ollama(arguments: str, name: str = "f", id: str = "call_a") -> list[WireEvent]:
    """The same on Ollama's own API."""
    call = json.dumps({"id": id, "function": {"name": name, "arguments": 5}}).replace(": 5", f": {arguments}")
    line = f'{{"model":"m","message":{{"role":"assistant","content":"","tool_calls":[{call}]}},"done":true}}\n'
    return OllamaCodec("m").decoder(REQUEST, stream=True).feed(line.encode())


Way = Callable[..., list[WireEvent]]
WAYS: list[Way] = [openai, openai_object, ollama]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ['{{"a": {}}}', '{{"a": [1, {{"b": {}}}]}}'])
def test_a_number_that_no_json_can_say_is_no_argument(way: Way, number: str, place: str) -> None:
    with pytest.raises((e.OutputInvalid, e.Malformed)):
        way(place.format(number))


@pytest.mark.parametrize("way", [*WAYS, openai_whole])
@pytest.mark.parametrize(
    "arguments", ['{"path": "a", "path": "b"}', '{"a": [{"x": 1, "x": 1}]}', '{"a": 1, "\\u0061": 2}']
)
def test_a_key_that_stands_twice_is_no_argument(way: Way, arguments: str) -> None:
    with pytest.raises(e.OutputInvalid):
        way(arguments)


@pytest.mark.parametrize("way", [*WAYS, openai_whole])
def test_the_same_key_in_two_objects_is_one_meaning(way: Way) -> None:
    call, _ = way('{"a": {"x": 1}, "b": {"x": 1}}')
    assert call == ToolCall("f", {"a": {"x": 1}, "b": {"x": 1}}, "call_a")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "deep", ['{"a":' * 100_000 + "1" + "}" * 100_000, '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"]
)
def test_a_depth_that_breaks_parsers_is_a_typed_error(way: Way, deep: str) -> None:
    with pytest.raises((e.OutputInvalid, e.Malformed)):
        way(deep)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["", "get\x00weather", "get\nweather", ESCAPES, "x" * 10_000])
def test_a_name_that_could_forge_a_line_of_a_log_is_no_name(way: Way, name: str) -> None:
    with pytest.raises(e.OutputInvalid):
        way("{}", name=name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("id", ["", "a\nb", ESCAPES, "x" * 10_000])
def test_an_id_that_is_none_is_made_here(way: Way, id: str) -> None:
    call, end = way("{}", id=id)
    assert (call, type(end)) == (ToolCall("f", {}, "call_0"), Done)


@pytest.mark.parametrize("word", [ESCAPES, "x" * 10_000])
def test_what_a_server_calls_things_is_fit_to_be_shown_or_left_out(word: str) -> None:
    said: dict[str, Any] = {"index": 0, "delta": {"content": "a"}, "finish_reason": word}
    chunk = {"model": word, "system_fingerprint": word, "choices": [said]}
    decoder = OpenAICodec("m").decoder(REQUEST, stream=True)
    line = {"model": word, "message": {"role": "assistant", "content": "a"}, "done": True, "done_reason": word}
    ends = [
        [*decoder.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n"), *decoder.close()][-1],
        OllamaCodec("m").decoder(REQUEST, stream=True).feed(json.dumps(line).encode() + b"\n")[-1],
    ]
    for end in ends:
        assert isinstance(end, Done)
        assert (end.model, end.fingerprint, end.finish_reason) == (None, None, "other")
        assert end.raw_finish_reason is not None
        assert end.raw_finish_reason.isprintable()
        assert len(end.raw_finish_reason) <= 300
