"""FakeOllama says what Ollama says: loads, windows, models, embeddings, errors."""

from __future__ import annotations

import json
import math

import httpx2
import pytest

from resilient_llm.testing import (
    FakeOllama,
    say,
)

from .peer import QUIET, answer, asks, chat, peer


def test_a_cold_model_holds_the_headers_while_it_loads() -> None:
    with FakeOllama(say("a"), load=math.inf) as server, peer(server) as one:
        assert asks(server, one).is_quiet()
        assert (server.loads.started, server.loads.completed) == (1, 0)
        assert httpx2.get(f"{server.url}/api/ps").json() == {"models": []}


def test_a_load_is_told_by_the_answer_that_waited_for_it_only() -> None:
    with FakeOllama(say("a"), load=QUIET) as server:
        _, cold = answer(server, "/api/chat", chat(stream=False))
        _, warm = answer(server, "/api/chat", chat(stream=False))
        assert (server.loads.started, server.loads.completed) == (1, 1)
    assert cold["load_duration"] >= QUIET * 1e9 > warm["load_duration"] > 0


def test_a_load_ends_with_the_client_that_started_it_and_the_next_begins_anew() -> None:
    with FakeOllama(say("a"), load=math.inf) as server, peer(server) as second:
        with peer(server) as first:
            asks(server, first)
            server.wait_for(lambda: server.loads.started == 1)
            asks(server, second)
            server.wait_for(lambda: server.active == 2)
        server.wait_for(lambda: server.loads.started == 2)
        assert (server.loads.completed, server.active) == (0, 1)


def test_another_num_ctx_and_an_eviction_load_again() -> None:
    with FakeOllama(say("a")) as server:
        for size in (4096, 2048, 2048):
            answer(server, "/api/chat", chat(stream=False, options={"num_ctx": size}))
        assert server.loads.completed == 2
        server.evict()
        assert httpx2.get(f"{server.url}/api/ps").json() == {"models": []}
        answer(server, "/api/chat", chat(stream=False, options={"num_ctx": 2048}))
        assert server.loads.completed == 3
        server.restart()
        assert httpx2.get(f"{server.url}/api/ps").json() == {"models": []}


def test_loading_without_a_prompt() -> None:
    with FakeOllama() as server:
        _, load = answer(server, "/api/chat", {"model": "llama3.2", "messages": []})
        (running,) = httpx2.get(f"{server.url}/api/ps").json()["models"]
        _, unload = answer(server, "/api/chat", {"model": "llama3.2", "messages": [], "keep_alive": 0})
        assert httpx2.get(f"{server.url}/api/ps").json() == {"models": []}
        assert server.chats == []
    assert (load["done"], load["done_reason"], "total_duration" in load) == (True, "load", False)
    assert unload["done_reason"] == "unload"
    assert (running["name"], running["context_length"]) == ("llama3.2:latest", 4096)
    assert running["details"]["quantization_level"] == "Q4_K_M"
    assert len(running["digest"]) == 64
    assert running["size"] == running["size_vram"]


def test_a_model_that_spills_to_the_cpu_and_a_window_beyond_the_trained() -> None:
    with FakeOllama(gpu=0.5, trained=8192) as server:
        answer(server, "/api/chat", {"model": "llama3.2", "messages": [], "options": {"num_ctx": 999_999}})
        (running,) = httpx2.get(f"{server.url}/api/ps").json()["models"]
    assert running["size_vram"] * 2 == pytest.approx(running["size"], abs=1)
    assert running["context_length"] == 8192


def test_overflow_is_a_400_with_json_in_its_text() -> None:
    with FakeOllama(say("a"), window=10) as server:
        code, body = answer(server, "/api/chat", chat("x" * 41, truncate=False))
        assert server.chats == []
        fits, _ = answer(server, "/api/chat", chat("x" * 40, truncate=False, stream=False))
    inner = json.loads(body["error"])["error"]
    assert (code, fits) == (400, 200)
    assert (inner["n_prompt_tokens"], inner["n_ctx"], inner["type"]) == (11, 10, "exceed_context_size_error")
    assert inner["message"] == "request (11 tokens) exceeds the available context size (10 tokens), try increasing it"


