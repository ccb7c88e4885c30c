"""The answer to a chat request, from bytes to events.

It exists because an answer that ends is not an answer that is complete. Rules of the file: it is complete when choice 0
has a finish reason that is not empty, or when `[DONE]` came after at least one payload; everything else is `Truncated`.
The finish does not end the reading, usage may follow. An `error` is looked for before `choices`. What the bytes are,
events or one JSON object, is told by the first of them, not by what was asked for: servers do either. The path of a
plain piece of text is kept short, there is one per token.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from resilient_llm._errors import Malformed, Truncated
from resilient_llm._replies import Degraded, Done, ReasoningDelta, TextDelta, Usage
from resilient_llm.wire import WireEvent
from resilient_llm.wire._checks import checked, name_in
from resilient_llm.wire._envelope import filtered
from resilient_llm.wire._frames import ErrorFrame, ServerSentEvents
from resilient_llm.wire._openai_errors import error_from
from resilient_llm.wire._openai_finish import failed, meaning, nothing_said, refused, reported_in
from resilient_llm.wire._openai_parts import ToolCalls, figures, texts, thoughts
from resilient_llm.wire._openai_plain import Form, plain
from resilient_llm.wire._shown import shown
from resilient_llm.wire._thinking import Thinking

MAX_BODY = 16 * 1024 * 1024  # bytes of an answer in one piece
_BLANK = b" \t\r\n\xef\xbb\xbf"  # white space, and the byte order mark


class ChatDecoder:
    """Decodes one answer; see `wire.Decoder`.

    Args:
        degraded: what the request already lost on its way to the server.
        limit: the tokens that the answer may have, as the request says.
    """

    __slots__ = (
        "_body", "_calls", "_degraded", "_figures", "_filtered", "_fingerprint", "_finish", "_form", "_frames", "_id",
        "_limit", "_model", "_over", "_payload", "_queue", "_said", "_thinking", "_thought", "_usual", "building",
        "finishing",
    )  # fmt: skip

    def __init__(self, *, degraded: tuple[Degraded, ...] = (), limit: int | None = None) -> None:
        self.finishing = False
        self._limit = limit
        self._form: Form | None = Form()  # as long as it is of use
        self._frames: ServerSentEvents | None = None
        self._body: bytearray | None = None
        self._calls = ToolCalls()
        self.building = self._calls.fresh
        self._degraded = degraded
        self._figures: dict[str, int] = {}
        self._filtered: tuple[str, ...] = ()
        self._finish: str | None = None
        self._model: str | None = None
        self._fingerprint: str | None = None
        self._id: str | None = None
        self._queue: float | None = None
        self._payload = False
        self._said = False
        self._thinking = Thinking()
        self._thought = False
        self._usual = False  # the next chunk may be nothing but text
        self._over = False

    def feed(self, data: bytes) -> list[WireEvent]:
        """The events that are complete with these bytes.

        Raises:
            LLMError: the server reported an error, or its bytes are not the protocol. Text that came with the same
                bytes is lost with it.
        """
        frames = self._frames
        if frames is None:
            return self._begin(data)
        if self._usual and self._form is not None and frames.quiet:
            usual = self._form.events(data)
            if usual is not None:
                return usual
        events: list[WireEvent] = []
        for frame in frames.feed(data):
            self._frame(frame, events)
        return events

    @property
    def usage(self) -> Usage:
        """What the server has counted so far: some do with every chunk."""
        return Usage(**self._figures)  # type: ignore[arg-type]  # the names are those of `figures`

    def close(self) -> list[WireEvent]:
        """The last events.

        Raises:
            Truncated: the body ended without proof that the answer was whole.
        """
        events: list[WireEvent] = []
        if self._over:
            return events
        if self._frames is not None:
            for frame in self._frames.close():
                self._last_frame(frame, events)
        elif self._body is not None:
            self._whole(bytes(self._body), events)
        if not self._over:
            if self._finish is None:
                raise Truncated("the answer ended without a finish reason and without [DONE]")
            self._done(events)
        return events

    def _begin(self, data: bytes) -> list[WireEvent]:
        """Takes the bytes as long as they are not known to be a stream."""
        if self._body is None:
            data = data.lstrip(_BLANK)  # DeepSeek sends blank lines for minutes before an answer in one piece
            if not data:
                return []
            self._sniff(data[:1])
        if self._body is None:
            return self.feed(data)
        self._body += data
        if len(self._body) > MAX_BODY:
            raise Malformed(f"the answer is longer than {MAX_BODY} bytes")
        return []

    def _sniff(self, first: bytes) -> None:
        if first == b"<":
            raise Malformed("the server sent a page of HTML instead of an answer")
        if first in (b"{", b"["):
            self._body = bytearray()
        else:
            self._frames = ServerSentEvents()

    def _frame(self, frame: bytes, events: list[WireEvent]) -> None:
        if type(frame) is ErrorFrame or frame[:1] != b"{" or self._over:
            return self._rare(frame, events)
        try:
            chunk = from_json(frame)
        except ValueError as error:
            raise Malformed(f"an event of the answer is not JSON: {error}") from None
        text = plain(chunk) if self._usual else None
        if text is None:
            self._chunk(chunk, events)
            return self._calls.check(frame)
        self._said = True
        if self._form is not None and not self._form.learn(frame, text):
            self._form = None
        return events.append(TextDelta(text))

    def _rare(self, frame: bytes, events: list[WireEvent]) -> None:
        """What is no chunk: an error, the end mark, nothing, or an array with an error in it (Gemini)."""
        stripped = frame.strip()
        if self._over or not stripped:
            return None
        if isinstance(frame, ErrorFrame):
            raise error_from(None, {}, bytes(frame))
        if stripped.startswith(b"{"):
            return self._frame(stripped, events)
        if stripped.startswith(b"[DONE]"):
            if not self._payload:
                raise Truncated("the answer ended before it began")
            return self._done(events)
        raise reported_in(stripped)

    def _last_frame(self, frame: bytes, events: list[WireEvent]) -> None:
        """A frame without its blank line: whole, or cut. A cut one says nothing; whether that matters is said later."""
        try:
            self._frame(frame, events)
        except Malformed:
            if _is_json(frame):
                raise

    def _whole(self, body: bytes, events: list[WireEvent]) -> None:
        try:
            completion = from_json(body)
        except ValueError as error:
            if "EOF" in str(error):
                raise Truncated("the answer ended inside its JSON") from None
            raise Malformed(f"the answer is not JSON: {error}") from None
        if not isinstance(completion, dict):
            raise reported_in(body)
        inner = completion.get("provider")
        if not completion.get("choices") and isinstance(inner, dict) and inner.get("choices"):
            completion = inner  # OpenRouter wraps it now and then (pydantic-ai#3994)
        if "choices" not in completion and not refused(completion):
            raise Malformed("the answer has no choices")
        self._chunk(completion, events)
        self._calls.check(body)
        if self._finish is None and (self._said or self._calls or not completion.get("choices")):
            self._done(events, assumed="stop")  # Ollama leaves the reason out (ollama#2996)

    def _chunk(self, chunk: dict[str, Any], events: list[WireEvent]) -> None:
        if refused(chunk):
            raise error_from(None, {}, chunk)
        self._payload = True
        self._describe(chunk)
        for choice in checked(chunk.get("choices") or [], list, "choices"):
            checked(choice, dict, "a choice")
            index = choice.get("index") or 0
            if checked(index, int, "the index of a choice") == 0:
                self._choice(choice, events)
        self._usual = self._model is not None and self._thinking.over  # the first chunks tell more than text

    def _choice(self, choice: dict[str, Any], events: list[WireEvent]) -> None:
        delta = checked(choice.get("delta") or choice.get("message") or {}, dict, "delta")
        text, thought = texts(delta.get("content") or "")
        self._speak("", thought or thoughts(delta), events)
        if text:
            self._speak(*self._thinking.split(text), events)
        self._speak(checked(delta.get("refusal") or "", str, "refusal"), "", events)  # its only answer then
        for piece in checked(delta.get("tool_calls") or [], list, "tool_calls"):
            self._calls.add(piece)
        if delta.get("function_call"):  # what `tool_calls` was before there were several
            self._calls.add({"index": 0, "function": delta["function_call"]})
        self._add_usage(choice.get("usage"))  # Moonshot
        self._end(choice)

    def _speak(self, text: str, thought: str, events: list[WireEvent]) -> None:
        if thought:
            self._thought = True
            events.append(ReasoningDelta(thought))
        if text:
            self._said = True
            events.append(TextDelta(text))

    def _end(self, choice: dict[str, Any]) -> None:
        """The finish of a choice, if it has one, or the error that it is."""
        raw = checked(choice.get("finish_reason") or "", str, "finish_reason")
        finish = raw and shown(raw)
        error = failed(finish, choice.get("error"))
        if error is not None:
            raise error
        if finish and self._finish is None:
            self._finish = finish
            self._filtered = filtered(choice.get("content_filter_results"))
            self.finishing = True

    def _describe(self, chunk: dict[str, Any]) -> None:
        """Model, fingerprint, id and usage. An answer does not die of them."""
        groq = chunk.get("x_groq")
        self._id = self._id or name_in(chunk, "id")
        self._model = self._model or name_in(chunk, "model")
        self._fingerprint = self._fingerprint or name_in(chunk, "system_fingerprint")
        self._add_usage(chunk.get("usage"))
        if isinstance(groq, dict):
            self._add_usage(groq.get("usage"))

    def _add_usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        # The largest, never the sum: some servers send the total so far with every chunk (lemma#564).
        for name, value in figures(usage):
            self._figures[name] = max(value, self._figures.get(name, 0))
        queue = usage.get("queue_time")  # Groq, seconds
        if isinstance(queue, float) and 0 <= queue < float("inf"):
            self._queue = queue

    def _done(self, events: list[WireEvent], assumed: str = "") -> None:
        """Ends the answer with its tool calls and `Done`, or says why it is none."""
        self._over, self._usual, self.finishing = True, False, True
        self._speak(*self._thinking.close(), events)
        raw = self._finish
        finish = meaning(raw or assumed)
        usage = self.usage
        calls = self._calls.finish(cut=finish == "length", ended=raw is not None)
        degraded: list[Degraded] = [*self._degraded]
        if finish == "length":
            degraded.append("cut_at_length")
            if self._thought and not self._said and not self._calls:
                degraded.append("thinking_ate_budget")
        if not (self._said or self._thought or self._calls):
            empty = nothing_said(raw, finish, usage, self._filtered, self._limit)
            empty.usage = usage
            raise empty
        if calls and finish == "stop":  # Groq, Ollama, Gemini and llama.cpp say so now and then
            finish = "tool_calls"
        events.extend(calls)
        known = self._model, self._fingerprint, tuple(degraded)
        events.append(Done(finish, usage, raw, *known, server_queue=self._queue, response_id=self._id))


def _is_json(frame: bytes) -> bool:
    try:
        from_json(frame)
    except ValueError:
        return False
    return True
