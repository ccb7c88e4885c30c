"""Four web workers on a box that does one thing at a time: `Bulkhead(shared=…)` is one limit for all of them."""

from __future__ import annotations

import itertools
import os
import signal
import time

import pytest

from resilient_llm.testing import FakeOllama, say, stall

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs file locks that the kernel frees")

WORKER = """
import sys
from resilient_llm import Bulkhead, Client, Ollama, Route
ollama = Ollama("llama3.2", base_url=sys.argv[1])
with Client(Route(ollama, bulkhead=Bulkhead(1, shared="a-test"))) as llm:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        print(llm.chat("hi", timeout=18).text, flush=True)
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_all_processes_have_one_limit_and_each_is_served(process) -> None:
    with FakeOllama(say("fine", first=0.05)) as server:
        workers = [process(WORKER, server.url, "2") for _ in range(4)]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            out, err = worker.communicate(timeout=18)
            assert (worker.returncode, err, out) == (0, "", "fine\n" * 2)
        spans = sorted((one.started, one.finished) for one in server.chats)
        assert len(spans) == 8
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_process_that_is_killed_in_mid_answer_frees_its_slot_for_the_others(process) -> None:
    with FakeOllama(stall("hel"), say("fine")) as server:
        first, second = (process(WORKER, server.url, "1") for _ in range(2))
        for worker in (first, second):
            assert worker.stdout.readline() == "ready\n"
        first.stdin.write("go\n")
        first.stdin.flush()
        server.wait_for(lambda: len(server.chats) == 1)
        second.stdin.write("go\n")
        second.stdin.flush()
        time.sleep(0.3)  # the second waits for its turn: it has sent nothing, however long one looks
        assert len(server.chats) == 1
        first.send_signal(signal.SIGKILL)
        out, err = second.communicate(timeout=18)
        assert (second.returncode, err, out) == (0, "", "fine\n")
