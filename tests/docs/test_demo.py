"""The demo does what it says, says what is simulated, and its exit code can be believed."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from examples import demo
from examples._relay import Relay
from examples._stage import chat_model

from resilient_llm import AsyncClient, Ollama
from resilient_llm.testing import FakeOllama, FakeOpenAI

from .conftest import ROOT

ACCOUNT = re.compile(
    r"^   (local|hosted) · \d+ attempts? \(.*\) · first token \d+\.\d\d s · total \d+\.\d\d s$", re.MULTILINE
)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address where Ollama is looked for: nobody listens there, and nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("OLLAMA_HOST", address)
        yield address


@pytest.mark.usefixtures("nobody")
def test_it_shows_every_scene_in_under_20_seconds_and_says_what_is_simulated() -> None:
    began = time.monotonic()
    command = [sys.executable, "-W", "error", "-m", "examples.demo"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert time.monotonic() - began < 20
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert len(ACCOUNT.findall(done.stdout)) == 5
    assert "both servers are SIMULATED" in done.stdout
    assert "✗" not in done.stdout
    assert done.stdout.endswith("\nAll of it happened as said.\n")


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("no_colour", [None, "1"])
def test_it_is_coloured_on_a_terminal_unless_that_is_not_wanted(no_colour: str | None) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"} | ({} if no_colour is None else {"NO_COLOR": no_colour})
    show = "from examples import _show; _show.heading(1, 'title'); _show.Claims().check('claim', False)"
    try:
        subprocess.run([sys.executable, "-c", show], cwd=ROOT, env=environment, stdout=theirs, check=True, timeout=60)
        assert (b"\x1b[" in os.read(ours, 4096)) is (no_colour is None)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("left_out", "scene", "expected"),
    [
        ((Relay, "cut_after", lambda *_: None), demo.the_server_is_killed, "the local server dies"),
        ((Relay, "block", lambda *_: None), demo.the_server_hangs, "the first-token limit of 3.0 s ends it"),
        ((demo, "MINUTES", "A short prompt."), demo.the_prompt_is_too_long, "none to the window of 2,048 tokens"),
        ((Relay, "slow", lambda *_: None), demo.the_deadline_is_kept, "the deadline ends it"),
    ],
    ids=["killed", "hangs", "too long", "deadline"],
)
def test_a_claim_that_does_not_hold_is_shown_and_ends_in_exit_code_1(
    left_out: tuple[object, str, object],
    scene: object,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a scene says of the server is left out in turn: the server then answers as always."""
    monkeypatch.setattr(*left_out)
    monkeypatch.setattr(demo, "SCENES", (demo.an_answer_streams_in, scene))
    assert asyncio.run(demo.play()) == 1
    output = capsys.readouterr().out
    assert f"✗ expected: {expected}" in output
    assert "of these claims did not hold" in output


@pytest.mark.parametrize(
    ("models", "cloud", "found"),
    [(("llama3.2",), False, "llama3.2:latest"), ((), False, None), (("gpt-oss-cloud",), True, None)],
    ids=["a model", "no model", "only a model that runs elsewhere"],
)
def test_it_takes_a_model_of_an_ollama_that_is_there(models: tuple[str, ...], cloud: bool, found: str | None) -> None:
    with FakeOllama(models=models, cloud=cloud) as server:
        assert asyncio.run(chat_model(server.url)) == found


def test_it_is_not_misled_by_a_server_that_is_no_ollama(nobody: str) -> None:
    with FakeOpenAI() as server:
        assert asyncio.run(chat_model(server.url.removesuffix("/v1"))) is None
    assert asyncio.run(chat_model(f"http://{nobody}")) is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_the_relay_passes_an_answer_on_unchanged(anyio_backend: str) -> None:
    with FakeOllama() as server:
        async with Relay(server.url) as relay, AsyncClient(Ollama("llama3.2", base_url=relay.url)) as llm:
            assert (await llm.chat("Hello there")).text == "You said: Hello there"
            assert relay.sent > 0
