"""The corpus: answers of servers, byte for byte, and what each has to become. See `cases/README.md` for the format.

Rules of the file: a case that is written wrongly is an error when it is read; nothing is expected that a case does not
say in so many words.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient_llm import _errors as e
from resilient_llm._replies import Done, ReasoningDelta, TextDelta
from resilient_llm._types import ChatRequest, Message, ToolCall
from resilient_llm.wire import Codec, WireEvent
from resilient_llm.wire.ollama import OllamaCodec
from resilient_llm.wire.openai import OpenAICodec

HERE = Path(__file__).parent
WIRES: Mapping[str, Codec] = {"openai": OpenAICodec("m"), "ollama": OllamaCodec("m")}
ANSWER = ("text", "reasoning", "calls", "finish", "usage", "degraded", "model")
KEYS = {"name", "source", "recorded", "wire", "status", "headers", "body", "bytes", "file", "max_tokens", "is", "has"}


@dataclass(frozen=True, slots=True)
class Case:
    """One answer and its meaning.

    Attributes:
        server: whose answer it is.
        name: what it is an example of.
        source: where its shape is from.
        recorded: these bytes were sent by the real server; else they were written after the source.
        wire: whose language it is in.
        status: of the HTTP answer.
        headers: the ones that say something.
        body: the bytes.
        max_tokens: of the request.
        error: what it has to become, as `told` puts it; `None` for an answer.
        has: more facts: attributes of the error, or what the answer consists of.
    """

    server: str
    name: str
    source: str
    recorded: bool
    wire: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    max_tokens: int | None
    error: str | None
    has: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """How a test calls it."""
        return f"{self.server}: {self.name}"

    def outcome(self, pieces: Iterable[bytes] | None = None) -> dict[str, Any] | e.LLMError:
        """What our code makes of it, in these pieces or in one: the error, or the parts of the answer."""
        codec = WIRES[self.wire]
        if self.status != 200:
            return codec.error(self.status, self.headers, self.body)
        request = ChatRequest((Message("user", "hi"),), max_tokens=self.max_tokens)
        decoder = codec.decoder(request, stream=True)
        events: list[WireEvent] = []
        try:
            for piece in (self.body,) if pieces is None else pieces:
                events += decoder.feed(piece)
            events += decoder.close()
        except e.LLMError as error:
            return error
        return answer(events)


def answer(events: list[WireEvent]) -> dict[str, Any]:
    """An answer in the words of a case."""
    end = events[-1]
    assert isinstance(end, Done)
    assert sum(isinstance(event, Done) for event in events) == 1
    calls = [event for event in events if isinstance(event, ToolCall)]
    usage = end.usage
    counts = {
        "in": usage.input_tokens, "out": usage.output_tokens,
        "cached": usage.cached_tokens, "reasoning": usage.reasoning_tokens,
    }  # fmt: skip
    return {
        "text": "".join(event.text for event in events if isinstance(event, TextDelta)),
        "reasoning": "".join(event.text for event in events if isinstance(event, ReasoningDelta)),
        "calls": [f"{call.name} {json.dumps(call.arguments)} {call.id}" for call in calls],
        "finish": f"{end.finish_reason} ({end.raw_finish_reason})",
        "usage": {name: count for name, count in counts.items() if count is not None},
        "degraded": list(end.degraded),
        "model": end.model,
    }


def told(error: e.LLMError) -> str:
    """An error and its facts, as the cases write them: `RateLimited: nobody, retry, falls back`."""
    facts = [error.fault or "nobody", *(["retry"] if error.retryable else []), *(["falls back"] * error.falls_back)]
    return f"{type(error).__name__}: {', '.join(facts)}"


def _case(server: str, wire: str, raw: dict[str, Any]) -> Case:
    """One case as it stands in its file."""
    where = f"{server}: {raw.get('name')}"
    unknown = set(raw) - KEYS - set(ANSWER)
    bodies = [key for key in ("body", "bytes", "file") if key in raw]
    assert not unknown, f"{where}: there is no {unknown}"
    assert len(bodies) == 1, f"{where}: give one of body, bytes and file"
    assert ("is" in raw) != any(key in raw for key in ANSWER), f"{where}: an error or an answer"
    if "file" in raw:
        body = (HERE / "recorded" / raw["file"]).read_bytes()
    else:
        body = raw["body"].encode() if "body" in raw else raw["bytes"].encode("latin-1")
    empty = {"text": "", "reasoning": "", "calls": [], "usage": {}, "degraded": []}
    has = raw.get("has", {}) if "is" in raw else {**empty, **{key: raw[key] for key in ANSWER if key in raw}}
    return Case(
        server, raw["name"], raw["source"], raw.get("recorded", False), raw.get("wire", wire), raw.get("status", 200),
        raw.get("headers", {}), body, raw.get("max_tokens"), raw.get("is"), has,
    )  # fmt: skip


def load() -> list[Case]:
    """All cases, by server and then in the order of their file."""
    cases: list[Case] = []
    for path in sorted((HERE / "cases").glob("*.toml")):
        page = tomllib.loads(path.read_text(encoding="utf-8"))
        cases += [_case(page["server"], page.get("wire", "openai"), raw) for raw in page["case"]]
    return cases


CASES = load()
