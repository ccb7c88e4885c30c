"""A fake Ollama, exact on the wire as ollama/ollama 0.32 reads and 0.9.3 was observed.

With a script it has no scheduler: there is no queue, no eviction and no limit of slots. A model is loaded by the
request that needs it, and the load ends with the connection of that request, as in the real server. With a `host` all
of that is there, and what it says comes from the host. It takes any Host header, as one that was told to listen on
0.0.0.0.

Rules of the file: what a request gets is decided here, how its bytes look in `_ollama_wire`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Final, TypeVar

from resilient_llm._errors import ConfigError
from resilient_llm.testing import _ollama_wire as wire
from resilient_llm.testing._host.live import Live
from resilient_llm.testing._host.server import OllamaModel
from resilient_llm.testing._host.truth import Truth
from resilient_llm.testing._model import encode, tokens
from resilient_llm.testing._ollama_checks import refusal, refused_option
from resilient_llm.testing._script import Call, Loads, Plan, Step
from resilient_llm.testing._server import FakeServer
from resilient_llm.testing._steps import Status

T = TypeVar("T")
_PLAIN: Final = {"Content-Type": "text/plain"}


class FakeOllama(FakeServer):
    """An Ollama server for tests, on a port of its own.

    Without a script it repeats the prompt, word by word. It counts a quarter of the characters of a prompt as its
    tokens, rounded up, and each text of a script as one token of the answer.

    Args:
        script: the steps that answer chats and embeddings in turn; the last one repeats. Metadata, loads and
            requests that are refused as wrong take none.
        models: the models it has.
        delay: seconds before every scripted answer.
        load: seconds that a model takes into memory, at the first request that needs it or needs another `num_ctx`.
        window: tokens that fit where the request gives no `num_ctx`.
        trained: the longest window of the models; a larger `num_ctx` is cut to it.
        gpu: the share of a loaded model that is in the memory of the GPU.
        cloud: the models run elsewhere, as Ollama's cloud models do.
        dimensions: of a vector.
        version: what `/api/version` says.
        host: an `OllamaModel` that answers instead of a script; all of the above is its own affair then.
        speed: how many seconds pass for the host in one of ours.

    Raises:
        ImportError: h11 is missing, which `pip install 'resilient-llm[testing]'` brings.
        ConfigError: a script beside a host, or a speed that is none.
    """

    def __init__(
        self,
        *script: Step,
        models: Sequence[str] = ("llama3.2",),
        delay: float = 0.0,
        load: float = 0.0,
        window: int = 4096,
        trained: int = 131072,
        gpu: float = 1.0,
        cloud: bool = False,
        dimensions: int = 8,
        version: str = "0.32.15",
        host: OllamaModel | None = None,
        speed: float = 1.0,
    ) -> None:
        self._live = None if host is None else Live(host, speed)
        if self._live is not None:
            if script or not speed > 0:
                raise ConfigError("host: it answers by itself, without a script, at a speed above 0")
            super().__init__(script, self._live)
            self._live.changes = self.changes
            return
        facts = wire.Facts(tuple(map(wire.tagged, models)), window, trained, gpu, cloud, dimensions, version)
        self._ollama = Ollama(facts, load)
        super().__init__(script, self._ollama, delay=delay)
        self._ollama.changes = self.changes

    @property
    def loads(self) -> Loads:
        """How many loads were started, and how many of them completed; the others go on or were given up."""
        with self.changes():
            return Loads(self._ollama.loads.started, self._ollama.loads.completed)

    def evict(self) -> None:
        """Puts every model out of memory."""
        self._thread.ask(self._ollama.evict)

    @property
    def log(self) -> list[Truth]:
        """What really happened so far to each request for a model of the host.

        Raises:
            RuntimeError: there is no host.
        """
        return self.act(lambda host: [replace(one) for one in host.log])

    def act(self, action: Callable[[OllamaModel], T]) -> T:
        """Does something to the host, in the present, and gives back what came of it.

        Args:
            action: such as `lambda host: host.kill("llama3.2")`; what it gives back should be a copy.

        Raises:
            RuntimeError: there is no host.
        """
        live = self._live
        if live is None:
            raise RuntimeError("the server has no host: FakeOllama(host=OllamaModel(…))")
        results: list[T] = []

        def act() -> None:
            live.tick()
            results.append(action(live.model))
            live.tick()

        self._thread.ask(act)
        return results[0]


class Ollama:
    """Decides what a request gets. Belongs to the server's thread."""

    def __init__(self, facts: wire.Facts, load: float) -> None:
        self.facts = facts
        self.loads = Loads()
        self.changes: Callable[[], AbstractContextManager[None]] = nullcontext
        self._seconds = load
        self._memory: dict[str, int] = {}  # the window of each loaded model
        self._loading = asyncio.Lock()  # one load at a time, first come, first served

    def plan(self, call: Call) -> Plan:
        """The answer to a request: a model's, or one from what is known without it."""
        answer = wire.OllamaAnswer(call, self.facts, self._load)
        method = "GET" if call.method == "HEAD" else call.method
        handler = _ROUTES.get((method, call.path))
        if handler is not None:
            return handler(self, call, answer)
        wrong_method = any(path == call.path for _, path in _ROUTES)
        code, text = (405, b"405 method not allowed") if wrong_method else (404, b"404 page not found")
        return Plan("other", answer, Status(code, text, _PLAIN))

    def started(self) -> None:
        """A new process: nothing is in memory, and nothing is being loaded."""
        self.evict()
        self._loading = asyncio.Lock()

    def evict(self) -> None:
        """No model is in memory."""
        self._memory.clear()

    async def _load(self, model: str, window: int) -> None:
        """Returns when the model is in memory with this window. Who is cancelled here aborts the load.

        The next in the queue then starts it anew, from zero: ollama/ollama#8006.
        """
        if self.facts.cloud or self._memory.get(model) == window:
            return
        async with self._loading:
            if self._memory.get(model) == window:
                return
            self._memory.pop(model, None)
            with self.changes():
                self.loads.started += 1
            await asyncio.sleep(self._seconds)
            with self.changes():
                self._memory[model] = window
                self.loads.completed += 1

    def _generated(self, call: Call, answer: wire.OllamaAnswer) -> Plan:
        refusal = self._refusal(call, answer)
        if refusal is not None:
            return Plan("other", answer, refusal)
        if not answer.texts:
            return Plan("load", answer, self._only_load(call, answer))
        if answer.overflows and not answer.truncates:
            return Plan("other", answer, _overflow(answer))
        return Plan("embed" if answer.embeds else "chat", answer)

    def _refusal(self, call: Call, answer: wire.OllamaAnswer) -> Status | None:
        """What is wrong with a request before a model looks at it."""
        wrong = refusal(call)
        if wrong is not None:
            return wrong
        if answer.model not in self.facts.models:
            return Status(404, _NOT_FOUND["embed" if answer.embeds else "chat"].format(call.body["model"]))
        return refused_option(call)

    def _only_load(self, call: Call, answer: wire.OllamaAnswer) -> Status:
        if call.body.get("keep_alive") in _AT_ONCE:
            self._memory.pop(answer.model, None)
            return Status(200, answer.loaded("unload"))
        if answer.embeds:
            return Status(200, {"model": call.body["model"], "embeddings": []}, loads=True)
        return Status(200, answer.loaded("load"), loads=True)

    def _show(self, call: Call, answer: wire.OllamaAnswer) -> Plan:
        wrong = refusal(call)
        if wrong is not None:
            return Plan("other", answer, wrong)
        if answer.model not in self.facts.models:
            missing = _NOT_FOUND["chat"].format(call.body.get("model", ""))
            return Plan("other", answer, Status(404, missing))
        return Plan("other", answer, Status(200, wire.shown(answer.model, self.facts)))

    def _tags(self, call: Call, answer: wire.OllamaAnswer) -> Plan:
        del call
        models = [wire.described(model, self.facts) for model in self.facts.models]
        return Plan("other", answer, Status(200, {"models": models}))

    def _ps(self, call: Call, answer: wire.OllamaAnswer) -> Plan:
        del call
        models = [wire.running(model, window, self.facts) for model, window in self._memory.items()]
        return Plan("other", answer, Status(200, {"models": models}))

    def _version(self, call: Call, answer: wire.OllamaAnswer) -> Plan:
        del call
        return Plan("other", answer, Status(200, {"version": self.facts.version}))

    def _root(self, call: Call, answer: wire.OllamaAnswer) -> Plan:
        del call
        return Plan("other", answer, Status(200, b"Ollama is running", {"Content-Type": "text/plain; charset=utf-8"}))


