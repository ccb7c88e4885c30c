"""How Ollama writes: its events, its bodies and what it tells of its models.

Rules of the file: field for field as ollama/ollama's `api/types.go` has it, with `omitempty` (a zero is an absent
key) and Go's escaping of `<`, `>` and `&`; durations are nanoseconds and were really measured.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from resilient_llm._types import ToolCall
from resilient_llm.testing._model import encode, integer, roles_of, texts_of, tokens, vector
from resilient_llm.testing._script import Call, Head
from resilient_llm.testing._steps import Say

_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})
_LEAST = 4  # tokens; a smaller num_ctx is raised to it
_KEPT = 5  # the tokens that the runner keeps from the front: num_keep's default of 4 and the one that begins a text


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while a fake Ollama lives; see `FakeOllama` for the meanings."""

    models: tuple[str, ...]
    window: int
    trained: int
    gpu: float
    cloud: bool
    dimensions: int
    version: str

    def remote(self, model: str) -> dict[str, str]:
        """The fields that betray a model which runs elsewhere."""
        return {"remote_model": model.partition(":")[0], "remote_host": "https://ollama.com:443"} if self.cloud else {}


class OllamaAnswer:
    """The answer to one request for a model, in NDJSON or as one JSON object."""

    head = Head(200, (("Content-Type", "application/x-ndjson"),))
    headers: Mapping[str, str] = MappingProxyType({})
    idle = b"\n"

    def __init__(self, call: Call, facts: Facts, load: Callable[[str, int], Awaitable[None]]) -> None:
        request = call.body
        self._facts = facts
        self._load = load
        self._name = str(request.get("model") or "")
        self._chats = call.path == "/api/chat"
        self.embeds = call.path == "/api/embed"
        self.model = tagged(self._name)
        options = request.get("options")
        self.options: Mapping[str, Any] = options if isinstance(options, Mapping) else {}
        self.streams = request.get("stream") is not False and not self.embeds
        self.truncates = request.get("truncate") is not False
        limit = integer(self.options.get("num_predict"))
        self.limit = None if limit is None or limit < 0 else limit
        self.roles = roles_of(request.get("messages"))
        self.texts = texts_of(request.get("messages")) if self._chats else _inputs(request, embeds=self.embeds)
        self.prompt = self.texts[-1] if self.texts else ""
        self._began = self._loaded = self._first = time.monotonic_ns()
        self._dimensions = max(integer(request.get("dimensions")) or 0, 0) or facts.dimensions

    @property
    def window(self) -> int:
        """The window that the request gets."""
        asked = integer(self.options.get("num_ctx"))
        return min(max(asked, _LEAST), self._facts.trained) if asked else self._facts.window

    @property
    def overflows(self) -> bool:
        """The prompt is longer than the window."""
        longest = max(map(tokens, self.texts), default=0) if self.embeds else tokens(*self.texts)
        return longest > self.window

    @property
    def count(self) -> int:
        """The tokens of the prompt, after the silent cuts that the real server makes."""
        if self.embeds:
            return sum(min(tokens(text), self.window) for text in self.texts)
        return _fitted(self.roles, self.texts, self.window)

    async def ready(self) -> None:
        """The model is in memory with the window of this request."""
        await self._load(self.model, self.window)
        self._loaded = self._first = time.monotonic_ns()

    def frames(self, said: Say) -> list[bytes]:
        """A line for each thought, text and tool call."""
        self._first = time.monotonic_ns()
        calls = [_called(one, at) for at, one in enumerate(said.tool_calls)]
        pieces = [
            *(self._piece("", thinking=thought) for thought in said.reasoning),
            *(self._piece(text) for text in said.texts),
            *(self._piece("", tool_calls=[call]) for call in calls),
        ]
        return [self._line({**piece, "done": False}) for piece in pieces]

    def final(self, said: Say) -> list[bytes]:
        """The line with `done: true` and the figures."""
        return [self._line({**self._piece(""), **self._end(said)})]

    def whole(self, said: Say, *, done: bool = True) -> bytes:
        """One object. Unfinished it is a 200 with `done: false` and no figures: ollama/ollama#13239."""
        if self.embeds:
            return self._embeddings(done=done)
        self._first = min(time.monotonic_ns(), self._loaded + 1 + round(said.first * 10**9))
        thinking = {"thinking": "".join(said.reasoning)} if said.reasoning else {}
        calls = [_called(one, at) for at, one in enumerate(said.tool_calls)]
        called = {"tool_calls": calls} if calls else {}
        piece = self._piece("".join(said.texts), **thinking, **called)
        return self._line({**piece, **(self._end(said) if done else {"done": False})}).rstrip(b"\n")

    def error_frame(self, detail: str | Mapping[str, Any]) -> bytes:
        """A line with the error alone."""
        return dump({"error": detail} if isinstance(detail, str) else detail) + b"\n"

    def error_body(self, status: int, message: str) -> bytes:
        """The error alone: Ollama has no other fields."""
        del status
        return dump({"error": message})

    def loaded(self, reason: str) -> dict[str, Any]:
        """What a request without a prompt gets: no figures, and no stream either."""
        return {**self._head(), **self._piece(""), **self._done(reason)}

    def _head(self) -> dict[str, Any]:
        return {"model": self._name, **self._facts.remote(self.model), "created_at": timestamp(time.time_ns())}

    def _line(self, fields: Mapping[str, Any]) -> bytes:
        return dump({**self._head(), **fields}) + b"\n"

    def _piece(self, text: str, **more: Any) -> dict[str, Any]:
        if self._chats:
            return {"message": {"role": "assistant", "content": text, **more}}
        return {"response": text, **more}

    def _end(self, said: Say) -> dict[str, Any]:
        now, used = time.monotonic_ns(), said.usage
        figures = {
            "total_duration": now - self._began,
            "load_duration": self._loaded - self._began,
            "prompt_eval_count": self.count if used is None else used.input_tokens,
            "prompt_eval_duration": self._first - self._loaded,
            "eval_count": said.pieces if used is None else used.output_tokens,
            "eval_duration": now - self._first,
        }
        context = {} if self._chats else {"context": list(range(1, 4))}
        return {**self._done(said.finish), **context, **_present(figures)}

    def _done(self, reason: str) -> dict[str, Any]:
        if self._chats:
            return {"done_reason": reason, "done": True}
        return {"done": True, "done_reason": reason}

    def _embeddings(self, *, done: bool) -> bytes:
        vectors = [vector(text, self._dimensions) for text in self.texts]
        figures = {
            "total_duration": time.monotonic_ns() - self._began,
            "load_duration": self._loaded - self._began,
            "prompt_eval_count": self.count,
        }
        return dump({"model": self._name, "embeddings": vectors if done else [], **_present(figures)})


