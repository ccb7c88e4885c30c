"""Sans-io: bytes in, events out, request bodies, error tables. No sockets, no clock, no HTTP library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import PydanticSerializationError, to_json

from resilient_llm._errors import ConfigError, LLMError
from resilient_llm._replies import Event, Vectors
from resilient_llm._types import Request, Tool


@dataclass(slots=True, repr=False)
class ToolPiece:
    """Something of a tool call has come, which is handed over only when it is whole. Always alone in its batch.

    It is a sign of life as good as text, and a model that runs in circles does so in there, too.
    """

    text: str

    def __repr__(self) -> str:
        return f"ToolPiece({len(self.text)} chars)"


WireEvent = Event | Vectors | ToolPiece


@dataclass(frozen=True, slots=True, repr=False)
class HTTPCall:
    """A request to be sent: a POST of `body` to `path`. Its `repr` does not show the body."""

    path: str
    body: bytes

    def __repr__(self) -> str:
        return f"HTTPCall({self.path}, {len(self.body)} bytes)"


class Decoder(Protocol):
    """Turns the body of one answer into events. One object per answer.

    Attributes:
        finishing: the answer is whole; only its usage, or the end of its body, may still come. The reader waits for
            the one a second at most and for the other just long enough to keep the connection.

    A decoder of tool calls that come in pieces also has `building`, a list: the pieces that came and gave no event yet.
    """

    finishing: bool

    def feed(self, data: bytes) -> list[WireEvent]:
        """The events that are complete with these bytes; often none.

        Raises:
            LLMError: the server reported an error in the body, or its bytes are not the protocol.
        """
        ...

    def close(self) -> list[WireEvent]:
        """The body has ended: what was still held back, `Done` among it unless it came before.

        Raises:
            Truncated: it ended without proof that the answer was whole.
        """
        ...


class Codec(Protocol):
    """Speaks one server's language. Stateless; `decoder` makes the state."""

    def encode(self, request: Request, *, stream: bool) -> HTTPCall:
        """The request as this server wants it."""
        ...

    def decoder(self, request: Request, *, stream: bool) -> Decoder:
        """A decoder for the answer to that request."""
        ...

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """What an answer with this status (not 200) means. Header names are in lower case."""
        ...


def said_tool(tool: Tool) -> dict[str, Any]:
    """A tool in the shape that all servers take."""
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def dump(body: Mapping[str, Any]) -> bytes:
    """JSON.

    Raises:
        ConfigError: something in it has no JSON form: a foreign object in `extra`, half a surrogate pair in a text.
    """
    try:
        return to_json(body)
    except (PydanticSerializationError, ValueError) as error:
        text = str(error)  # where a type is unknown it names that and not the value
        reason = text if text.startswith("Unable to serialize unknown type") else type(error).__name__
        raise ConfigError(f"{_spoilt(body)}the request cannot be written as JSON: {reason}") from None


def _spoilt(body: Mapping[str, Any]) -> str:
    """The name of the field that has no JSON form."""
    for name, value in body.items():
        try:
            to_json({name: value})
        except (PydanticSerializationError, ValueError):
            return f"{name}: " if isinstance(name, str) and name.isprintable() else ""
    return ""
