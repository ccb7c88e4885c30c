"""Who is measured: the bare HTTP library, this one, and the SDKs that people use.

All of them ask the same server for the same tokens, from one event loop, each over connections of its own that stay
open. A peer that is not installed is left out.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

import httpx2

from benchmarks._measure import Contender
from resilient_llm import AsyncClient, Ollama, OpenAICompatible, Route

ASKED = "Why is the sky blue?"
MESSAGES = [{"role": "user", "content": ASKED}]
OURS = "resilient_llm"
Work = Callable[[], Awaitable[object]]


def hosted(url: str, tokens: object) -> OpenAICompatible:
    """Our route to the server in the language of OpenAI."""
    return OpenAICompatible("gpt-5-mini", base_url=f"{url}/{tokens}/v1", api_key="key")


class Clients:
    """Makes contenders that share one event loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.runner = asyncio.Runner()

    def contender(self, name: str, work: Work, *, times: int, units: int = 1) -> Contender:
        """`times` pieces of work one after the other, each of `units` units."""

        async def repeat() -> None:
            for _ in range(times):
                await work()

        def warm() -> None:
            self.runner.run(_once(work))

        return Contender(name, lambda: self.runner.run(repeat()), times * units, warm)

    def ours(self, tokens: int, *, ollama: bool = False, streams: bool = True) -> AsyncClient:
        """A client with every default policy on."""
        backend = Ollama("llama3.2", base_url=f"{self.url}/{tokens}") if ollama else hosted(self.url, tokens)
        return AsyncClient(Route(backend, streams=None if streams else False))

    def answers(self, tokens: int, times: int) -> list[Contender]:
        """Whole answers of `tokens` tokens, asked for in one piece or in pieces."""
        unary, streamed = self.ours(tokens, streams=False), self.ours(tokens)
        ollama_unary, ollama_streamed = self.ours(tokens, ollama=True, streams=False), self.ours(tokens, ollama=True)
        found: dict[str, Work] = {
            "httpx2, unary": bare_unary(f"{self.url}/{tokens}/v1/chat/completions", "gpt-5-mini"),
            f"{OURS}, unary": lambda: unary.chat(ASKED),
            f"{OURS}, streamed": lambda: streamed.chat(ASKED),
            **openai_answers(self.url, tokens),
            "httpx2, unary, Ollama": bare_unary(f"{self.url}/{tokens}/api/chat", "llama3.2"),
            f"{OURS}, unary, Ollama": lambda: ollama_unary.chat(ASKED),
            f"{OURS}, streamed, Ollama": lambda: ollama_streamed.chat(ASKED),
            **ollama_answers(self.url, tokens),
            **litellm_answers(self.url, tokens),
            **pydantic_ai_answers(self.url, tokens),
        }
        return [self.contender(name, work, times=times) for name, work in found.items()]

    def chunks(self, tokens: int, times: int) -> list[Contender]:
        """Streams of `tokens` tokens, each an HTTP chunk; a unit is a chunk."""
        hosted_url, ollama_url = f"{self.url}/{tokens}/v1/chat/completions", f"{self.url}/{tokens}/api/chat"
        llm, ollama = self.ours(tokens), self.ours(tokens, ollama=True)
        found: dict[str, Work] = {
            "httpx2 aiter_raw": bare_raw(hosted_url, "gpt-5-mini"),
            "httpx2 aiter_lines + json": bare_lines(hosted_url, "gpt-5-mini"),
            f"{OURS} stream": lambda: drain(llm.stream(ASKED)),
            f"{OURS} stream.text()": lambda: drain(llm.stream(ASKED), text=True),
            f"{OURS} chat": lambda: llm.chat(ASKED),
            **openai_chunks(self.url, tokens),
            "httpx2 aiter_raw, Ollama": bare_raw(ollama_url, "llama3.2"),
            "httpx2 aiter_lines + json, Ollama": bare_lines(ollama_url, "llama3.2"),
            f"{OURS} stream, Ollama": lambda: drain(ollama.stream(ASKED)),
            f"{OURS} chat, Ollama": lambda: ollama.chat(ASKED),
            **ollama_chunks(self.url, tokens),
            **litellm_chunks(self.url, tokens),
            **pydantic_ai_chunks(self.url, tokens),
        }
        return [self.contender(name, work, times=times, units=tokens) for name, work in found.items()]


async def _once(work: Work) -> None:
    await work()


async def drain(stream: Any, *, text: bool = False) -> None:
    """Reads one of our streams to its end."""
    async with stream:
        async for _ in stream.text() if text else stream:
            pass