_ROUTES: Final[Mapping[tuple[str, str], Callable[[Ollama, Call, wire.OllamaAnswer], Plan]]] = {
    ("POST", "/api/chat"): Ollama._generated,
    ("POST", "/api/generate"): Ollama._generated,
    ("POST", "/api/embed"): Ollama._generated,
    ("POST", "/api/show"): Ollama._show,
    ("GET", "/api/tags"): Ollama._tags,
    ("GET", "/api/ps"): Ollama._ps,
    ("GET", "/api/version"): Ollama._version,
    ("GET", "/"): Ollama._root,
}
_NOT_FOUND: Final = {"chat": "model '{}' not found", "embed": 'model "{}" not found, try pulling it first'}
_AT_ONCE: Final = (0, "0", "0s", "0m")


def _overflow(answer: wire.OllamaAnswer) -> Status:
    """The 400 of a prompt that may not be cut; its text is the JSON of the llama-server behind, with both numbers."""
    if answer.embeds:
        return Status(400, "the input length exceeds the context length", loads=True)
    count, window = tokens(*answer.texts), answer.window
    error = {
        "code": 400,
        "message": f"request ({count} tokens) exceeds the available context size ({window} tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": count,
        "n_ctx": window,
    }
    return Status(400, encode({"error": error}).decode(), loads=True)
