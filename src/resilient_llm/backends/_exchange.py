"""One request and its answer: bytes from a transport, events from a decoder, and an end that is always clean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn, Self

import anyio

from resilient_llm._detached import Detached
from resilient_llm._errors import LLMError, Malformed, ServerError
from resilient_llm._replies import Usage
from resilient_llm._watch import Watch
from resilient_llm.backends._failures import bare, blotted, classify, cut, hushed, told
from resilient_llm.backends._inflate import inflater
from resilient_llm.backends.http import Answer, Transport
from resilient_llm.wire import Decoder, HTTPCall, ToolPiece, WireEvent
from resilient_llm.wire._hints import request_id

ERROR_BODY = 64 * 1024  # bytes of an error's body that are read; what matters stands at its beginning
ERROR_TIME = 1.0  # seconds for reading it: a dribbled error body must not take the time of the next route
USAGE_TIME = 1.0  # seconds to read on for the usage after the answer is whole
DRAIN_TIME = 0.05  # seconds for the end of the body after the last event, so that the connection can be used again
SPARE_TIME = 0.02  # seconds before a limit at which a whole answer waits for nothing more
CLOSE_TIME = 0.04  # seconds that a caller waits for a slow close; it goes on by itself
PLAIN_BODY = 16 * 1024 * 1024  # bytes of an answer to a metadata call
ErrorTable = Callable[[int, Mapping[str, str], bytes], LLMError]


class Exchange:
    """A context manager that sends when entered and iterates over batches of events.

    Args:
        transport: how to send.
        call: what to send.
        decoder: for the body of a good answer.
        error: what a bad answer means.
        watch: the attempt's.
        detached: where a close goes on that takes too long.
        heard: called once, when the server has said something.
    """

    __slots__ = (
        "_answer", "_building", "_call", "_decoder", "_detached", "_ended", "_error", "_heard", "_inflate", "_iterator",
        "_late", "_spoiled", "_transport", "_watch", "request_id",
    )  # fmt: skip

    def __init__(
        self, transport: Transport, call: HTTPCall, decoder: Decoder, error: ErrorTable, watch: Watch, *,
        detached: Detached, heard: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._transport, self._call, self._decoder, self._error = transport, call, decoder, error
        self._building: list[str] = getattr(decoder, "building", [])
        self._watch, self._detached, self._heard = watch, detached, heard
        self._answer: Answer | None = None
        self._iterator: Any = None
        self._inflate: Callable[[bytes], bytes] | None = None
        self._ended = self._late = self._spoiled = False
        self.request_id: str | None = None

    async def __aenter__(self) -> Self:
        headers: dict[str, str] = {}
        try:
            self._answer = answer = await self._transport.send(b"POST", self._call.path, self._call.body, self._watch)
            headers = answer.headers()
            self.request_id = told(request_id(headers), self._transport.secrets)
            trace = self._watch.trace
            if trace is not None:
                trace.status, trace.request_id = answer.status, self.request_id
            encoding = headers.get("content-encoding", "")
            self._iterator = answer.body.__aiter__()
            if answer.status // 100 != 2:
                raise self._error(answer.status, headers, await self._error_body(encoding))
            self._inflate = inflater(encoding)
        except BaseException as error:  # noqa: BLE001  # cancellation too has to close; `_typed` raises it again
            headers.clear()  # an error's traceback shows the locals of this frame, and a server may say our key back
            await self._close()
            self._typed(error, begun=False)
        return self

    @property
    def usage(self) -> Usage | None:
        """What the server has counted so far, where it does so with every piece."""
        return getattr(self._decoder, "usage", None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[WireEvent]:
        if self._ended:
            raise StopAsyncIteration
        decoder, inflate, following = self._decoder, self._inflate, self._iterator.__anext__
        data = b""
        try:
            events: Sequence[WireEvent] = ()
            while not events:
                if decoder.finishing:
                    events = await self._after()
                    break
                data = await following()
                events = decoder.feed(data if inflate is None else inflate(data))
                if not events and self._building:
                    events = [ToolPiece("".join(self._building))]
                    self._building.clear()
            if self._heard is not None:
                self._tell()
            return events
        except StopAsyncIteration:
            self._ended = True
        except BaseException as error:  # noqa: BLE001  # sorted and raised again
            self._typed(error, begun=True)
        finally:
            del data  # an error's traceback shows the locals of this frame
        return self._last()

    def _last(self) -> Sequence[WireEvent]:
        """What the decoder makes of the end of the body."""
        try:
            events = self._decoder.close()
        except LLMError as error:
            self._typed(error, begun=True)
        if not events:
            raise StopAsyncIteration
        self._tell()
        return events

    def _tell(self) -> None:
        heard, self._heard = self._heard, None
        if heard is not None:
            heard()

    async def _after(self) -> Sequence[WireEvent]:
        """The last event of an answer that is whole, and the end of its body.

        What comes before that event, its usage above all, is worth a second together: a server may go on for ever.
        DeepSeek kept finished streams open with signs of life, for a quarter of an hour (deepseek-harness, discussion
        6959). But no limit runs out over it: the answer is whole.
        """
        decoder, inflate = self._decoder, self._inflate
        events: Sequence[WireEvent] = ()
        last = min(self._watch.until, anyio.current_effective_deadline()) - SPARE_TIME
        with anyio.CancelScope(deadline=min(self._watch.instant(USAGE_TIME), last)) as scope:
            while not events:
                data = await self._rest()
                events = decoder.feed(data if inflate is None else inflate(data))
            scope.deadline = min(self._watch.instant(DRAIN_TIME), last)
            await self._end()
        self._late = not self._ended
        if not events:
            raise StopAsyncIteration
        return events

    async def _error_body(self, encoding: str) -> bytes:
        """What can be read of it: the status says what it is, also where the body breaks off."""
        body = b""
        with anyio.move_on_after(ERROR_TIME):
            try:
                inflate = inflater(encoding)
                async for data in self._iterator:
                    body += data if inflate is None else inflate(data)
                    if len(body) >= ERROR_BODY:
                        break
            except Exception as broken:
                if not self._known(broken):
                    raise
        return body[:ERROR_BODY]

    def _typed(self, error: BaseException, *, begun: bool) -> NoReturn:
        """Raises what it is: ours, a failure of HTTP as ours, or itself; without the frames below."""
        self._spoiled = isinstance(error, Malformed)
        if not isinstance(error, Exception) or isinstance(error, LLMError):
            if isinstance(error, LLMError) and error.request_id is None:
                error.request_id = self.request_id
            raise cut(hushed(error, self._transport.secrets))
        failed = classify(error, self._transport.origin, begun=begun, theirs=self._transport.theirs)
        if failed is None:
            raise bare(error)
        failed.request_id = self.request_id
        raise hushed(failed, self._transport.secrets) from failed.__cause__

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self._ended and not self._late and self._decoder.finishing:
                with anyio.CancelScope(deadline=self._watch.instant(DRAIN_TIME)):
                    await self._end()
        finally:
            await self._close()

    async def _end(self) -> None:
        """After the last event only the end is worth reading, or we hang up."""
        with suppress(StopAsyncIteration):
            await self._rest()

    async def _rest(self) -> bytes:
        """The next piece of a body whose answer is whole: how its connection ends is no matter."""
        try:
            piece: bytes = await self._iterator.__anext__()
            return piece
        except StopAsyncIteration:
            self._ended = True
            raise
        except Exception as broken:
            if not self._known(broken):
                raise
            self._late = True
            raise StopAsyncIteration from None

    def _known(self, broken: Exception) -> bool:
        """It is a failure of HTTP or of what came by it, and no bug of ours."""
        if isinstance(broken, LLMError):
            return True
        return classify(broken, self._transport.origin, begun=True, theirs=self._transport.theirs) is not None

    async def _close(self) -> None:
        """Gives the connection back. Detached, so that neither cancellation nor a slow transport can stop it.

        One that is spoiled is not used again: what was not the protocol may go on behind its end, and would be read as
        the next answer.
        """
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if self._spoiled:
            answer.disconnect()
        if self._ended and not self._late:  # nothing is left to wait for: the body was read to its end
            await answer.body.aclose()  # type: ignore[attr-defined]  # both transports' bodies have it
            return

        job = self._detached.spawn(lambda: _hang_up(self._iterator, answer.body))
        with anyio.move_on_after(CLOSE_TIME, shield=True):
            await job.done.wait()


async def _hang_up(pieces: object, body: AsyncIterable[bytes]) -> None:
    """Closes a body that may not have been read to its end, and the generator that reads it."""
    try:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    finally:
        await body.aclose()  # type: ignore[attr-defined]  # both transports' bodies have it


async def fetch(
    transport: Transport, method: bytes, call: HTTPCall, error: ErrorTable, watch: Watch, limit: float
) -> bytes:
    """A small metadata call, whole, within `limit` seconds.

    Raises:
        LLMError: it failed, took too long, or gave an error.
    """
    data = b""
    with anyio.move_on_after(limit) as scope:
        try:
            answer = await transport.send(method, call.path, call.body, watch)
            data = blotted(await _small(answer, call.path), transport.secrets)
        except BaseException as failure:  # noqa: BLE001  # sorted and raised again
            if isinstance(failure, LLMError) or not isinstance(failure, Exception):
                raise cut(failure)
            failed = classify(failure, transport.origin, begun=False, theirs=transport.theirs)
            if failed is None:
                raise bare(failure)
            raise failed from failed.__cause__
    if scope.cancelled_caught:
        raise ServerError(f"no answer to {call.path} within {limit:g} s")
    if answer.status // 100 != 2:
        refused = hushed(error(answer.status, answer.headers(), data), transport.secrets)
        del data, answer  # an error's traceback shows the locals of this frame
        raise refused
    return data


async def _small(answer: Answer, path: str) -> bytes:
    """The body of an answer, read to its end and hung up on."""
    data = bytearray()
    pieces = answer.body.__aiter__()
    try:
        inflate = inflater(answer.headers().get("content-encoding", ""))
        async for piece in pieces:
            data += piece if inflate is None else inflate(piece)
            if len(data) > PLAIN_BODY:
                raise Malformed(f"the answer to {path} is larger than {PLAIN_BODY >> 20} MiB")
    finally:
        with anyio.move_on_after(CLOSE_TIME, shield=True):
            await _hang_up(pieces, answer.body)
    return bytes(data)
