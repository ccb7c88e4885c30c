"""The subjects of the contract: servers that claim to be Ollama, and what can be done to each.

The fake runs at the speed of the real one on a small machine, with models of the same names, windows and words.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2

from resilient_llm.testing import FakeOllama, Machine, OllamaModel, Pulled, Settings
from resilient_llm.testing._host.facts import Version, version_of

from .ollama import Server
from .script import CONTEXT, SCRIPT

LONG = 30.0  # seconds; nothing here takes one
WORDS = tuple(f"{' ' if at else ''}{word}" for at, word in enumerate(SCRIPT.split()))


class Hands(Protocol):
    """What can be done to the processes of a server."""

    def kill(self, model: str) -> None: ...

    def stop(self, model: str) -> None: ...

    def resume(self, model: str) -> None: ...

    def runner(self, model: str) -> object:
        """The process of the model; another one after a load."""
        ...


@dataclass
class Subject:
    """A server that claims to be Ollama.

    Attributes:
        url: where.
        version: what is known of its version.
        model: one that talks.
        endless: one that does not stop by itself.
        hands: what can be done to its processes, if anything.
        bos: tokens that begin each prompt by themselves.
        http: the client of the test, given by the fixture; one for each request would cost more than the request.
    """

    url: str
    version: Version
    model: str
    endless: str | None = None
    hands: Hands | None = None
    bos: int = 0
    http: Any = None

    def post(self, path: str, body: Mapping[str, Any], **options: Any) -> httpx2.Response:
        return self.http.post(self.url + path, json=body, **{"timeout": LONG, **options})

    def get(self, path: str) -> Any:
        return self.http.get(self.url + path, timeout=LONG).json()

    def chat(self, *messages: tuple[str, str], **more: Any) -> httpx2.Response:
        """A chat in one piece, one token long unless said otherwise."""
        return self.post("/api/chat", self.asked(*messages, **more))

    def asked(self, *messages: tuple[str, str], **more: Any) -> dict[str, Any]:
        options = {"num_predict": 1, "temperature": 0, **more.pop("options", {})}
        listed = [{"role": role, "content": text} for role, text in messages]
        return {"model": self.model, "messages": listed, "stream": False, "options": options, **more}

    def count(self, *messages: tuple[str, str], **more: Any) -> int:
        """The tokens of the prompt, as the server counts them."""
        found: int = self.chat(*messages, **more).json()["prompt_eval_count"]
        return found

    def unload(self, model: str | None = None) -> None:
        name = model or self.model
        self.post("/api/chat", {"model": name, "messages": [], "keep_alive": 0}).raise_for_status()
        self.wait(lambda: name not in self.in_memory())

    def in_memory(self) -> set[str]:
        return {one["name"].removesuffix(":latest") for one in self.get("/api/ps")["models"]}

    @staticmethod
    def wait(true: Callable[[], object], within: float = 10.0) -> None:
        """Returns when it is true: a server tells nobody what it does by itself."""
        end = time.monotonic() + within
        while not true():
            assert time.monotonic() < end, f"not within {within:g} s"
            time.sleep(0.01)


class RealHands:
    """Signals."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def _signal(self, sent: signal.Signals) -> None:
        for runner in self._server.runners():
            os.kill(runner, sent)

    def kill(self, model: str) -> None:
        self._signal(signal.SIGKILL)

    def stop(self, model: str) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self, model: str) -> None:
        self._signal(signal.SIGCONT)

    def runner(self, model: str) -> object:
        return frozenset(self._server.runners())


class FakeHands:
    """The same, to a host."""

    def __init__(self, server: FakeOllama) -> None:
        self._server = server

    def kill(self, model: str) -> None:
        self._server.act(lambda host: host.kill(model))

    def stop(self, model: str) -> None:
        self._server.act(lambda host: host.stop(model))

    def resume(self, model: str) -> None:
        self._server.act(lambda host: host.resume(model))

    def runner(self, model: str) -> object:
        return self._server.act(lambda host: sum(one.model == f"{model}:latest" for one in host.loads))


def real(server: Server) -> Subject:
    version = version_of(httpx2.get(f"{server.url}/api/version").json()["version"])
    return Subject(server.url, version, "scripted", "endless", RealHands(server))


@contextmanager
def fake(version: str) -> Iterator[Subject]:
    """A host as small as the real one: one request at a time, a queue of two, no GPU."""

    def model(name: str, said: Callable[[str], Sequence[str]], **more: Any) -> Pulled:
        return Pulled(name, size=10**6, trained=CONTEXT, kv_bytes=1024, adds_bos=False, decode=3000.0, prefill=50_000.0,
                      half_at=10**6, says=said, architecture="llama", parameters="1M", **more)  # fmt: skip

    models = (model("scripted", lambda _: WORDS), model("endless", lambda _: itertools.cycle(WORDS)))  # type: ignore[arg-type, return-value]
    machine = Machine(vram=0, slow=1.0, spawn=0.25)
    host = OllamaModel(*models, machine=machine, settings=Settings(num_parallel=1, max_queue=2), version=version)
    with FakeOllama(host=host) as server:
        yield Subject(server.url, version_of(version), "scripted", "endless", FakeHands(server))


def named_by_the_environment() -> Subject:
    """The server at `OLLAMA_TEST_HOST`, with `OLLAMA_TEST_MODEL`; it is only asked, nothing is made or killed there."""
    url = os.environ["OLLAMA_TEST_HOST"]
    url = url if "://" in url else f"http://{url}"
    version = version_of(httpx2.get(f"{url}/api/version", timeout=LONG).json()["version"])
    model = os.environ.get("OLLAMA_TEST_MODEL") or httpx2.get(f"{url}/api/tags").json()["models"][0]["name"]
    show = httpx2.post(f"{url}/api/show", json={"model": model}, timeout=LONG).json()
    info = show["model_info"]
    return Subject(url, version, model, bos=int(bool(info.get("tokenizer.ggml.add_bos_token"))))
