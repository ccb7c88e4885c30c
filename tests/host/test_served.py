"""The same core over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import httpx2
import pytest

from resilient_llm import Client, Ollama
from resilient_llm.testing import FakeOllama, OllamaModel, Pulled, say


@contextmanager
def served(host: OllamaModel, speed: float = 50.0) -> Iterator[FakeOllama]:
    with FakeOllama(host=host, speed=speed) as server:
        yield server


def test_over_a_socket_it_is_the_same_and_time_goes_as_fast_as_it_is_told() -> None:
    host = OllamaModel(Pulled(size=10**10))
    with served(host, speed=50.0) as server, Client(Ollama("llama3.2", base_url=server.url)) as llm:
        reply = llm.chat("hello there")
        assert reply.text == "You said: hello there"
        (load, truth) = server.log
        assert load.load == pytest.approx(5.5, abs=0.1)
        assert (truth.outcome, truth.output) == ("complete", 4)
        assert server.chats[0].ended == "complete"
        told = httpx2.get(f"{server.url}/__fake__/log").json()
        assert told["log"] == [asdict(one) | {"evicted": list(one.evicted)} for one in server.log]
        assert [one["outcome"] for one in told["loads"]] == ["completed"]
        assert [one.kind for one in server.requests if one.kind != "other"] == ["load", "chat"]
        assert 0.1 < reply.timings.load < 5


def test_over_a_socket_a_client_that_leaves_frees_its_slot() -> None:
    host = OllamaModel(Pulled(says=lambda _: (f"{at} " for at in range(10**6))))
    with served(host) as server:
        body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}
        with httpx2.stream("POST", f"{server.url}/api/chat", json=body) as answer:
            assert json.loads(next(answer.iter_lines()))["message"]["content"] == "0 "
        server.wait_idle()
        assert server.log[0].outcome == "disconnected"
        server.wait_for(lambda: True)
        body["options"] = {"num_predict": 1}
        assert httpx2.post(f"{server.url}/api/chat", json=body, timeout=5).status_code == 200


def test_over_a_socket_a_fault_can_be_worked_on_it() -> None:
    host = OllamaModel(Pulled(says=lambda _: (f"{at} " for at in range(10**6))))
    with served(host) as server:
        body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}
        with httpx2.stream("POST", f"{server.url}/api/chat", json=body, timeout=5) as answer:
            received = answer.iter_lines()
            next(received)
            server.act(lambda model: model.kill("llama3.2"))
            rest = list(received)
        assert "unexpected EOF" in rest[-1]
        server.restart()
        assert server.act(lambda model: model.loaded) == ()
        assert httpx2.get(f"{server.url}/api/version").json() == {"version": "0.32.15"}


def test_a_script_beside_a_host_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="host"):
        FakeOllama(say("hi"), host=OllamaModel())
    with FakeOllama() as server, pytest.raises(RuntimeError, match="host"):
        _ = server.log
