"""The one verb of everything that can answer, and what else the engine likes to know about it.

A backend needs `name` and `open`. The rest is optional; the engine asks once, with these defaults, so that a wrapper
(cache, redaction, chaos) may hand on only what it means to:

    provider = "custom"  who makes it: "ollama", "openai", …
    model    = name      the model
    origin   = name      the endpoint; attempts on one origin share a queue
    local    = False     a server on one box: its defaults are those of the Ollama column
    zone     = "internet"  or "machine", "network"; None: it keeps `watch.zone` itself, by the peer that it connects to
    window   = None      the context window in tokens, as far as it is known now
    counts_whole = True  its count of a prompt's tokens has what it held in its cache, too
    window_by = None     who says so: "/api/ps", "num_ctx", "server"
    slots    = None      how many attempts it can serve at once
    async ready(request, watch) -> None    brings the model into memory, before the first token is waited for; with
                                           None for a request it only warms up
    load_budget = None   seconds that a load of its model may take, by those before; a route with `adapt` keeps to it
    async locate(watch) -> Zone            where the model really runs, asked before anything private is sent
    async models(watch) -> tuple[ModelInfo | str, ...]   what it has
    lacks(request) -> str | None           why it cannot take this request, as far as it knows without asking: then the
                                           route is passed over
    learn(request, error) -> bool          will this request be written otherwise, because of that refusal? Then it is
                                           sent once more
    reasons(request) -> bool               will the model think before it answers? Then a first token may take longer
    dialect  = None      what it speaks and what it has learned, in words, for `explain()`
    suspect(canary)                        its breaker has opened because no tokens came: it may find out why, by the
                                           canary, which waits for its turn, and mend what it can
    async count(request, watch) -> int     the tokens of a prompt, exactly; None if the server cannot tell
    served() -> dict                       digest, quantization, window, seed: for `reply.served_by`
    async aclose()                         gives back its connections of this loop
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from resilient_llm._types import Request
from resilient_llm._watch import Watch
from resilient_llm.wire import WireEvent

Batches = AsyncIterator[Sequence[WireEvent]]


class Backend(Protocol):
    """Everything that can answer: servers, fakes, and wrappers around them."""

    @property
    def name(self) -> str:
        """How it is called in replies, errors and traces."""
        ...

    def open(self, request: Request, watch: Watch, *, stream: bool = True) -> AbstractAsyncContextManager[Batches]:
        """One attempt. Entering sends the request; what is entered gives the events as they arrive.

        Args:
            request: what is asked.
            watch: say `watch.enter("connect")` and so on, where you know; the limits are kept by its owner. Its
                `left()` gives the seconds that are left, which anyio does not know.
            stream: whether to ask for the answer in pieces.

        Returns:
            A context manager whose value iterates over batches: the events that arrived together, the last of them
            `Done` (or one `Vectors`). Leaving it gives back the connection.

        Raises:
            LLMError: entering it or iterating over it; nothing else, but cancellation.
        """
        ...
