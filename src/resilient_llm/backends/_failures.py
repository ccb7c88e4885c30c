"""What an exception of an HTTP library means.

httpx, httpx2 and httpcore2 use the same names for the same things, so one table of names serves all three, and none of
them is imported for it. The most specific class of an exception's own order wins. What is in no table is a bug of ours
and stays what it is; from a user's `http_client` it may be his, and becomes a failure of that.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterable
from typing import TypeVar

from resilient_llm._errors import (
    BadRequest,
    ClientClosed,
    ConfigError,
    ConnectFailed,
    ConnectTimeout,
    FirstTokenTimeout,
    LLMError,
    Malformed,
    Overloaded,
    StreamInterrupted,
    StreamStalled,
)
from resilient_llm.wire._shown import shown

Made = Callable[[str, str], LLMError]  # of the text and the origin
E = TypeVar("E", bound=BaseException)
T = TypeVar("T", str, str | None)
_HIDDEN = "[key]"


def _busy_pool(text: str, _: str) -> LLMError:
    return Overloaded(f"the http_client's own pool is full: {text}", fault="nobody")


def _unconnected(text: str, at: str) -> LLMError:
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return ConnectFailed(f"no connection to {at}: {text}")
    own = "an authority of your own goes into SSL_CERT_FILE, or into an http_client"
    return ConnectFailed(f"no connection to {at}: {text} ({own})", retryable=False)  # it is the same a second later


def _protocol(text: str, _: str) -> LLMError:
    """The peer went away, or what it sent is not HTTP; the library has one class for both."""
    if "disconnected" in text or "peer closed" in text:
        return ConnectFailed(f"the connection broke before the answer began: {text}")
    return Malformed(f"not HTTP: {text}")


BEFORE: dict[str, Made] = {
    "ConnectTimeout": lambda *_: ConnectTimeout("no connection within the http_client's own limit"),
    "ConnectError": _unconnected,
    "PoolTimeout": _busy_pool,
    "ReadTimeout": lambda *_: FirstTokenTimeout("no answer within the http_client's own limit"),
    "RemoteProtocolError": _protocol,
    "LocalProtocolError": lambda text, _: BadRequest(f"the request is not valid HTTP: {text}"),
    "UnsupportedProtocol": lambda text, _: ConfigError(f"base_url: {text}"),
    "InvalidURL": lambda text, _: ConfigError(f"base_url: {text}"),
    "DecodingError": lambda text, _: Malformed(f"the body cannot be decompressed: {text}"),
    "NetworkError": lambda text, _: ConnectFailed(f"the connection failed: {text}"),
    "TimeoutException": lambda text, _: ConnectFailed(f"the connection failed: {text}"),
    "ProxyError": lambda text, _: ConnectFailed(f"the proxy failed: {text}"),
    "HTTPError": lambda text, _: ConnectFailed(f"the connection failed: {text}"),
    "SSLError": lambda text, _: ConnectFailed(f"TLS failed: {text}"),
    "OSError": lambda text, _: ConnectFailed(f"the connection failed: {text}"),
    "ClosedResourceError": lambda *_: ConnectFailed("the connection was closed under the request"),
    "BrokenResourceError": lambda *_: ConnectFailed("the connection broke"),
}
DURING: dict[str, Made] = {
    **BEFORE,
    "ReadTimeout": lambda *_: StreamStalled("no bytes within the http_client's own limit"),
    "RemoteProtocolError": lambda *_: StreamInterrupted("the connection broke in mid-answer"),
    "NetworkError": lambda *_: StreamInterrupted("the connection broke in mid-answer"),
    "HTTPError": lambda *_: StreamInterrupted("the connection broke in mid-answer"),
    "OSError": lambda *_: StreamInterrupted("the connection broke in mid-answer"),
    "ClosedResourceError": lambda *_: StreamInterrupted("the connection was closed in mid-answer"),
    "BrokenResourceError": lambda *_: StreamInterrupted("the connection broke in mid-answer"),
}


def classify(error: Exception, origin: str, *, begun: bool, theirs: bool = False) -> LLMError | None:
    """The typed error, chained to its cause, whose traceback is cut; `None` if this is no failure of HTTP.

    Args:
        error: what was raised.
        origin: of the server.
        begun: the answer had begun.
        theirs: by the user's `http_client`. That may be anything, and is typed all the same.
    """
    table = DURING if begun else BEFORE
    for kind in type(error).__mro__:
        if kind.__name__ in table:
            made = table[kind.__name__](shown(_text(error)), origin)
            made.__cause__ = cut(error)
            return made
    if isinstance(error, RuntimeError) and "client has been closed" in str(error):
        return ClientClosed("the http_client was closed; give the route an open one")
    if theirs:
        failed = (StreamInterrupted if begun else ConnectFailed)(f"the http_client raised {type(error).__name__}")
        failed.__cause__ = cut(error)
        return failed
    return None


def _text(error: Exception) -> str:
    """What it says; where that is only that every address failed (anyio, trio), what the system said of each."""
    text, one = str(error) or type(error).__name__, error.__cause__ or error.__context__
    if one is not None and not isinstance(one, OSError):  # httpx wraps what httpcore has wrapped
        one = one.__cause__ or one.__context__
    if not isinstance(one, OSError) or one.errno is not None:
        return text
    each = one.__cause__.exceptions if isinstance(one.__cause__, BaseExceptionGroup) else [one.__cause__]
    said = [os.strerror(cause.errno) for cause in each if isinstance(cause, OSError) and cause.errno is not None]
    return ", ".join(dict.fromkeys(said)) or text


def bare(error: E) -> E:
    """A bug of ours, of which only the lines are shown: the frames below have no locals any more."""
    traceback.clear_frames(error.__traceback__)
    return error


def cut(error: E) -> E:
    """The error and its chain without tracebacks: locals of the frames below hold the key, the prompt, the answer."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:  # a chain may be a circle: a library may raise one twice
            seen.add(id(one))
            one.__traceback__ = None
            waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return error


def hushed(error: E, secrets: Iterable[str]) -> E:
    """The error without these: a server may say back what it was sent, in whichever of an error's words."""
    if isinstance(error, LLMError) and secrets:
        error.args = tuple(told(one, secrets) if isinstance(one, str) else one for one in error.args)
        for name in ("code", "request_id", "parameter"):
            if isinstance(getattr(error, name, None), str):
                setattr(error, name, told(getattr(error, name), secrets))
    return error


def told(text: T, secrets: Iterable[str]) -> T:
    """A text, if it is one, without these."""
    for secret in secrets:
        if isinstance(text, str):
            text = _without(secret, text)
    return text


def blotted(body: bytes, secrets: Iterable[str]) -> bytes:
    """A small body without these."""
    for secret in secrets:
        body = re.sub(re.escape(secret.encode()), _HIDDEN.encode(), body, flags=re.IGNORECASE)
    return body


def _without(secret: str, text: str) -> str:
    text = re.sub(re.escape(secret), _HIDDEN, text, flags=re.IGNORECASE)
    said = text.removesuffix("…")
    if said != text:  # the text was shortened, perhaps in the midst of it
        for size in range(len(secret) - 1, 3, -1):
            if said[-size:].lower() == secret[:size].lower():
                return f"{said[:-size]}{_HIDDEN}…"
    return text