def dump(value: object) -> bytes:
    """JSON as Go writes it: without blanks, UTF-8 as it is, and what is special in HTML escaped."""
    return encode(value).decode().translate(_ESCAPES).encode()


def tagged(model: str) -> str:
    """The full name of a model: `latest` is what Ollama adds to one without a tag."""
    return model if ":" in model else f"{model}:latest"


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with up to nine digits, as Go writes it."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    digits = f".{fraction:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + digits + "Z"


def described(model: str, facts: Facts) -> dict[str, Any]:
    """A model as `/api/tags` lists it."""
    return {
        **_described(model),
        **facts.remote(model),
        "modified_at": "2026-01-01T00:00:00Z",
        "details": {**_DETAILS, "context_length": facts.trained, "embedding_length": facts.dimensions},
        "capabilities": _CAPABILITIES,
    }


def running(model: str, window: int, facts: Facts) -> dict[str, Any]:
    """A model as `/api/ps` lists it while it is in memory; it stays for five minutes."""
    one = _described(model)
    return {
        **one,
        "expires_at": timestamp(time.time_ns() + 300 * 10**9),
        "size_vram": round(one["size"] * facts.gpu),
        "context_length": window,
    }


def shown(model: str, facts: Facts) -> dict[str, Any]:
    """A model as `/api/show` tells of it."""
    return {
        "modelfile": f"FROM {model}\n",
        "template": "{{ .Prompt }}",
        "details": _DETAILS,
        "model_info": {
            "general.architecture": "llama",
            "general.parameter_count": 3_212_749_888,
            "llama.attention.head_count": 24,
            "llama.attention.head_count_kv": 8,
            "llama.block_count": 28,
            "llama.context_length": facts.trained,
            "llama.embedding_length": facts.dimensions,
            "tokenizer.ggml.tokens": None,
        },
        "capabilities": _CAPABILITIES,
        "modified_at": "2026-01-01T00:00:00Z",
        **facts.remote(model),
    }


def _described(model: str) -> dict[str, Any]:
    digest = hashlib.sha256(model.encode()).hexdigest()
    return {"name": model, "model": model, "size": 2_019_393_189, "digest": digest, "details": _DETAILS}


_CAPABILITIES = ["completion", "tools", "thinking", "embedding"]
_DETAILS: dict[str, Any] = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "3.2B",
    "quantization_level": "Q4_K_M",
}


def _inputs(request: Mapping[str, Any], *, embeds: bool) -> list[str]:
    if not embeds:
        return [text for text in (request.get("system"), request.get("prompt")) if isinstance(text, str) and text]
    given = request.get("input") or []
    return [given] if isinstance(given, str) else [str(one) for one in given] if isinstance(given, list) else []


def _called(call: ToolCall, index: int) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": call.arguments}
    return {"id": call.id or f"call_{index:08d}", "function": function}


def _present(figures: Mapping[str, int | None]) -> dict[str, int]:
    return {name: figure for name, figure in figures.items() if figure}


def _fitted(roles: Sequence[str], texts: Sequence[str], window: int) -> int:
    """The tokens that are left of a conversation after the real server's cuts.

    Whole messages go from the front, never one of the system and never the last. If that is not enough, half of the
    window goes, and the system's words with it: 4096 leaves 2051 (ollama/ollama#17427).
    """
    kept = list(zip(roles, texts, strict=False)) or [("user", text) for text in texts]
    while tokens(*(text for _, text in kept)) > window:
        oldest = next((at for at, (role, _) in enumerate(kept[:-1]) if role != "system"), None)
        if oldest is None:
            return window - max((window - _KEPT) // 2, 1)
        del kept[oldest]
    return tokens(*(text for _, text in kept))
