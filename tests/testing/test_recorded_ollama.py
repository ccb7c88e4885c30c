"""The fake Ollama beside what a real one said: statuses, headers, keys in their order and error texts.

Recorded from Ollama 0.9.3 with a tiny model. Where a later version says something else, which the fake follows, there
is no row: the 404 of a chat, `think` as a word, and what the lists of models tell in addition.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from resilient_llm.testing import FakeOllama, say

JSON, LINES, PLAIN = "application/json; charset=utf-8", "application/x-ndjson", "text/plain"
HI = [{"role": "user", "content": "hi"}]
FIGURES = "total_duration load_duration prompt_eval_count prompt_eval_duration eval_count eval_duration"
CHAT_END = f"model created_at message done_reason done {FIGURES}"
GENERATE_END = f"model created_at response done done_reason context {FIGURES}"
ANSWERS: list[tuple[str, dict[str, Any], str, str, str]] = [
    # path, body, content type, keys of the first object, keys of the last
    ("/api/chat", {"messages": HI}, LINES, "model created_at message done", CHAT_END),
    ("/api/chat", {"messages": HI, "stream": False}, JSON, CHAT_END, CHAT_END),
    ("/api/generate", {"prompt": "hi"}, LINES, "model created_at response done", GENERATE_END),
    ("/api/generate", {"prompt": "hi", "stream": False}, JSON, GENERATE_END, GENERATE_END),
    *(
        ("/api/chat", {"messages": [], **more}, JSON, *["model created_at message done_reason done"] * 2)
        for more in ({}, {"keep_alive": 0})
    ),
    ("/api/generate", {}, JSON, *["model created_at response done done_reason"] * 2),
    (
        "/api/embed", {"input": ["a", "b"]}, JSON,
        *["model embeddings total_duration load_duration prompt_eval_count"] * 2,
    ),
    ("/api/embed", {"input": []}, JSON, *["model embeddings"] * 2),
    ("/api/embed", {"input": ""}, JSON, *["model embeddings"] * 2),
]  # fmt: skip
ARGUMENTS = "ChatRequest.messages.tool_calls.function.arguments"
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
REFUSALS: list[tuple[str, Any, int, str]] = [
    ("/api/chat", None, 400, "missing request body"),
    ("/api/chat", b'{"model": "m"', 400, "unexpected EOF"),
    ("/api/chat", [1], 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
    ("/api/chat", {"messages": HI}, 400, "model is required"),
    ("/api/embed", {"model": "nope", "input": "a"}, 404, 'model "nope" not found, try pulling it first'),
    ("/api/show", {"model": "nope"}, 404, "model 'nope' not found"),
    ("/api/embed", {"model": "m", "input": 5}, 400, "invalid input type"),
    ("/api/embed", {"model": "m", "input": [5]}, 400, "invalid input type"),
    (
        "/api/chat", {"model": "m", "messages": HI, "options": {"temperature": "hot"}}, 500,
        'option "temperature" must be of type float32',
    ),
    (
        "/api/chat", {"model": "m", "messages": HI, "options": {"stop": "x"}}, 500,
        'option "stop" must be of type array',
    ),
    ("/api/chat", {"model": "m", "messages": HI, "keep_alive": "5"}, 400, 'time: missing unit in duration "5"'),
    ("/api/chat", {"model": "m", "messages": HI, "keep_alive": "abc"}, 400, 'time: invalid duration "abc"'),
    ("/api/chat", {"model": "m", "messages": HI, "keep_alive": True}, 400, "Unsupported type: 'bool'"),
    (
        "/api/chat", {"model": "m", "messages": HI, "format": "xml", "stream": False}, 500,
        r'invalid format: "\"xml\""; expected "json" or a valid JSON Schema object',
    ),
    (
        "/api/chat", {"model": "m", "messages": [*HI, CALLED]}, 400,
        f"json: cannot unmarshal string into Go struct field {ARGUMENTS} of type api.ToolCallFunctionArguments",
    ),
]  # fmt: skip
OTHERS = [
    ("GET", "/", 200, "text/plain; charset=utf-8", "Ollama is running"),
    ("HEAD", "/", 200, "text/plain; charset=utf-8", ""),
    ("HEAD", "/api/tags", 200, JSON, ""),
    ("GET", "/api/chat", 405, PLAIN, "405 method not allowed"),
    ("POST", "/api/nope", 404, PLAIN, "404 page not found"),
]


def post(server: FakeOllama, path: str, body: Any) -> httpx2.Response:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return httpx2.post(server.url + path, content=content)


@pytest.mark.parametrize(("path", "body", "kind", "first", "last"), ANSWERS)
def test_an_answer_has_the_keys_of_the_real_one(
    path: str, body: dict[str, Any], kind: str, first: str, last: str
) -> None:
    with FakeOllama(say("a", "b", finish="length"), models=("m",)) as server:
        response = post(server, path, {"model": "m", **body})
    objects = [json.loads(line) for line in response.text.splitlines()]
    assert (response.status_code, response.headers["content-type"]) == (200, kind)
    assert ("transfer-encoding" in response.headers) is (kind == LINES)
    assert [list(objects[0]), list(objects[-1])] == [first.split(), last.split()]


@pytest.mark.parametrize(("path", "body", "status", "text"), REFUSALS)
def test_a_refusal_has_the_words_of_the_real_one(path: str, body: Any, status: int, text: str) -> None:
    with FakeOllama(models=("m",)) as server:
        response = post(server, path, body)
        assert server.chats == []
    assert (response.status_code, response.headers["content-type"]) == (status, JSON)
    assert response.json() == {"error": text}


@pytest.mark.parametrize(("method", "path", "status", "kind", "text"), OTHERS)
def test_what_is_no_request_for_a_model(method: str, path: str, status: int, kind: str, text: str) -> None:
    with FakeOllama() as server:
        response = httpx2.request(method, server.url + path)
    assert (response.status_code, response.headers["content-type"], response.text) == (status, kind, text)


def test_a_loaded_model_is_listed_with_the_keys_of_the_real_one() -> None:
    with FakeOllama(models=("m",)) as server:
        post(server, "/api/chat", {"model": "m", "messages": []})
        (running,) = httpx2.get(f"{server.url}/api/ps").json()["models"]
        (pulled,) = httpx2.get(f"{server.url}/api/tags").json()["models"]
    details = ["parent_model", "format", "family", "families", "parameter_size", "quantization_level"]
    told = ["name", "model", "size", "digest", "details"]
    assert list(running) == [*told, "expires_at", "size_vram", "context_length"]  # the last since 0.11
    assert list(running["details"]) == details
    assert {*told, "modified_at"} < set(pulled)
    assert list(pulled["details"])[:6] == details
