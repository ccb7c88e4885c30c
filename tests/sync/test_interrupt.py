"""Ctrl-C, wherever it comes: it reaches the user at once, the server stops generating, and the client goes on."""

from __future__ import annotations

import signal
import time

import pytest

from resilient_llm.testing import FakeOllama, Step, hang, say, stall

SCRIPT = """
    import sys, time
    from resilient_llm import Client, Ollama

    llm = Client(Ollama("llama3.2", base_url=sys.argv[1]))  # a local route has one slot: nobody may keep it
    try:
        {work}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(llm.chat("again").text, flush=True)
    sys.stdin.readline()
    llm.close()
"""
IN_CHAT = "llm.chat('hi')"
ENTERING = "stream = llm.stream('hi'); stream.__enter__()"  # held: no finaliser may do what `with` has to
READING = """with llm.stream('hi') as stream:
            for event in stream: print(event.text, flush=True)"""
BETWEEN = """with llm.stream('hi') as stream:
            print(next(stream).text, flush=True); time.sleep(60)"""


@pytest.mark.parametrize(
    ("work", "step"),
    [
        pytest.param(IN_CHAT, hang(), id="in a chat"),
        pytest.param(IN_CHAT, stall("hel"), id="in a chat that has begun to answer"),
        pytest.param(ENTERING, hang(), id="entering a stream"),
        pytest.param(READING, stall("hel"), id="waiting for an event"),
        pytest.param(BETWEEN, stall("hel"), id="in the user's own code between two events"),
    ],
)
def test_an_interrupt_hangs_up_and_leaves_the_client_usable(process, work: str, step: Step) -> None:
    with FakeOllama(step, say("fine")) as server:
        child = process(SCRIPT.format(work=work), server.url)
        if work in (READING, BETWEEN):
            assert child.stdout.readline() == "hel\n"
        server.wait_for(lambda: len(server.chats) == 1, 10)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n", child.stderr.read()
        assert time.monotonic() - began < 1
        assert child.stdout.readline() == "fine\n", "the slot was not given back"
        server.wait_for(lambda: server.chats[0].ended == "disconnected")
        assert child.poll() is None, "it was the end of the process that ended the connection"
        assert child.communicate("\n", timeout=10) == ("", "")
        assert child.returncode == 0


def test_an_interrupt_of_a_call_that_waits_for_a_slot_sends_nothing(process) -> None:
    script = """
        import sys, threading
        from resilient_llm import Client, Ollama

        llm = Client(Ollama("llama3.2", base_url=sys.argv[1]))
        first = threading.Thread(target=lambda: print(llm.chat("first").text, flush=True))
        first.start()
        while not llm.snapshot()["ollama:llama3.2"]["bulkhead"].inflight: pass
        try:
            threading.Timer(0.1, lambda: print("waiting", flush=True)).start()
            llm.chat("second")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        first.join()
        llm.close()
    """
    with FakeOllama(say("first", first=1.0), say("never")) as server:
        child = process(script, server.url)
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=10) == ("interrupted\nfirst\n", "")
        assert len(server.chats) == 1


def test_an_interrupt_at_any_moment_leaves_nothing_behind(process) -> None:
    """Also between beginning and waiting, while the loop starts, and while it ends: a timer finds such moments."""
    script = """
        import random, signal, threading, time
        from resilient_llm import Client
        from resilient_llm.testing import FakeBackend, stall

        def interrupt(*_): raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        backend = FakeBackend(stall("a"), local=True)
        llm = Client(backend)

        def chat(): llm.chat("x", timeout=2)
        def stream():
            with llm.stream("x", timeout=2) as events:
                for event in events: pass
        def new():
            with Client(backend) as fresh: fresh.chat("x", timeout=2)

        for number in range(240):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-3))
                (chat, stream, new)[number % 3]()
            except KeyboardInterrupt:
                pass
            except RuntimeError as error:  # an interrupt within `Condition.wait` breaks it; that is Python's own
                assert "lock" in str(error), repr(error)
            except TimeoutError:  # it came within a finaliser, where Python shows and forgets it
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            end = time.monotonic() + 5
            while backend.active:
                assert time.monotonic() < end, f"{number}: it goes on"
                time.sleep(0.001)
        while llm.snapshot()["fake"]["bulkhead"].inflight: time.sleep(0.001)
        backend.then(__import__("resilient_llm.testing").testing.say("fine"))
        print(llm.chat("x").text)
        time.sleep(0.1)
        print(sum(thread.name == "resilient_llm" for thread in threading.enumerate()) <= 3)
    """
    child = process(script)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (0, "fine\nTrue\n"), err
