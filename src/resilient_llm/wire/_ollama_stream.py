"""The answer of `/api/chat`, from bytes to events: a line of JSON for each token, or one for all of them.

It exists because an answer that ends is not an answer that is complete: when its runner dies, repeats itself or has
used its window up, Ollama may just stop, or say `done: false` under a 200 (ollama/ollama#13239, #10015). Rules of the
file: a line with `done: true` completes an answer and nothing else does, no reason and no end of the body; an `error`
is looked for first, on every line; what follows the last line is not read. The path of a plain piece of text is kept
short, there is one per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import from_json

from resilient_llm._errors import EmptyReply, Malformed, OutputInvalid, Truncated
from resilient_llm._replies import Degraded, Done, FinishReason, ReasoningDelta, TextDelta, Usage
from resilient_llm._types import ToolCall
from resilient_llm.wire import WireEvent
from resilient_llm.wire._checks import checked, counts, finite, is_name, name_in, read_once, spent, unreadable
from resilient_llm.wire._frames import Lines
from resilient_llm.wire._ollama_errors import in_band
from resilient_llm.wire._shown import shown
from resilient_llm.wire._thinking import Thinking

_FINISH: Mapping[str, FinishReason] = {"stop": "stop", "": "stop", "length": "length"}  # "": ollama/ollama#2996
_UNASKED = ("load", "unload")  # what a request without messages is answered with
_COUNTS = {
    "prompt_eval_count": "input_tokens",
    "eval_count": "output_tokens",
    "prompt_eval_cached_count": "cached_tokens",  # since September 2026
}
_WORK = ("load_duration", "prompt_eval_duration", "eval_duration")
_LONGEST = 2**63  # nanoseconds: Go's durations
Judge = Callable[[Done], tuple[Degraded, ...]]


class ChatDecoder:
    """Decodes one answer; see `wire.Decoder`. `finishing` is true from the last line on: nothing follows it.

    Args:
        constrained: a schema was sent. A model that thinks is then run twice, and the figures are those of the second.
        degraded: what the request already lost on its way to the server.
        limit: the tokens that the answer may have, as the request says.
        judge: is told the last event, and says in what else the answer is less than what was asked for.
    """

    __slots__ = (
        "_calls",
        "_constrained",
        "_degraded",
        "_judge",
        "_limit",
        "_lines",
        "_model",
        "_over",
        "_reason",
        "_remote",
        "_said",
        "_thinking",
        "_thought",
        "_usual",
        "finishing",
    )

    def __init__(
        self,
        *,
        constrained: bool = False,
        degraded: tuple[Degraded, ...] = (),
        limit: int | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.finishing = False
        self._limit = limit
        self._lines = Lines()
        self._constrained = constrained
        self._degraded = degraded
        self._judge = judge
        self._calls = 0
        self._model: str | None = None
        self._reason = ""
        self._remote = False
        self._said = False
        self._thinking = Thinking()
        self._thought = False
        self._usual = False  # the next line may be nothing but text
        self._over = False

    def feed(self, data: bytes) -> list[WireEvent]:
        """The events that are complete with these bytes.

        Raises:
            LLMError: the server reported an error, or its bytes are not the protocol. Text that came with the same
                bytes is lost with it.
        """
        events: list[WireEvent] = []
        if not self._over:
            for line in self._lines.feed(data):
                self._line(line, events)
        return events

    def close(self) -> list[WireEvent]:
        """The last events: an answer in one piece has no line end.

        Raises:
            Truncated: the body ended without `done: true`.
        """
        events: list[WireEvent] = []
        if not self._over:
            for line in self._lines.close():
                self._line(line, events, last=True)
        if not self._over:
            gave = f", though with done_reason {self._reason!r:.40}" if self._reason else ""
            raise Truncated(f"the answer ended without done: true{gave}")
        return events

    def _line(self, line: bytes, events: list[WireEvent], *, last: bool = False) -> None:
        if self._over:
            return None
        try:
            chunk = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            raise unreadable(line, error, last=last) from None
        text = _plain(chunk) if self._usual else None
        if text is None:
            calls = self._calls
            self._chunk(chunk, events)
            self._usual = self._model is not None and self._thinking.over  # the first lines tell more than text
            return read_once(line) if self._calls > calls else None
        self._said = True
        return events.append(TextDelta(text))

    def _chunk(self, chunk: Any, events: list[WireEvent]) -> None:
        checked(chunk, dict, "a line")
        if chunk.get("error"):
            raise in_band(chunk)
        message, done = chunk.get("message"), checked(chunk.get("done", False), bool, "done")
        if message is None and not done:
            raise Malformed("a line of the answer has no message, no error and is not the last")
        self._model = self._model or name_in(chunk, "model")
        if chunk.get("remote_host") or chunk.get("remote_model"):
            self._remote = True
        reason = checked(chunk.get("done_reason") or "", str, "done_reason")
        self._reason = reason and shown(reason)
        if message is not None:
            self._message(checked(message, dict, "message"), events)
        if done:
            self._done(chunk, events)

    def _message(self, message: dict[str, Any], events: list[WireEvent]) -> None:
        thought = checked(message.get("thinking") or "", str, "thinking")
        text = checked(message.get("content") or "", str, "content")
        self._speak("", thought, events)
        if text:
            self._speak(*self._thinking.split(text), events)
        for call in checked(message.get("tool_calls") or [], list, "tool_calls"):
            events.append(_call(call, self._calls))
            self._calls += 1

    def _speak(self, text: str, thought: str, events: list[WireEvent]) -> None:
        if thought:
            self._thought = True
            events.append(ReasoningDelta(thought))
        if text:
            self._said = True
            events.append(TextDelta(text))

    def _done(self, chunk: dict[str, Any], events: list[WireEvent]) -> None:
        """Ends the answer with `Done`, or says why it is none."""
        reason = self._reason
        if reason in _UNASKED:
            raise Malformed(f"the server was asked something and answered with done_reason {reason!r}")
        finish = _FINISH.get(reason, "other")
        self._speak(*self._thinking.close(), events)
        usage = Usage(**counts(chunk, _COUNTS))  # type: ignore[arg-type]  # the names are those of `_COUNTS`
        degraded = [*self._degraded]
        if finish == "length":
            degraded.append("cut_at_length")
        if not self._said and not self._calls:
            if not self._thought:
                empty = EmptyReply("the server said that it was done and had said nothing")
                if finish == "length":
                    empty = spent(self._limit or usage.output_tokens)
                empty.usage = usage
                raise empty
            if finish == "length":
                degraded.append("thinking_ate_budget")
        if self._calls and finish == "stop":  # Ollama has no word for it
            finish = "tool_calls"
        self._over = self.finishing = True
        load, queue = _seconds(chunk, "load_duration"), None if self._constrained and self._thought else _queue(chunk)
        end = Done(finish, usage, reason or None, self._model, None, tuple(degraded), load, queue, self._remote)
        if self._judge is not None:
            end.degraded += self._judge(end)
        events.append(end)


def _plain(chunk: Any) -> str | None:
    """The text of a line that holds nothing else; `None` if it may hold more, or is not what it should be."""
    try:
        message = chunk["message"]
        text = message["content"]
        if (
            text.__class__ is str
            and text
            and chunk["done"] is False
            and len(message) == 2
            and "role" in message
            and "error" not in chunk
            and "done_reason" not in chunk
        ):
            return text
    except (KeyError, TypeError):
        pass
    return None


def _call(call: Any, number: int) -> ToolCall:
    """A tool call; they come whole. Ollama has ids since 0.12, before that they are made here."""
    function = checked(checked(call, dict, "a tool call").get("function"), dict, "the function of a tool call")
    name, arguments = function.get("name"), function.get("arguments")
    known_as = checked(call.get("id") or "", str, "the id of a tool call")
    given = {} if arguments is None else checked(arguments, dict, "the arguments of a tool call")
    if not is_name(checked(name, str, "the name of a tool call")) or not finite(given):
        raise OutputInvalid("the model wrote a tool call without a name, or with arguments that are not JSON")
    return ToolCall(name, given, known_as if is_name(known_as) else f"call_{number}")


def _seconds(chunk: Mapping[str, Any], name: str) -> float | None:
    value = chunk.get(name)
    return value / 1e9 if type(value) is int and 0 <= value < _LONGEST else None


def _queue(chunk: Mapping[str, Any]) -> float | None:
    """Seconds spent waiting for a slot: what the total has and no part of it.

    Unknown if a part is missing. Ollama leaves a zero out, but also what was not measured; taken as zero, that would
    make a whole answer look like a queue.
    """
    total, parts = _seconds(chunk, "total_duration"), [_seconds(chunk, name) for name in _WORK]
    work = [part for part in parts if part is not None]
    return max(total - sum(work), 0.0) if total is not None and len(work) == len(parts) else None
