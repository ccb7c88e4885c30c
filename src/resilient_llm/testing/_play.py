"""What a step means without a wire: the moves of one attempt at a `FakeBackend`.

What a server's bytes become by way of HTTP and decoder, a step becomes here at once: a torn connection is a
`StreamInterrupted`, an end without its last event a `Truncated`, an answer without a word an `EmptyReply`.

Rules of the file: pure, it neither waits nor counts; what raises holds no text in its frames but in objects whose
`repr` hides it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from resilient_llm._errors import StreamInterrupted, Truncated
from resilient_llm._replies import Degraded, Done, ReasoningDelta, TextDelta, Usage, Vectors
from resilient_llm._types import ChatRequest, Request, ToolCall
from resilient_llm.testing._failures import Fail, Hang
from resilient_llm.testing._model import tokens, vector
from resilient_llm.testing._script import Wait
from resilient_llm.testing._steps import Broken, Echo, Say
from resilient_llm.wire import WireEvent
from resilient_llm.wire._openai_finish import FINISH, nothing_said

Played = Say | Echo | Broken | Hang | Fail
PLAYED: Final = (Say, Echo, Broken, Hang, Fail)
Batch = tuple[WireEvent, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """The attempt is open: what came before belongs to entering it, what follows to iterating over it."""


Move = Wait | Opened | Batch


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be answered.

    Attributes:
        request: of the caller.
        streams: in pieces; never for embeddings.
        model: that answers.
        dimensions: of its vectors.
    """

    request: Request
    streams: bool
    model: str
    dimensions: int

    def echo(self) -> Say:
        """The answer of a script without steps."""
        request = self.request
        if isinstance(request, ChatRequest):
            return Echo().said(request.messages[-1].content, request.max_tokens)
        return Say()

    def done(self, said: Say) -> Done:
        """The event that says that the answer is whole.

        Raises:
            EmptyReply: nothing was said.
            ContentFiltered: nothing was said because of `finish="content_filter"`.
        """
        finish = FINISH.get(said.finish, "other")
        if not _events(said):
            limit, usage = getattr(self.request, "max_tokens", None), self.usage(said)
            empty = nothing_said(said.finish, finish, usage, limit=limit)
            empty.usage = usage
            raise empty
        degraded: tuple[Degraded, ...] = ()
        if finish == "length":
            spoken = any(said.texts) or said.tool_calls
            degraded = ("cut_at_length",) if spoken else ("cut_at_length", "thinking_ate_budget")
        if said.tool_calls and finish == "stop":
            finish = "tool_calls"
        return Done(finish, self.usage(said), said.finish, self.model, degraded=degraded)

    def usage(self, said: Say) -> Usage:
        """What the step says, else what the fakes count."""
        request = self.request
        if isinstance(request, ChatRequest):
            counted = Usage(
                tokens(*(message.content for message in request.messages)),
                said.pieces,
                reasoning_tokens=len(said.reasoning) or None,
            )
        else:
            counted = Usage(sum(map(tokens, request.texts)))
        return said.usage or counted

    def whole(self, said: Say) -> Batch:
        """The whole answer at once; where no stream was asked for, its text in one piece."""
        request = self.request
        if not isinstance(request, ChatRequest):
            vectors = [vector(text, self.dimensions) for text in request.texts]
            return (Vectors(vectors, self.model, self.usage(said)),)
        done = self.done(said)
        if not self.streams:
            said = Say(("".join(said.texts),), ("".join(said.reasoning),), said.tool_calls)
        return (*_events(said), done)


def moves(step: Played, asked: Asked) -> Iterator[Move]:
    """The moves of an attempt that is answered with this step.

    Raises:
        LLMError: at the move at which the attempt fails.
    """
    match step:
        case Say():
            return _answered(step, asked)
        case Echo():
            return _answered(asked.echo(), asked)
        case Broken():
            return _broken(step, asked)
        case Hang():
            return _hanging(step)
        case Fail():
            return _failing(step, asked)


def _answered(said: Say, asked: Asked) -> Iterator[Move]:
    if asked.streams and not said.joined:
        yield from _tokens(said)
        yield (asked.done(said),)
    else:
        yield Wait(said.first if asked.streams else said.seconds)
        yield Opened()
        yield asked.whole(said)


def _broken(step: Broken, asked: Asked) -> Iterator[Move]:
    if asked.streams:
        yield from _tokens(step.said)
    elif step.how == "stall":
        yield Wait()
    else:
        yield Opened()
    match step.how:
        case "stall":
            yield Wait()
        case "cut":
            raise StreamInterrupted("the connection broke in mid-answer")
        case "ends":
            raise Truncated("the answer ended without the server saying that it was done")
        case _:
            yield (asked.done(step.said),) if asked.streams else asked.whole(step.said)
            yield Wait(step.seconds)


def _hanging(step: Hang) -> Iterator[Move]:
    if step.after_headers:
        yield Opened()
    yield Wait()


def _failing(step: Fail, asked: Asked) -> Iterator[Move]:
    if asked.streams and step.said.texts:
        yield from _tokens(step.said)
    raise copy.copy(step.error)


def _tokens(said: Say) -> Iterator[Move]:
    yield Wait(said.first)
    yield Opened()
    for at, event in enumerate(_events(said)):
        yield Wait(said.gap if at else 0.0)
        yield (event,)


def _events(said: Say) -> list[WireEvent]:
    """An event for each thought, text and tool call. A decoder makes none of an empty text, so there is none here."""
    thoughts = [ReasoningDelta(text) for text in said.reasoning if text]
    texts = [TextDelta(text) for text in said.texts if text]
    calls = [ToolCall(call.name, call.arguments, call.id or f"call_{at}") for at, call in enumerate(said.tool_calls)]
    return [*thoughts, *texts, *calls]
