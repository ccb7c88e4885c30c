"""A child of `os.fork` begins anew, with its own loop, slots and connections, and the parent does not notice it."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from resilient_llm.testing import FakeOllama, say

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

BEGIN = """
import asyncio, multiprocessing, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12 Python warns of every fork beside threads
from resilient_llm import AsyncClient, Bulkhead, CircuitBreaker, Client, Ollama, Route
ollama = Ollama("llama3.2", base_url=sys.argv[1])
def show(*words): print(*words, flush=True)
def forked(work):
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)  # an ordinary end: what is registered at exit runs, in the child too
    show("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def run(process, script: str, *steps) -> tuple[str, FakeOllama]:
    with FakeOllama(*steps) as server:
        child = process(f"{BEGIN}\n{script}", server.url)
        out, err = child.communicate(timeout=15)
        assert (child.returncode, err) == (0, ""), out
        return out, server


def test_a_child_has_its_own_connections_and_the_parent_keeps_its_own(process) -> None:
    script = """
llm = Client(ollama)
show(llm.chat("one").text)
forked(lambda: show(llm.chat("two").text))
show(llm.chat("three").text)
"""
    out, server = run(process, script)
    assert out == "You said: one\nYou said: two\nchild 0\nYou said: three\n"
    # Three chats, two connections: the parent went on with the one that it had before.
    assert len(server.chats) == 3
    assert server.connections == 2


def test_a_slot_that_another_thread_holds_is_free_in_the_child(process) -> None:
    """Also where the user gave slot and breaker. Both at once, because each is mostly waiting."""
    script = """
llm = Client({route})
thread = threading.Thread(target=lambda: show(llm.chat("slow").text))
thread.start()
while not llm.snapshot()["ollama:llama3.2"]["bulkhead"].inflight: time.sleep(0.001)
time.sleep(0.2)  # the request is under way
forked(lambda: show(llm.chat("quick", timeout=5).text, llm.snapshot()["ollama:llama3.2"]["bulkhead"]))
thread.join()
show(llm.snapshot()["ollama:llama3.2"]["bulkhead"])
"""
    free = "BulkheadSnapshot(slots=1, inflight=0, queued=0)"
    routes = ("ollama", "Route(ollama, bulkhead=Bulkhead(1), breaker=CircuitBreaker())")
    with ExitStack() as servers:
        children = []
        for route in routes:
            server = servers.enter_context(FakeOllama(say("slow", first=3.0), say("quick")))
            children.append(process(f"{BEGIN}\n{script.format(route=route)}", server.url))
        for child in children:
            out, err = child.communicate(timeout=15)
            assert (child.returncode, err, out) == (0, "", f"quick {free}\nchild 0\nslow\n{free}\n")


def test_a_stream_that_another_thread_reads_with_an_async_client_holds_no_slot_in_the_child(process) -> None:
    """And the parent gives its slot back once: who comes after it there has one, and so has the child's next call."""
    script = """
llm = AsyncClient(Route(ollama, bulkhead=Bulkhead(1), breaker=CircuitBreaker()))
state = lambda: llm.snapshot()["ollama:llama3.2"]["bulkhead"]
async def read():
    async with llm.stream("slow") as stream:
        show("".join([text async for text in stream.text()]))
    show((await llm.chat("after", timeout=5)).text)
def child():
    async def ask():
        for _ in range(2): show((await llm.chat("hi", timeout=5)).text, state())
    asyncio.run(ask())
thread = threading.Thread(target=lambda: asyncio.run(read()))
thread.start()
while not state().inflight: time.sleep(0.001)
time.sleep(0.2)  # the first piece is there
forked(child)
thread.join()
show(state())
"""
    free = "BulkheadSnapshot(slots=1, inflight=0, queued=0)"
    out, _ = run(process, script, say("sl", "ow", gap=2.0), say("quick"), say("quick"), say("later"))
    assert out == f"quick {free}\nquick {free}\nchild 0\nslow\nlater\n{free}\n"


def test_a_lock_that_another_thread_holds_is_open_in_the_child(process) -> None:
    script = """
breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
llm = Client(Route(ollama, bulkhead=bulkhead, breaker=breaker))
held = [llm._lock, breaker._lock, bulkhead._lock]
for lock in held: lock.acquire()  # as if another thread were just there
pid = os.fork()
if pid == 0:
    two = [threading.Thread(target=lambda: show(llm.chat("hi", timeout=5).text)) for _ in "ab"]  # one has to queue
    for thread in two: thread.start()
    for thread in two: thread.join()
    os._exit(0)
for lock in held: lock.release()
os.waitpid(pid, 0)
show(llm.chat("ho").text)
"""
    out, _ = run(process, script, say("fine", first=0.2))
    assert out == "fine\n" * 3


def test_a_process_of_multiprocessing_may_use_the_client(process) -> None:
    script = """
llm = Client(ollama)
show(llm.chat("one").text)
child = multiprocessing.get_context("fork").Process(target=lambda: show(llm.chat("two").text))
child.start(); child.join(10)
show(child.exitcode, llm.chat("three").text)
"""
    out, _ = run(process, script)
    assert out == "You said: one\nYou said: two\n0 You said: three\n"


def test_an_open_stream_stays_with_the_parent(process) -> None:
    script = """
llm = Client(ollama)
def child():
    try: next(stream)
    except Exception as error: show(type(error).__name__, "fork" in str(error))
    stream.close()
    show(llm.chat("hi").text)
with llm.stream("story") as stream:
    text = next(stream).text
    forked(child)
    show(text + "".join(stream.text()))
"""
    out, server = run(process, script, say("a", "b", "c", gap=0.3), say("hello"))
    assert out == "ClientClosed True\nhello\nchild 0\nabc\n"
    assert [chat.ended for chat in server.chats] == ["complete", "complete"]


def test_a_client_that_was_closed_stays_closed_in_the_child(process) -> None:
    script = """
llm = Client(ollama)
llm.close()
def child():
    try: llm.chat("hi")
    except Exception as error: show(type(error).__name__)
forked(child)
"""
    out, _ = run(process, script)
    assert out == "ClientClosed\nchild 0\n"


def test_an_async_client_begins_anew_on_the_loop_of_the_child(process) -> None:
    script = """
llm = AsyncClient(ollama)
async def ask(text): show((await llm.chat(text)).text)
with asyncio.Runner() as runner:
    runner.run(ask("one"))
    pid = os.fork()
    if pid == 0:
        asyncio.run(ask("two"))
        os._exit(0)
    os.waitpid(pid, 0)
    runner.run(ask("three"))
    runner.run(llm.aclose())
"""
    out, server = run(process, script)
    assert out == "You said: one\nYou said: two\nYou said: three\n"
    assert server.connections == 2