def bare_unary(url: str, model: str) -> Work:
    """What the least client would do: post, read the JSON, take the text out of it."""
    client, body = httpx2.AsyncClient(), {"model": model, "messages": MESSAGES, "stream": False}

    async def work() -> str:
        answer = (await client.post(url, json=body)).json()
        message: Any = answer["message"] if "message" in answer else answer["choices"][0]["message"]
        return str(message["content"])

    return work


def bare_raw(url: str, model: str) -> Work:
    """Bytes as they come, thrown away."""
    client, body = httpx2.AsyncClient(), {"model": model, "messages": MESSAGES, "stream": True}

    async def work() -> None:
        async with client.stream("POST", url, json=body) as response:
            async for _ in response.aiter_raw():
                pass

    return work


def bare_lines(url: str, model: str) -> Work:
    """What the least streaming client would do: lines, and the JSON in them."""
    client, body = httpx2.AsyncClient(), {"model": model, "messages": MESSAGES, "stream": True}

    async def work() -> None:
        async with client.stream("POST", url, json=body) as response:
            async for line in response.aiter_lines():
                data = line.removeprefix("data: ")
                if data.startswith("{"):
                    json.loads(data)

    return work


def _openai(url: str, tokens: int) -> Any:
    import openai

    return openai.AsyncOpenAI(base_url=f"{url}/{tokens}/v1", api_key="key", max_retries=2)


def openai_answers(url: str, tokens: int) -> dict[str, Work]:
    if find_spec("openai") is None:
        return {}
    create = _openai(url, tokens).chat.completions.create
    return {"openai, unary": lambda: create(model="gpt-5-mini", messages=MESSAGES)}


def openai_chunks(url: str, tokens: int) -> dict[str, Work]:
    if find_spec("openai") is None:
        return {}
    create = _openai(url, tokens).chat.completions.create

    async def work() -> None:
        async for _ in await create(model="gpt-5-mini", messages=MESSAGES, stream=True):
            pass

    return {"openai stream": work}


def ollama_answers(url: str, tokens: int) -> dict[str, Work]:
    if find_spec("ollama") is None:
        return {}
    import ollama

    client = ollama.AsyncClient(host=f"{url}/{tokens}")
    return {"ollama, unary": lambda: client.chat(model="llama3.2", messages=MESSAGES)}


def ollama_chunks(url: str, tokens: int) -> dict[str, Work]:
    if find_spec("ollama") is None:
        return {}
    import ollama

    client = ollama.AsyncClient(host=f"{url}/{tokens}")

    async def work() -> None:
        async for _ in await client.chat(model="llama3.2", messages=MESSAGES, stream=True):
            pass

    return {"ollama stream": work}


def _litellm(url: str, tokens: int) -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the internet on import
    import litellm

    where = {"model": "openai/gpt-5-mini", "api_base": f"{url}/{tokens}/v1", "api_key": "key"}
    return litellm.Router([{"model_name": "m", "litellm_params": where}]).acompletion


def litellm_answers(url: str, tokens: int) -> dict[str, Work]:
    if find_spec("litellm") is None:
        return {}
    complete = _litellm(url, tokens)
    return {"litellm Router, unary": lambda: complete(model="m", messages=MESSAGES)}


def litellm_chunks(url: str, tokens: int) -> dict[str, Work]:
    if find_spec("litellm") is None:
        return {}
    complete = _litellm(url, tokens)

    async def work() -> None:
        async for _ in await complete(model="m", messages=MESSAGES, stream=True):
            pass

    return {"litellm Router stream": work}


def _pydantic_ai(url: str, tokens: int) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/{tokens}/v1", api_key="key")
    return Agent(FallbackModel(OpenAIChatModel("gpt-5-mini", provider=provider)))


def pydantic_ai_answers(url: str, tokens: int) -> dict[str, Work]:
    if find_spec("pydantic_ai") is None:
        return {}
    agent = _pydantic_ai(url, tokens)
    return {"pydantic-ai fallback, unary": lambda: agent.run(ASKED)}


def pydantic_ai_chunks(url: str, tokens: int) -> dict[str, Work]:
    if find_spec("pydantic_ai") is None:
        return {}
    agent = _pydantic_ai(url, tokens)

    async def work() -> None:
        async with agent.run_stream(ASKED) as result:
            async for _ in result.stream_text(delta=True, debounce_by=None):
                pass

    return {"pydantic-ai fallback stream": work}
