"""Bytes into frames: the lines of NDJSON and the events of server-sent events.

It exists because the network cuts a body where it likes, inside a UTF-8 character, a CRLF or a JSON string, and
decoding by network chunk is the bug that a dozen clients have had (vllm#38732, Fabric#2203).

Rules of the file: any split of the same bytes gives the same frames; frames stay bytes, their reader decodes them
whole; time is linear and memory bounded by the limit, however small the pieces; an oversize line is `Malformed`.
"""

from __future__ import annotations

from resilient_llm._errors import Malformed

MAX_LINE = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class ErrorFrame(bytes):
    """The data of an event that its server named `error`."""

    __slots__ = ()


class Lines:
    """Cuts a body into its lines: LF or CRLF, empty ones left out.

    Args:
        limit: bytes that one line may have. 8 MiB: the longest honest line is one tool call or one vector.
    """

    __slots__ = ("_limit", "_rest")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest = bytearray()  # not a list of pieces: a dribble of two-byte pieces would take twenty times the room

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete with these bytes, without their ends.

        Raises:
            Malformed: a line is longer than the limit.
        """
        lines = data.split(b"\n")
        tail = lines.pop()
        _join(self._rest, lines, tail, self._limit)
        return [line for raw in lines if (line := raw.removesuffix(b"\r"))]

    def close(self) -> list[bytes]:
        """The last line, if the body ended without a line end."""
        last = bytes(self._rest).removesuffix(b"\r")
        self._rest.clear()
        return [last] if last else []


class ServerSentEvents:
    """Cuts a body into the data of its server-sent events, as the WHATWG describes them.

    It differs in one point: an event that the end of the body leaves without its blank line is delivered, because
    servers forget it after `[DONE]`. Names other than `error`, ids and retry times are not needed and are dropped.

    Args:
        limit: bytes that one line, or the data of one event, may have.

    Attributes:
        quiet: nothing is held back from earlier bytes.
    """

    __slots__ = ("_after_cr", "_data", "_limit", "_name", "_rest", "_size", "_start", "quiet")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._name = b""
        self._after_cr = False
        self._start = True
        self.quiet = True

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete with these bytes.

        Raises:
            Malformed: a line or an event is longer than the limit.
        """
        # What servers send nearly always: one or several whole events of one line each. The count of newlines proves
        # that none hides inside, so that this path and the other agree.
        if self.quiet and data[:6] == b"data: " and data[-2:] == b"\n\n" and len(data) <= self._limit:
            newlines = data.count(b"\n")
            frames = [data[6:-2]] if newlines == 2 else data[6:-2].split(b"\n\ndata: ")
            if newlines == 2 * len(frames) and b"\r" not in data:
                self._start = False
                return frames
        return self._feed(data)

    def close(self) -> list[bytes]:
        """The event that was still open, if the body ended without its blank line."""
        events: list[bytes] = []
        self._line(bytes(self._rest), events)
        self._rest.clear()
        self._line(b"", events)
        return events

    def _feed(self, data: bytes) -> list[bytes]:
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        events: list[bytes] = []
        if data:
            lines = data.splitlines()  # of bytes: CR, LF and CRLF, nothing else
            self._after_cr = data.endswith(b"\r")
            tail = b"" if data.endswith((b"\r", b"\n")) else lines.pop()
            _join(self._rest, lines, tail, self._limit)
            for line in lines:
                self._line(line, events)
        self.quiet = not (self._rest or self._data or self._name or self._after_cr)
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if self._start:
            self._start = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                joined = b"\n".join(self._data)
                events.append(ErrorFrame(joined) if self._name == b"error" else joined)
                self._data.clear()
                self._size = 0
            self._name = b""
            return
        field, _, value = line.partition(b":")  # a comment is a field without a name
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1
            if self._size > self._limit:
                raise Malformed(f"an event of the stream is longer than {self._limit} bytes")
        elif field == b"event":
            self._name = value.removeprefix(b" ")


def _join(rest: bytearray, lines: list[bytes], tail: bytes, limit: int) -> None:
    """Puts what was left over before the first of `lines`, and keeps `tail` for the next time."""
    if any(len(line) > limit for line in lines[1:]) or len(rest) + len(lines[0] if lines else tail) > limit:
        raise Malformed(f"a line of the stream is longer than {limit} bytes")
    if lines:
        if rest:
            lines[0] = bytes(rest + lines[0])
            rest.clear()
        if len(tail) > limit:
            raise Malformed(f"a line of the stream is longer than {limit} bytes")
    rest += tail
