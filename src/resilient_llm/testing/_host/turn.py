"""The turn of one request at a slot: its prompt in batches, then its answer, token by token.

Rules of the file: each step asks first whether the request is over, so that a client which leaves frees the slot
between two batches and not at once; a fault strikes before the token that it names.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from resilient_llm._types import ToolCall
from resilient_llm.testing._host import lines
from resilient_llm.testing._host.faults import Fault
from resilient_llm.testing._host.job import Job
from resilient_llm.testing._steps import Echo

if TYPE_CHECKING:
    from resilient_llm.testing._host.runner import Runner

GUARD = 30  # times that a token may follow itself before Ollama breaks the answer off
WINDOWS = 10  # the most that is written where nobody sets a limit, and where somebody sets a larger one
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
OLD_SCHEMA = "invalid JSON schema in format"
# The words of llama.cpp's json_schema_to_grammar, as its server wraps them; not seen on a running Ollama
NO_SCHEMA = (
    '{{"error":{{"code":400,"message":"JSON schema conversion failed:\\nUnrecognized schema: {{\\"type\\":\\"{}\\"}}",'
    '"type":"invalid_request_error"}}}}'
)
BATCH = 512  # tokens of a prompt that are read at once


class Turn:
    """One request that has a slot.

    Attributes:
        job: the request.
        frozen: nothing more will happen by itself.
        stuck: if its client leaves, it waits for ever to hand on a token, and its slot with it.
    """

    def __init__(self, runner: Runner, job: Job) -> None:
        self._runner, self._world = runner, runner.world
        self.job = job
        self.frozen = self.stuck = False
        self._pieces: Iterator[lines.Piece] = iter(())
        self._said: list[lines.Piece] = []  # for an answer in one piece, or for the last line of one
        self._last, self._times = "", 0
        self._past = 0  # tokens in the slot
        self._fault: Fault | None = None  # what will go wrong with it

    def begin(self) -> None:
        """Reads the prompt; the answer follows."""
        truth = self.job.truth
        wrong = unusable(self.job.asked.format)
        if wrong is not None:
            self._refuse(wrong)
            return
        self._fault = self._world.fault("answer", truth)
        self._past = truth.kept
        self._read(truth.kept - truth.cached)

    def _refuse(self, kind: object) -> None:
        job, now = self.job, self._world.agenda.now
        if self._world.version.schemas:
            lines.refuse(job.exchange, now, 400, NO_SCHEMA.format(kind))
        else:
            if job.asked.streams:
                self._begin_body()
            lines.fail(job.exchange, now, OLD_SCHEMA)
            job.truth.outcome = "refused"
        self._runner.free(self)

    # -- the prompt

    def _read(self, left: int) -> None:
        if self._over():
            return
        if left <= 0:
            self.job.truth.prefill = self.job.lap(self._world.agenda.now)
            self._pieces = self._answer()
            self._next()
            return
        runner = self._runner
        given = runner.wants.num_batch
        batch = min(left, given if isinstance(given, int) and given > 0 else BATCH)
        seconds = batch / runner.pulled.prefill * runner.slowness()
        runner.later(seconds, lambda: self._read(left - batch))

    # -- the answer

    def _answer(self) -> Iterator[lines.Piece]:
        pulled, asked = self._runner.pulled, self.job.asked
        if asked.thinks is not False:
            yield from (("thinking", thought) for thought in pulled.thinks)
        last = asked.texts[-1] if asked.texts else ""
        said: Sequence[str | ToolCall] = Echo().said(last, None).texts if pulled.says is None else pulled.says(last)
        for piece in said:
            yield ("tool_calls", piece) if isinstance(piece, ToolCall) else ("content", piece)

    def _next(self) -> None:
        """The next token, or the end."""
        if self._over() or self._struck():
            return
        job = self.job
        if job.asked.kind == "embed":
            body = lines.embedded(job, self._world.agenda.now, self._world.version)
            lines.respond(job.exchange, self._world.agenda.now, 200, body, "complete")
            self._runner.free(self)
            return
        most = WINDOWS * self._runner.wants.num_ctx
        limit = most if job.asked.limit is None else min(job.asked.limit, most)
        if job.truth.output >= limit or not self._room():
            self._finish("length")
            return
        piece = ("content", "GGGG") if self._runner.garbled else next(self._pieces, None)
        if piece is None:
            self._finish("stop")
        else:
            self._runner.later(self._step(), lambda: self._write(piece))

    def _step(self) -> float:
        """Seconds of one token."""
        runner = self._runner
        pulled = runner.pulled
        alone = (1 + self._past / pulled.half_at) / pulled.decode
        return alone * runner.slowness() * (1 + pulled.drift * runner.hours())

    def _room(self) -> bool:
        """There is room for one more token; made by throwing away half of what is there, where that is allowed."""
        runner, asked = self._runner, self.job.asked
        window = runner.wants.num_ctx
        if self._past < window:
            return True
        if not runner.wants.shift or runner.pulled.template == "mlx" or any(asked.images):
            return False
        keep = min(max(asked.num_keep, 0) + runner.pulled.adds_bos, window - 1)
        self._past -= max((self._past - keep) // 2, 1)
        self.job.truth.shifts += 1
        return True

    def _write(self, piece: lines.Piece) -> None:
        if self._over():
            return
        job, now = self.job, self._world.agenda.now
        job.truth.decode = now - job.since
        job.truth.output += 1
        self._past += 1
        if self._repeats(piece):
            self.end_silently()
            return
        held = piece[0] == "tool_calls" and self._runner.pulled.template == "native"
        if job.asked.streams and not held:
            self._begin_body()
            job.exchange.put(lines.line(job, now, piece))
        else:
            self._said.append(piece)
        self._next()

    def _repeats(self, piece: lines.Piece) -> bool:
        """The guard of Ollama breaks it off here. What it renders natively has none."""
        text = piece[1].strip() if isinstance(piece[1], str) else ""
        self._times = self._times + 1 if text == self._last else 0
        self._last = text
        return self._times > GUARD and self._runner.pulled.template == "rendered"

    def _begin_body(self) -> None:
        exchange = self.job.exchange
        if not exchange.begun:
            exchange.truth.status = 200
            exchange.put(lines.NDJSON)

    # -- the end

    def _finish(self, reason: str) -> None:
        job, now, version = self.job, self._world.agenda.now, self._world.version
        if job.asked.streams:
            self._begin_body()
            job.exchange.put(lines.final(job, now, self._said, reason, version))
            job.exchange.end(now, "complete")
        else:
            lines.respond(job.exchange, now, 200, lines.whole(job, now, self._said, reason, version), "complete")
        self._runner.free(self)

    def end_silently(self) -> None:
        """The answer ends, and nobody says that it is whole."""
        job, now = self.job, self._world.agenda.now
        job.truth.error = "ended without done"
        if job.asked.streams:
            self._begin_body()
            job.exchange.end(now, "broken")
        else:
            lines.respond(
                job.exchange, now, 200, lines.whole(job, now, self._said, None, self._world.version), "broken"
            )
        self._runner.free(self)

    def break_off(self, text: str, status: int = 500) -> None:
        """An error instead of the rest."""
        lines.fail(self.job.exchange, self._world.agenda.now, text, status)
        self._runner.free(self)

    def _over(self) -> bool:
        if not (self.job.exchange.over or self._runner.dead):
            return False
        if not self.stuck:
            self._runner.free(self)
        return True

    # -- what goes wrong

    def _struck(self) -> bool:
        """The fault of the request strikes here, and was the end of it."""
        fault = self._fault
        if fault is None or self.job.truth.output < fault.after:
            return False
        self._fault, self.job.truth.fault = None, fault.name
        return STRIKES[fault.name](self)

    def say(self, kind: str, *texts: str) -> bool:
        """From here on it writes nothing but these, again and again."""
        self._pieces = itertools.cycle([(kind, text) for text in texts])
        return False

    def freeze(self) -> bool:
        """Nothing happens any more, until the client leaves."""
        self.frozen = True
        return True

    def stick(self) -> bool:
        """Nothing happens yet. An answer in one piece is made to its end, whoever listens."""
        self.stuck = self.job.asked.streams
        return False

    def garble(self) -> bool:
        """Its process writes nothing of use any more."""
        self._runner.garbled = True
        return False

    def crash(self) -> bool:
        """Its process dies."""
        self._runner.die()
        return True


def unusable(schema: object) -> object:
    """The type in a JSON schema that is none."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return kind if isinstance(kind, str) and kind not in TYPES else None


def _ends(turn: Turn) -> bool:
    turn.end_silently()
    return True


def _breaks(text: str, status: int = 500) -> Callable[[Turn], bool]:
    def strike(turn: Turn) -> bool:
        turn.break_off(text, status)
        return True

    return strike


UNREADABLE: Final = "error parsing tool call: raw='{\"name\": ', err=unexpected end of JSON input"
STRIKES: Final[Mapping[str, Callable[[Turn], bool]]] = {
    "stalls": Turn.freeze,
    "loses its slot": Turn.stick,
    "error line": _breaks("an error was encountered while running the model: CUDA error: an illegal memory access"),
    "ends": _ends,
    "repeats": lambda turn: turn.say("content", " the"),
    "blanks": lambda turn: turn.say("content", "\n"),
    "gibberish": Turn.garble,
    "only thinks": lambda turn: turn.say("thinking", " hm,", " well,"),
    "crashes": Turn.crash,
    "tool call unreadable": _breaks(UNREADABLE),
    "NaN": _breaks("do embedding request: embedding contains NaN or Inf values", 400),
}
