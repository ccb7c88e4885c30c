"""The end of the interpreter is never held up by a client that nobody closed, and nothing is shown on stderr."""

from __future__ import annotations

import time

import pytest

from resilient_llm.testing import FakeOllama, hang, say, stall

BEGIN = """
import sys, threading, time
from resilient_llm import Client, Ollama
llm = Client(Ollama("llama3.2", base_url=sys.argv[1]))
def daemon(work):
    threading.Thread(target=work, daemon=True).start()
    while not llm.snapshot()["ollama:llama3.2"]["bulkhead"].inflight: time.sleep(0.001)
"""
BLOCKED = """
stuck = threading.Event()
def plan(request, routes):  # runs on the loop, and never comes back to it
    stuck.set(); time.sleep(60)
other = Client(Ollama("llama3.2", base_url=sys.argv[1]), plan=plan)
threading.Thread(target=lambda: other.chat("hi"), daemon=True).start()
stuck.wait()
"""


@pytest.mark.parametrize(
    ("work", "step"),
    [
        pytest.param("llm.chat('hi')", say("hel"), id="after a call"),
        pytest.param("stream = llm.stream('hi').__enter__(); next(stream)", stall("hel"), id="with an open stream"),
        pytest.param("stream = llm.stream('hi').__enter__()", say(*"x" * 500), id="with a stream that is full"),
        pytest.param("daemon(lambda: llm.chat('hi'))", hang(), id="while a thread is in a call"),
        pytest.param(
            "daemon(lambda: list(llm.stream('hi').__enter__()))", stall("hel"), id="while a thread reads a stream"
        ),
        pytest.param(BLOCKED, say("hel"), id="while the loop's thread is blocked"),
    ],
)
def test_the_interpreter_ends_at_once_without_close(process, work: str, step) -> None:
    with FakeOllama(step) as server:
        child = process(f"{BEGIN}\n{work}\nprint('end', flush=True)\n", server.url)
        assert child.stdout.readline() == "end\n", child.stderr.read()
        began = time.monotonic()
        assert child.communicate(timeout=10) == ("", "")
        assert time.monotonic() - began < 2
        assert child.returncode == 0
        server.wait_idle()


def test_a_thread_that_python_waits_for_gets_its_answer(process) -> None:
    with FakeOllama(say("late", first=0.5)) as server:
        work = "threading.Thread(target=lambda: print(llm.chat('hi').text)).start()"
        child = process(f"{BEGIN}\n{work}\n", server.url)
        assert child.communicate(timeout=10) == ("late\n", "")
        assert child.returncode == 0


def test_after_an_exception_only_that_is_shown(process) -> None:
    work = "stream = llm.stream('hi').__enter__(); next(stream); llm.snapshot(); raise ValueError('mine')"
    with FakeOllama(stall("hel")) as server:
        child = process(f"{BEGIN}\n{work}\n", server.url)
        out, err = child.communicate(timeout=10)
        assert (child.returncode, out) == (1, "")
        assert err.count("Traceback") == 1
        assert err.endswith("ValueError: mine\n")


def test_what_runs_at_exit_may_use_the_client_still(process) -> None:
    work = "import atexit; atexit.register(lambda: print(llm.chat('bye').text)); llm.chat('hi')"
    with FakeOllama(say("at exit")) as server:
        child = process(f"{BEGIN}\n{work}\n", server.url)
        assert child.communicate(timeout=10) == ("at exit\n", "")
