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

WINDOW = 2048  # tokens of the local model: small, so that a prompt of three pages is too long for it
LOCAL_SAYS = (
    "The sky is blue because air scatters short waves of light far more than long ones: blue reaches us from"
    " everywhere, red only from the sun itself. (A simulated answer.)"
)
HOSTED_SAYS = "Sunlight is white. Air turns its blue part aside, so that all of the sky glows blue. (A simulated answer.)"


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scenes are played on.

    Attributes:
        local: the route to the local server, through the relay.
        relay: the cable on which its faults happen.
        hosted: the route to the hosted server.
        cast: what is real and what is simulated, in words.
    """

    local: Route
    relay: Relay
    hosted: Route
    cast: tuple[str, ...]


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    origin = Ollama("any").origin  # OLLAMA_HOST, or the address that Ollama has by default
    model = await chat_model(origin)
    with contextlib.ExitStack() as servers:
        if model is None:
            simulated = servers.enter_context(FakeOllama(_words(LOCAL_SAYS, 0.03), models=("simulated-small",)))
            local = "simulated-small, on a simulated Ollama"
            why = f"No Ollama with a chat model answers at {origin}. Both servers are simulated: this program runs them,"
            how = "on loopback sockets, with the protocols of the real ones. What they say was written beforehand."
            origin, model = simulated.url, "simulated-small"
        else:
            local = f"{model}, on the real Ollama at {origin}"
            why = "The hosted server is simulated: this program runs it, on a loopback socket, with the protocol of a real"
            how = "one. What it says was written beforehand. The faults happen to a relay in front of Ollama."
        hosted = servers.enter_context(FakeOpenAI(_words(HOSTED_SAYS, 0.005)))
        async with Relay(origin) as relay:
            yield Stage(
                Route(
                    Ollama(model, base_url=relay.url, num_ctx=WINDOW, think=False),
                    name="local",
                    timeouts=Timeouts(first_token=2),
                ),
                relay,
                Route(
                    OpenAICompatible("simulated-large", base_url=hosted.url, context_window=128_000),
                    name="hosted",
                ),
                (f"local   {local}", "hosted  simulated-large, on a simulated OpenAI-compatible server", "", why, how),
            )


async def chat_model(origin: str) -> str | None:
    """The smallest model that chats on the Ollama at this address; `None` if there is no such model or no Ollama."""
    if not origin.startswith("http://"):
        return None  # the relay passes bytes, it cannot answer for another server's certificate
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
    """It can complete, and it runs on this server: cloud models run elsewhere."""
    return "completion" in shown.get("capabilities", ["completion"]) and not shown.get("remote_host")


def _words(text: str, gap: float) -> Any:
    first, *others = text.split()
    return say(first, *(f" {word}" for word in others), gap=gap)
