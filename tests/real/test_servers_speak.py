"""What the real servers say on the wire, asked without our client: the facts that its code and its fakes rest on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import Any

import anyio
import httpx2
import pytest

from .conftest import NARROW
from .helpers import AUTH, ENDLESS, busy_slots, eventually, stop_next_runner, unload
from .llamacpp import Server as Llama
from .ollama import Server as Ollama
from .script import CONTEXT, SCRIPT

LONG = 30  # seconds; nothing here takes one


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def sse(body: str) -> list[str]:
    return [line.removeprefix("data: ") for line in body.splitlines() if line]


def lines(answer: httpx2.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.iter_lines()]


def test_llamacpp_streams_its_script_with_usage_and_a_last_word(llama: Llama) -> None:
    body = chat("hi", stream=True, stream_options={"include_usage": True})
    answer = httpx2.post(f"{llama.url}/v1/chat/completions", json=body, headers=AUTH, timeout=LONG)
    *events, usage, last = sse(answer.text)
    chunks = [json.loads(event)["choices"][0] for event in events]
    pieces = [chunk["delta"]["content"] for chunk in chunks if chunk["delta"].get("content")]
    assert "".join(pieces) == SCRIPT
    assert len(pieces) > 20
    assert chunks[-1]["finish_reason"] == "stop"
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"]["completion_tokens"] > len(pieces)  # a split character is several tokens
    assert last == "[DONE]"


def test_llamacpp_refuses_what_does_not_fit_and_names_both_numbers(llama: Llama) -> None:
    answer = httpx2.post(f"{llama.url}/v1/chat/completions", json=chat("word " * 5000), headers=AUTH, timeout=LONG)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["type"] == "exceed_context_size_error"
    assert error["n_ctx"] == CONTEXT
    assert error["n_prompt_tokens"] > 5000


def test_llamacpp_gives_an_answer_in_one_piece_to_its_end_though_nobody_listens(llama: Llama) -> None:
    """Why we always stream: only a stream is cancelled with its connection."""
    body = chat("hi", max_tokens=2000, **ENDLESS)  # a third of a second, on a fast machine
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{llama.url}/v1/chat/completions", json=body, headers=AUTH, timeout=0.05)
    time.sleep(0.06)  # a stream's slot is free after 0.04 s
    assert busy_slots(llama) == 1
    anyio.run(eventually, lambda: busy_slots(llama) == 0, LONG)


def test_ollama_streams_json_lines_and_says_done_with_its_counts(ollama_server: Ollama) -> None:
    answer = httpx2.post(f"{ollama_server.url}/api/chat", json=chat("hi"), timeout=LONG)
    *pieces, last = lines(answer)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert "".join(piece["message"]["content"] for piece in pieces) == SCRIPT
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert last["eval_count"] >= len(pieces)
    assert last["prompt_eval_count"] > 0


def test_ollama_reports_an_error_inside_a_200(ollama_server: Ollama) -> None:
    answer = httpx2.post(f"{ollama_server.url}/api/chat", json=chat("hi", format={"type": "wat"}), timeout=LONG)
    assert answer.status_code == 200
    assert lines(answer) == [{"error": "invalid JSON schema in format"}]


def test_ollama_cuts_a_prompt_that_is_too_long_without_a_word(ollama_server: Ollama) -> None:
    body = chat("word " * 1000, truncate=False, options={"num_ctx": NARROW})
    *pieces, last = lines(httpx2.post(f"{ollama_server.url}/api/chat", json=body, timeout=LONG))
    assert "".join(piece["message"]["content"] for piece in pieces) == SCRIPT
    assert last["prompt_eval_count"] <= NARROW


@pytest.mark.anyio
async def test_ollama_aborts_a_load_whose_caller_hangs_up(ollama_server: Ollama) -> None:
    await unload(ollama_server, "scripted")
    async with httpx2.AsyncClient(timeout=LONG) as http, anyio.create_task_group() as group:

        async def ask() -> None:
            await http.post(f"{ollama_server.url}/api/chat", json=chat("hi"))

        group.start_soon(ask)
        runner = await stop_next_runner(ollama_server)
        group.cancel_scope.cancel()
    with contextlib.suppress(ProcessLookupError):  # it may be gone already
        os.kill(runner, signal.SIGCONT)
    await eventually(lambda: runner not in ollama_server.runners())
    assert runner not in ollama_server.runners()


@pytest.mark.parametrize(("path", "says_so"), [("/api/chat", True), ("/v1/chat/completions", False)])
def test_ollama_tells_of_a_dead_runner_only_on_its_own_api(ollama_server: Ollama, path: str, says_so: bool) -> None:
    body = chat("hi", stream=True, max_tokens=100_000, options={"num_predict": 100_000}) | {"model": "random"}
    with httpx2.stream("POST", f"{ollama_server.url}{path}", json=body, timeout=LONG) as answer:
        received = answer.iter_lines()
        for _ in range(4):
            next(received)
        for runner in ollama_server.runners():
            os.kill(runner, signal.SIGKILL)
        rest = list(received)
    assert answer.status_code == 200
    assert ("unexpected EOF" in rest[-1]) is says_so
    assert not any('"done":true' in line or "[DONE]" in line or '"finish_reason":"' in line for line in rest)
