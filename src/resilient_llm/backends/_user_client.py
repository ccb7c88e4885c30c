"""`http_client=`: the user's own `httpx2.AsyncClient` or `httpx.AsyncClient`.

Its proxies, TLS, limits and authentication are the user's, and so are its hooks, which run before we see an answer:
one that has read it leaves nothing to stream, one that calls `raise_for_status` leaves only an exception.

Neither library is imported: both have the same names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from resilient_llm._detached import running_loop
from resilient_llm._errors import ClientClosed, ConfigError
from resilient_llm._watch import Watch
from resilient_llm.backends._endpoint import Endpoint
from resilient_llm.backends.http import Answer, told_to


class UserTransport:
    """The user's own client, and its authentication where we have no key."""

    theirs = True

    def __init__(self, endpoint: Endpoint, client: Any) -> None:
        if not all(callable(getattr(client, verb, None)) for verb in ("send", "build_request", "aclose")):
            raise ConfigError("http_client: an httpx2.AsyncClient or an httpx.AsyncClient is needed")
        self._endpoint, self._client = endpoint, client
        self.origin, self.secrets = endpoint.origin, endpoint.secrets
        keyed = any(name.lower() == b"authorization" for name, _ in endpoint.headers)
        self._how: dict[str, Any] = {"stream": True, "follow_redirects": False, **({"auth": None} if keyed else {})}
        self._loop: Any = None

    async def send(self, method: bytes, path: str, body: bytes, watch: Watch) -> Answer:
        """Sends it with the watch's limits in place of the client's, but for its pool."""
        loop = running_loop()
        self._loop = self._loop or loop
        if loop is not self._loop:
            raise ClientClosed("http_client: it is bound to the event loop that used it first; give each loop its own")
        client, at = self._client, self._endpoint
        traced = told_to(watch.trace, method, at.url + path) if watch.trace is not None else ()
        request = client.build_request(
            method.decode(), at.url + path, content=body, headers=[*at.headers[1:], *watch.headers, *traced],
            timeout=(watch.limits.connect, None, None, client.timeout.pool),
        )  # fmt: skip
        try:
            response = await client.send(request, **self._how)
        except Exception as error:
            if type(error).__name__ != "HTTPStatusError":
                raise
            response = error.response  # type: ignore[attr-defined]  # what a status means is ours to say
        if not response.is_closed:
            return Answer(
                response.status_code, response.headers.raw, _Body(response), getattr(response, "extensions", {})
            )
        # The library has undone its compression, and closed it: to read on would read from another's connection.
        plain = [one for one in response.headers.raw if one[0].lower() != b"content-encoding"]
        return Answer(response.status_code, plain, _Kept(response), {})

    async def aclose(self) -> None:
        """Nothing: who made the client closes it."""


class _Body:
    """The body of a user's response, and the way to close it."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.stream.__aiter__()  # type: ignore[no-any-return]  # two libraries, one shape

    async def aclose(self) -> None:
        await self._response.aclose()


class _Kept(_Body):
    """The same of a response that a hook has read, or that an error closed."""

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        if self._response.is_stream_consumed:
            yield self._response.content