def test_truncation_is_silent_but_for_the_count() -> None:
    history = [
        {"role": "system", "content": "s" * 40},
        *({"role": "user", "content": "u" * 400} for _ in range(5)),
    ]
    with FakeOllama(say("a"), window=256) as server:
        _, dropped = answer(server, "/api/chat", {"model": "llama3.2", "messages": history, "stream": False})
    assert dropped["prompt_eval_count"] == 10 + 2 * 100  # the system's message and the newest that fit
    with FakeOllama(say("a")) as server:
        _, halved = answer(server, "/api/chat", chat("x" * 4 * 12_000, stream=False))
    assert halved["prompt_eval_count"] == 2051  # ollama/ollama#17427


def test_an_unknown_model_has_two_texts() -> None:
    with FakeOllama() as server:
        native = answer(server, "/api/chat", {**chat(), "model": "nope"})
        show = answer(server, "/api/show", {"model": "nope"})
        embed = answer(server, "/api/embed", {"model": "nope", "input": "a"})
    assert native == show == (404, {"error": "model 'nope' not found"})
    assert embed == (404, {"error": 'model "nope" not found, try pulling it first'})


def test_wrong_requests_and_the_status_that_ollama_gives_them() -> None:
    with FakeOllama() as server:
        assert answer(server, "/api/chat", chat(options={"temperature": "hot"})) == (
            500,
            {"error": 'option "temperature" must be of type float32'},
        )
        assert answer(server, "/api/chat", chat(stream=False, options={"typo": "x"}))[0] == 200
        assert answer(server, "/api/chat", {"messages": []}) == (400, {"error": "model is required"})
        lost = httpx2.post(f"{server.url}/v2/chat")
        wrong = httpx2.get(f"{server.url}/api/chat")
    assert (lost.status_code, lost.text, lost.headers["content-type"]) == (404, "404 page not found", "text/plain")
    assert (wrong.status_code, wrong.text) == (405, "405 method not allowed")


def test_embeddings_are_deterministic_unit_vectors() -> None:
    with FakeOllama(dimensions=16) as server:
        _, body = answer(server, "/api/embed", {"model": "llama3.2", "input": ["a", "b", "a"]})
        _, small = answer(server, "/api/embed", {"model": "llama3.2", "input": "a", "dimensions": 4})
        too_long = answer(
            server,
            "/api/embed",
            {"model": "llama3.2", "input": "x" * 100, "truncate": False, "options": {"num_ctx": 4}},
        )
        assert [record.kind for record in server.requests] == ["embed", "embed", "other"]
    first, second, third = body["embeddings"]
    assert first == third != second
    assert len(first) == 16
    assert math.hypot(*first) == pytest.approx(1.0)
    assert body["prompt_eval_count"] == 3
    assert len(small["embeddings"][0]) == 4
    assert too_long == (400, {"error": "the input length exceeds the context length"})


def test_what_ollama_tells_of_itself() -> None:
    with FakeOllama(models=("a", "b:7b"), version="0.9.3", cloud=True) as server:
        assert httpx2.get(server.url).text == "Ollama is running"
        assert httpx2.head(server.url).status_code == 200
        assert httpx2.get(f"{server.url}/api/version").json() == {"version": "0.9.3"}
        names = [model["name"] for model in httpx2.get(f"{server.url}/api/tags").json()["models"]]
        _, show = answer(server, "/api/show", {"model": "a"})
    assert names == ["a:latest", "b:7b"]
    assert (show["remote_host"], show["remote_model"]) == ("https://ollama.com:443", "a")
    assert show["model_info"]["llama.context_length"] == 131072


def test_a_model_here_has_no_remote_host() -> None:
    with FakeOllama() as server:
        _, show = answer(server, "/api/show", {"model": "llama3.2"})
    assert not {"remote_host", "remote_model"} & set(show)
