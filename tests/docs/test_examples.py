"""Every example runs as it is, with both servers up, and with the local one down."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest

from resilient_llm.testing import FakeOllama, cut

from .conftest import ROOT, Servers

EXAMPLES = ROOT / "examples"
# What each shows with both servers up, and with nobody at the local one's port.
UP: dict[str, list[str]] = {
    "context_guard": ["refused: ", "trimmed to ", "compatible:gpt-5-mini: You said: Which fact is the last?"],
    "deadlines": ["in time: ChatReply(", "ollama:llama3.2, 1 attempt"],
    "fallback": ["ollama:llama3.2 answered: You said"],
    "privacy": ["ChatReply(", "local_only allows 'network', but openai:gpt-5-mini is in 'internet'"],
    "quickstart": ["You said: Why is the sky blue?", "ollama:llama3.2, 1 attempt"],
    "streaming": ["You said: Tell me a story.", "output_tokens=3"],
    "threads": ["Why is snow white? You said: Why is snow white?"],
    "tools": ["asks for get_weather({'city': 'Paris'})", "1 days of sun in Paris"],
    "typed_output": ["Paris, France: 2,100,000 people, says ollama:llama3.2"],
}
DOWN: dict[str, list[str]] = {  # `context_guard` is about one server, and shows how that one fails
    "deadlines": ["in time: ChatReply(", "openai:gpt-5-mini"],
    "fallback": ["compatible:gpt-5-mini answered: You said"],
    "privacy": ["failed rather than told anyone: ConnectFailed", "local_only allows 'network'"],
    "quickstart": ["You said: Why is the sky blue?", "openai:gpt-5-mini, 3 attempts: ollama:llama3.2 ConnectFailed"],
    "streaming": ["You said: Tell me a story.", "compatible:gpt-5-mini, "],
    "threads": ["Why is snow white? You said: Why is snow white?"],
    "tools": ["1 days of sun in Paris"],
    "typed_output": ["says openai:gpt-5-mini"],
}


def shown_by(example: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_tested() -> None:
    there = {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("_")}
    assert there == {*UP, "demo", "test_with_fakes"}


def test_every_example_is_short() -> None:
    lengths = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert not {name: length for name, length in lengths.items() if name in UP and length > 60}


@pytest.mark.parametrize("example", UP)
def test_it_runs_with_both_servers_up(example: str, servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    output = shown_by(example, capsys)
    assert [words for words in UP[example] if words not in output] == []


@pytest.mark.parametrize("example", DOWN)
def test_it_runs_with_the_local_server_down(example: str, servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    servers.local.kill()
    output = shown_by(example, capsys)
    assert [words for words in DOWN[example] if words not in output] == []


def test_privacy_tells_the_hosted_server_nothing(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    servers.local.kill()
    shown_by("privacy", capsys)
    assert servers.hosted.connections == 0


def test_tools_asks_twice_and_hands_the_result_back(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    shown_by("tools", capsys)
    first, second = servers.local.chats
    assert first.json["tools"][0]["function"]["name"] == "get_weather"
    assert [message["role"] for message in second.json["messages"]] == ["user", "assistant", "tool"]


def test_streaming_shows_a_break_and_a_restart(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeOllama(cut("Once", " upon")) as broken:
        monkeypatch.setenv("OLLAMA_HOST", broken.url)
        output = shown_by("streaming", capsys)
    assert "(broke off after 9 characters: " in output
    assert "(forget that: StreamInterrupted; it begins anew from compatible:gpt-5-mini)" in output


def test_fallback_names_every_route_that_failed(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    servers.local.kill()
    servers.hosted.kill()
    output = shown_by("fallback", capsys)
    last_words = [line for line in output.splitlines() if line.startswith("ConnectFailed(")]
    assert [line.split("route=")[1] for line in last_words] == ["'ollama:llama3.2')", "'compatible:gpt-5-mini')"]


def test_the_tests_with_fakes_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/test_with_fakes.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
