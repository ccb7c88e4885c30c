"""The servers of the demo: a real Ollama if one answers, else a simulated one; the hosted one is always simulated."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2

from examples._relay import Relay
from resilient_llm import Ollama, OpenAICompatible, Route, Timeouts
from resilient_llm.testing import FakeOllama, FakeOpenAI, say

WINDOW = 2048  # tokens of the local model: small, so that a prompt of a few pages is too long for it
FIRST_TOKEN = 3.0  # seconds that the local model has for its first token
LOCAL_SAYS = "Air scatters blue light far more than red: blue comes from all around, red from the sun. (Simulated.)"
HOSTED_SAYS = "Sunlight is white. Air turns its blue part aside, so that the whole sky glows blue. (Simulated.)"
BOTH_SIMULATED = """\
No Ollama with a chat model answers at {origin}, so both servers are SIMULATED: this program runs them,
on loopback sockets, with the protocols of the real ones. Their answers were written beforehand."""
HOSTED_SIMULATED = """\
The hosted server is SIMULATED: this program runs it, on a loopback socket, with the protocol of a real one.
Its answers were written beforehand. The faults happen to a relay in front of the real Ollama, whose model may have to
be loaded first."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scenes are played on.

    Attributes:
        cast: what is real and what is simulated, in words.
        local: the route to the local server.
        relay: the cable on that way, where the faults happen.
        hosted: the route to the hosted server.
        hosted_server: that server, which knows what it was asked.
    """

    cast: str
    local: Route
    relay: Relay
    hosted: Route
    hosted_server: FakeOpenAI


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    origin = Ollama("any").origin  # OLLAMA_HOST, or the address that Ollama has by default
    model = await chat_model(origin)
    with contextlib.ExitStack() as simulated:
        if model is not None:
            cast = f"local   {model} on the real Ollama at {origin}\n"
            note = HOSTED_SIMULATED
        else:
            cast = "local   a simulated Ollama\n"
            note = BOTH_SIMULATED.format(origin=origin)
            model = "simulated-small"
            origin = simulated.enter_context(FakeOllama(_answer(LOCAL_SAYS, 0.03), models=(model,))).url
        cast += f"hosted  a simulated OpenAI-compatible server\n\n{note}"
        server = simulated.enter_context(FakeOpenAI(_answer(HOSTED_SAYS, 0.005)))
        async with Relay(origin) as relay:
            ollama = Ollama(model, base_url=relay.url, num_ctx=WINDOW, think=False)
            hosted = OpenAICompatible("simulated-large", base_url=server.url, context_window=128_000)
            local = Route(ollama, name="local", timeouts=Timeouts(first_token=FIRST_TOKEN))
            yield Stage(cast, local, relay, Route(hosted, name="hosted"), server)


async def chat_model(origin: str) -> str | None:
    """The smallest model that chats on the Ollama at this address; `None` if there is no such model, or no Ollama."""
    if not origin.startswith("http://"):
        return None  # the relay passes bytes on; it cannot show another server's certificate
    async with httpx2.AsyncClient(base_url=origin, timeout=2, trust_env=False) as http:
        try:
            models = (await http.get("/api/tags")).raise_for_status().json()["models"]
            for model in sorted(models, key=lambda one: one["size"]):
                shown = await http.post("/api/show", json={"model": model["name"]})
                if _chats(shown.raise_for_status().json()):
                    return str(model["name"])
        except (httpx2.HTTPError, ValueError, LookupError, TypeError):
            return None
    return None


def _chats(shown: dict[str, Any]) -> bool:
    """It completes text, and does so on this server: a cloud model runs elsewhere."""
    return "completion" in shown.get("capabilities", ["completion"]) and not shown.get("remote_host")


def _answer(text: str, gap: float) -> Any:
    first, *others = text.split()
    return say(first, *(f" {word}" for word in others), first=0.1, gap=gap)
