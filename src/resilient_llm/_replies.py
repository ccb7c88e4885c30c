"""What comes out: stream events, and replies that say who gave them, after what, how long it took.

Rules of the file: a `repr` gives sizes, never text. Times are seconds on the client's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from resilient_llm._errors import LLMError
from resilient_llm._records import record
from resilient_llm._types import Message, ToolCall

T = TypeVar("T")
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "other"]
AttemptKind = Literal["first", "retry", "fallback", "probe"]
Degraded = Literal[
    "cut_at_length", "prompt_truncated", "context_shifted", "cpu_spill", "reloaded", "field_dropped",
    "thinking_ate_budget", "repaired", "restarted",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the server counted them; `None` where it did not say.

    Attributes:
        cached_tokens: the part of `input_tokens` that came from the server's prompt cache.
        reasoning_tokens: the part of `output_tokens` that was spent on reasoning.
        estimated: counted here, because the server did not.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        counts = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
        sums = {name: _sum(getattr(self, name), getattr(other, name)) for name in counts}
        return Usage(**sums, estimated=self.estimated or other.estimated)


def _sum(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


# Events are plain slots objects, not frozen ones: a frozen dataclass costs three times as much to make, and there
# is one per token.


@dataclass(slots=True, repr=False)
class TextDelta:
    """A piece of the answer."""

    text: str

    def __repr__(self) -> str:
        return f"TextDelta({len(self.text)} chars)"


@dataclass(slots=True, repr=False)
class ReasoningDelta:
    """A piece of what the model thinks before it answers."""

    text: str

    def __repr__(self) -> str:
        return f"ReasoningDelta({len(self.text)} chars)"


@dataclass(slots=True)
class Restarted:
    """Forget what came so far: the answer broke off (`error`) and begins anew, from `route`."""

    route: str
    error: LLMError


@dataclass(slots=True)
class Done:
    """The server said that it was done. Always the last event.

    Attributes:
        raw_finish_reason: the server's own word.
        model: the model as the server names it.
        load: seconds that the server spent on loading the model, as far as it says.
        server_queue: seconds in the server's own queue, as far as its figures tell.
        remote: the server handed the request on to another host.
        cause: what was last found in place of a model that had to be loaded anew.
        response_id: the server's id of the answer, by which its own logs and dashboards find it.
    """

    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=Usage)
    raw_finish_reason: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    degraded: tuple[Degraded, ...] = ()
    load: float | None = None
    server_queue: float | None = None
    remote: bool = False
    cause: str | None = None
    response_id: str | None = field(default=None, compare=False)


Event = TextDelta | ReasoningDelta | ToolCall | Restarted | Done


@dataclass(slots=True, repr=False)
class Vectors:
    """The one event of an embedding: a vector for each text, in the order of the texts."""

    vectors: list[list[float]]
    model: str | None = None
    usage: Usage = field(default_factory=Usage)

    def __repr__(self) -> str:
        return f"Vectors({len(self.vectors)})"


@record()
class Attempt:
    """One request on the wire.

    Attributes:
        number: from 1, over the whole call.
        kind: why it was made; `probe` is the one that a half-open breaker lets through.
        error: why it failed, or `None`.
        started: seconds after the call began.
        queue: seconds spent waiting for a slot.
        connect: seconds until connected; `None` on a connection that was already open.
        load: seconds until the model was in memory; `None` where that was not asked.
        first_token: seconds from sending to the first token; `None` if none came.
        total: seconds from `started` to its end, the queue included.
        usage: the tokens that its server counted, whether it answered or failed; it may have failed before it did.
    """

    route: str
    number: int
    kind: AttemptKind
    error: LLMError | None
    started: float
    queue: float
    connect: float | None
    load: float | None
    first_token: float | None
    total: float
    usage: Usage = Usage()


@record()
class Timings:
    """Where the time of a call went, in seconds.

    `failed + backoff + queue + connect + load + (first_token or 0) + stream == total`: what was lost on other attempts
    and waited between them, then the phases of the attempt that answered. `server_queue` is part of `first_token`, and
    `server_load` too: what the server says that it spent on having the model in memory; with a warm one some 10 ms.
    """

    total: float
    queue: float = 0.0
    load: float = 0.0
    server_queue: float | None = None
    first_token: float | None = None
    backoff: float = 0.0
    connect: float = 0.0
    failed: float = 0.0
    stream: float = 0.0
    server_load: float | None = None


@record()
class ServedBy:
    """What answered, as far as the server tells.

    Attributes:
        model: as the server names it, else as it was asked for.
        provider: such as `ollama`, `openai` or `compatible`.
        digest: of the model's files, and its `quantization`, such as `Q4_K_M` (Ollama).
        window: of the context, in tokens.
        seed: that was sent with the request; a repeat of an answer that ran in circles has the caller's plus one.
        fingerprint: of the server's configuration (OpenAI's `system_fingerprint`).
    """

    route: str
    model: str
    provider: str
    digest: str | None = None
    quantization: str | None = None
    window: int | None = None
    seed: int | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Space:
    """A vector space, of so many `dimensions`: only vectors of one space may be compared.

    Its `name` is what `Route(space=)` says, else the model.
    """

    name: str
    dimensions: int


@record(repr=False)
class ChatReply:
    """A whole answer.

    Attributes:
        text: the answer; empty if the model only called tools.
        reasoning: what it thought first, if the server shows it.
        tool_calls: the calls that it wants made. A call that was cut off by the token limit is not among them.
        finish_reason: why it ended; `length` is also in `degraded`.
        usage: the tokens of this answer; `spent` are those of all attempts.
        model: as the server names it.
        route: the name of the route that answered.
        served_by: what answered there.
        attempts: every attempt of the call, in order; the last one answered.
        timings: where the time went.
        degraded: in what way this is less than what was asked for: `cut_at_length` (by the limit of tokens),
            `thinking_ate_budget` (that limit was spent before a word of the answer), `prompt_truncated` and
            `context_shifted` (the server dropped a part of the prompt, or of the context while it wrote),
            `field_dropped` (something that was asked for was not sent, or in a weaker form), `reloaded` (the model was
            loaded anew in mid-call), `cpu_spill` (it is not wholly on the GPU), `repaired` (`parse` took
            the JSON out of a code fence), `restarted` (a stream began anew).
        request_id: the server's id of the request.
        private: a message of the call was; so is `message` then, because what it says comes from there.
    """

    text: str
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    model: str
    route: str
    served_by: ServedBy
    attempts: tuple[Attempt, ...]
    timings: Timings
    degraded: tuple[Degraded, ...] = ()
    request_id: str | None = None
    private: bool = False

    @property
    def message(self) -> Message:
        """The answer as a message, to be put into the history of the next call."""
        return Message(
            "assistant", self.text, reasoning=self.reasoning, tool_calls=self.tool_calls, route=self.route,
            private=self.private,
        )  # fmt: skip

    @property
    def spent(self) -> Usage:
        """The tokens of all attempts, those that failed among them, as far as their servers counted."""
        return sum((one.usage for one in self.attempts), Usage())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.text)} chars, {self.route}, {describe(self.attempts)})"


@record(repr=False)
class ParsedReply(ChatReply, Generic[T]):
    """A `ChatReply` whose text was parsed and validated into `output`."""

    output: T = None  # type: ignore[assignment]  # a field after defaults needs one; the client always gives it


@record(repr=False)
class EmbedReply:
    """Vectors, one for each text, in order. `space` says which other vectors they may be compared with.

    `usage` are the tokens of what answered, `spent` those of all attempts.
    """

    vectors: Sequence[Sequence[float]]
    model: str
    space: Space
    usage: Usage
    route: str
    attempts: tuple[Attempt, ...]

    @property
    def spent(self) -> Usage:
        """The tokens of all attempts, those that failed among them, as far as their servers counted."""
        return sum((one.usage for one in self.attempts), Usage())

    def __repr__(self) -> str:
        size = f"{len(self.vectors)} vector{'' if len(self.vectors) == 1 else 's'} of {self.space.dimensions}"
        return f"EmbedReply({size}, {self.route}, {describe(self.attempts)})"


def describe(attempts: Sequence[Attempt]) -> str:
    """`2 attempts: ollama:llama3.2 FirstTokenTimeout 8.0 s, ok 1.4 s`."""
    each = [
        f"ok {one.total:.1f} s" if one.error is None else f"{one.route} {type(one.error).__name__} {one.total:.1f} s"
        for one in attempts
    ]
    count = f"{len(attempts)} attempt{'' if len(attempts) == 1 else 's'}"
    return f"{count}: {', '.join(each)}" if each else count
