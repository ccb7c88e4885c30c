"""The same client without `await` against the real servers, also from many threads at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resilient_llm import Client, DeadlineExceeded, Route, StreamInterrupted, Timeouts, deadline

from .conftest import KEY
from .helpers import ENDLESS, SLACK, busy_slots, to_llama, to_ollama
from .llamacpp import Server as Llama
from .llamacpp import llama_server
from .ollama import Server as Ollama
from .script import SCRIPT, Kind


def test_chat_stream_and_embed_work_on_both_servers(llama: Llama, llama_embed: Llama, ollama_server: Ollama) -> None:
    for backend in (to_llama(llama), to_ollama(ollama_server)):
        with Client(backend) as llm:
            assert llm.chat("hi", temperature=0).text == SCRIPT
            with llm.stream("hi", temperature=0) as stream:
                assert "".join(stream.text()) == SCRIPT
            assert stream.reply.usage.output_tokens
            assert llm.models()
    for backend in (to_llama(llama_embed, "random"), to_ollama(ollama_server, "random")):
        with Client(backend) as llm:
            assert len(llm.embed(["one", "two"]).vectors) == 2
            assert llm.parse("Is it raining?", bool, temperature=0).output in (True, False)


def test_threads_share_one_client_and_the_one_slot_of_the_server(ollama_server: Ollama) -> None:
    with Client(to_ollama(ollama_server)) as llm, ThreadPoolExecutor(6) as threads:
        llm.warm_up()
        replies = list(threads.map(lambda _: llm.chat("hi", temperature=0), range(6)))
    assert {(reply.text, len(reply.attempts)) for reply in replies} == {(SCRIPT, 1)}


def test_leaving_a_stream_frees_the_slot(llama: Llama) -> None:
    with Client(to_llama(llama)) as llm:
        with llm.stream("hi", extra=ENDLESS) as stream:
            next(stream)
            assert busy_slots(llama) == 1
        end = time.monotonic() + 1  # the whole answer takes longer
        while busy_slots(llama):
            assert time.monotonic() < end


def test_a_deadline_block_holds_over_the_hop_to_the_loop(llama: Llama) -> None:
    with Client(to_llama(llama)) as llm:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), deadline(0.2):
            llm.chat("hi", extra=ENDLESS)
        assert time.monotonic() - began < 0.2 + SLACK


def test_a_server_killed_or_stopped_under_us_is_a_typed_error_or_another_servers_answer(
    model: Callable[[Kind], Path], llama: Llama
) -> None:
    with llama_server(model("scripted"), api_keys=[KEY], model_alias=["scripted"]) as victim:
        first = Route(to_llama(victim), timeouts=Timeouts(first_token=0.3))
        with Client(first, Route(to_llama(llama), name="other")) as llm:
            victim.process.send_signal(signal.SIGSTOP)
            assert llm.chat("hi", temperature=0).route == "other"
            victim.process.send_signal(signal.SIGCONT)
            with pytest.raises(StreamInterrupted) as caught, llm.stream("hi", extra=ENDLESS, temperature=0) as stream:
                for _ in stream:
                    victim.process.kill()
            assert caught.value.partial == stream.partial
            assert SCRIPT.startswith(caught.value.partial[: len(SCRIPT)])
            assert llm.chat("hi", temperature=0).text == SCRIPT
