"""How the model's Ollama writes what it answers: lines, figures, errors.

Rules of the file: pure; field for field and in the order of ollama/ollama's `api/types.go`; a figure that is zero is
left out; durations are nanoseconds of virtual time, and instants count from the first second of 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from resilient_llm._types import ToolCall
from resilient_llm.testing._host.asked import Asked
from resilient_llm.testing._host.facts import Version
from resilient_llm.testing._host.job import Exchange, Job
from resilient_llm.testing._host.truth import Outcome
from resilient_llm.testing._model import vector
from resilient_llm.testing._ollama_wire import dump, timestamp
from resilient_llm.testing._script import JSON, Chunk, Head

EPOCH: Final = 1_767_225_600  # seconds since 1970 at which virtual time is 0
FOR_EVER: Final = 292 * 365 * 86_400  # seconds; Go's longest duration, which a negative keep_alive becomes
NDJSON: Final = Head(200, (("Content-Type", "application/x-ndjson"),))
_AROUND: Final = {
    "chat": ('"message":{"role":"assistant","content":', '},"done":false}\n'),
    "generate": ('"response":', ',"done":false}\n'),
}
Piece = tuple[str, Any]  # content, thinking or tool_calls, and what


def at(seconds: float) -> str:
    """An instant of virtual time, as Go writes it."""
    return timestamp(EPOCH * 10**9 + round(seconds * 10**9))


def respond(exchange: Exchange, now: float, status: int, body: Mapping[str, Any], outcome: Outcome) -> None:
    """The whole answer in one piece."""
    raw(exchange, now, status, dump(body), outcome)


def raw(exchange: Exchange, now: float, status: int, data: bytes, outcome: Outcome, kind: str = JSON[1]) -> None:
    """The whole answer in these bytes."""
    exchange.truth.status = status
    exchange.put(Head(status, (("Content-Type", kind), ("Content-Length", str(len(data))))), Chunk(data))
    exchange.end(now, outcome)


def refuse(exchange: Exchange, now: float, status: int, text: str) -> None:
    """The caller's mistake, or no room."""
    exchange.truth.error = text
    respond(exchange, now, status, {"error": text}, "refused")


def fail(exchange: Exchange, now: float, text: str, status: int = 500) -> None:
    """The server's fault: a line if the answer has begun, else a status."""
    if exchange.begun:
        exchange.put(Chunk(dump({"error": text}) + b"\n"))
        exchange.end(now, "broken", text)
    else:
        exchange.truth.error = text
        respond(exchange, now, status, {"error": text}, "failed")


def loaded(asked: Asked, now: float, reason: str) -> dict[str, Any]:
    """What a request without a prompt gets: no figures."""
    if asked.kind == "embed":
        return {"model": asked.named, "embeddings": []}
    return {**_head(asked, now), **_piece(asked, []), **_done(asked, reason)}


def line(job: Job, now: float, piece: Piece) -> Chunk:
    """One token of a stream. A text is written by hand: there is one for each token of a day."""
    asked = job.asked
    if piece[0] == "content":
        before, after = _AROUND[asked.kind]
        text = dump(piece[1]).decode()
        return Chunk(f'{{"model":{dump(asked.named).decode()},"created_at":"{at(now)}",{before}{text}{after}'.encode())
    return Chunk(dump({**_head(asked, now), **_piece(asked, [piece]), "done": False}) + b"\n")


def final(job: Job, now: float, held: list[Piece], reason: str, version: Version) -> Chunk:
    """The line with `done: true` and the figures; the tool calls of a native template come with it."""
    asked = job.asked
    end = {**_done(asked, reason), **_context(job), **figures(job, now, version)}
    return Chunk(dump({**_head(asked, now), **_piece(asked, held), **end}) + b"\n")


def whole(job: Job, now: float, pieces: list[Piece], reason: str | None, version: Version) -> dict[str, Any]:
    """The answer in one object. Without a reason it is one that nobody finished: no figures, and `done` is false."""
    asked = job.asked
    end: dict[str, Any] = {"done": False}
    if reason is not None:
        end = {**_done(asked, reason), **_context(job), **figures(job, now, version)}
    return {**_head(asked, now), **_piece(asked, pieces), **end}


def embedded(job: Job, now: float, version: Version) -> dict[str, Any]:
    """The vectors, which depend on the texts alone."""
    asked, told = job.asked, figures(job, now, version)
    vectors = [vector(text, asked.pulled.dimensions) for text in asked.texts]
    names = ("total_duration", "load_duration", "prompt_eval_count")
    return {"model": asked.named, "embeddings": vectors, **{name: told[name] for name in names if name in told}}


def figures(job: Job, now: float, version: Version) -> dict[str, int]:
    """The metrics: what the total has and none of the others is the wait for a slot, and some overhead."""
    truth = job.truth
    given = {
        "total_duration": _nano(now - truth.began),
        "load_duration": _nano(truth.pending + truth.load + truth.ping),
        "prompt_eval_count": truth.kept if version.cached_counts else truth.kept - truth.cached,
        "prompt_eval_duration": _nano(truth.prefill),
        "eval_count": truth.output,
        "eval_duration": _nano(truth.decode),
    }
    return {name: figure for name, figure in given.items() if figure}


def _nano(seconds: float) -> int:
    return round(seconds * 10**9)


def _head(asked: Asked, now: float) -> dict[str, Any]:
    return {"model": asked.named, "created_at": at(now)}


def _piece(asked: Asked, pieces: list[Piece]) -> dict[str, Any]:
    texts = {kind: "".join(what for one, what in pieces if one == kind) for kind in ("content", "thinking")}
    calls = [_called(what) for kind, what in pieces if kind == "tool_calls"]
    more = {name: what for name, what in (("thinking", texts["thinking"]), ("tool_calls", calls)) if what}
    if asked.kind == "chat":
        return {"message": {"role": "assistant", "content": texts["content"], **more}}
    return {"response": texts["content"], **more}


def _called(call: ToolCall) -> dict[str, Any]:
    known_as = {"id": call.id} if call.id else {}
    return {**known_as, "function": {"name": call.name, "arguments": call.arguments}}


def _done(asked: Asked, reason: str) -> dict[str, Any]:
    if asked.kind == "chat":
        return {"done_reason": reason, "done": True}
    return {"done": True, "done_reason": reason}


def _context(job: Job) -> dict[str, Any]:
    """The tokens of prompt and answer, of which a completion tells the numbers."""
    if job.asked.kind == "chat":
        return {}
    return {"context": list(range(1, job.truth.kept + job.truth.output + 1))}
