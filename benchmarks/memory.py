"""What memory is needed: the peak after a thousand calls, and what each of a thousand streams at once holds.

Each figure comes from a fresh process (`python -m benchmarks.memory URL WHAT WHO`), because a peak never falls again.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CALLS = STREAMS = 1000
BARE, OURS = "httpx2", "resilient_llm"


def peers() -> list[str]:
    """The SDKs that are installed."""
    return [name for name in ("openai", "ollama") if find_spec(name) is not None]


def peak() -> int:
    """Bytes of memory that this process has had at most.

    Linux counts what the parent had when it started us among the `ru_maxrss`; the high-water mark is ours alone.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_process(url: str, what: str, who: str) -> dict[str, int]:
    """The figures of one such process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", url, what, who], capture_output=True, text=True, check=True
    )
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


async def calls(url: str, who: str) -> dict[str, int]:
    """A thousand whole answers of 64 tokens, one after the other."""
    work = _caller(f"{url}/64", who)
    for _ in range(CALLS):
        await work()
    return {"peak": peak()}


def _caller(url: str, who: str) -> Callable[[], Any]:
    asked: Any = [{"role": "user", "content": "Why is the sky blue?"}]
    if who == OURS:
        from resilient_llm import AsyncClient, OpenAICompatible

        llm = AsyncClient(OpenAICompatible("gpt-5-mini", base_url=f"{url}/v1", api_key="key"))
        return lambda: llm.chat("Why is the sky blue?")
    if who == "openai":
        import openai

        create = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key").chat.completions.create
        return lambda: create(model="gpt-5-mini", messages=asked)
    if who == "ollama":
        import ollama

        client = ollama.AsyncClient(host=url)
        return lambda: client.chat(model="llama3.2", messages=asked)
    return _bare(f"{url}/v1/chat/completions", {"model": "gpt-5-mini", "messages": asked, "stream": False})


def _bare(url: str, body: Any) -> Callable[[], Any]:
    import httpx2
    from pydantic import BaseModel

    class Text(BaseModel):
        role: str
        content: str

    class Choice(BaseModel):
        index: int
        message: Text
        finish_reason: str

    class Completion(BaseModel):
        id: str
        model: str
        choices: list[Choice]

    client = httpx2.AsyncClient()

    async def work() -> Any:
        return Completion.model_validate_json((await client.post(url, json=body)).content)

    return work


async def streams(url: str, who: str) -> dict[str, int]:
    """A thousand streams that have all begun before one may go on."""
    from benchmarks._server import many_files

    many_files()
    begin = _streamer(url, who)
    await begin("1", _nothing)  # what is made once is not the streams'
    gc.collect()
    before, begun, all_begun = peak(), 0, asyncio.Event()

    async def started() -> None:
        nonlocal begun
        begun += 1
        if begun == STREAMS:
            all_begun.set()
        await all_begun.wait()

    tasks = [asyncio.create_task(begin("64h", started)) for _ in range(STREAMS)]
    async with asyncio.timeout(30):
        await all_begun.wait()
        held = peak() - before
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /release HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readline()
        texts = await asyncio.gather(*tasks)
        writer.close()
    return {"complete": sum(text.count(" token") == 64 for text in texts), "each": held // STREAMS}


async def _nothing() -> None:
    pass


def _streamer(url: str, who: str) -> Callable[[str, Callable[[], Any]], Any]:
    if who == OURS:
        return _our_streamer(url)
    import httpx2

    client = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=30)
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Why?"}], "stream": True}

    async def begin(tokens: str, started: Callable[[], Any]) -> str:
        got: list[bytes] = []
        async with client.stream("POST", f"{url}/{tokens}/v1/chat/completions", json=body) as response:
            async for piece in response.aiter_raw():
                if not got:
                    await started()
                got.append(piece)
        return b"".join(got).decode()

    return begin


def _our_streamer(url: str) -> Callable[[str, Callable[[], Any]], Any]:
    from resilient_llm import AsyncClient, Bulkhead, OpenAICompatible, Route

    def client(tokens: str) -> AsyncClient:
        backend = OpenAICompatible("gpt-5-mini", base_url=f"{url}/{tokens}/v1", api_key="key")
        return AsyncClient(Route(backend, bulkhead=Bulkhead(STREAMS)))

    clients = {tokens: client(tokens) for tokens in ("1", "64h")}

    async def begin(tokens: str, started: Callable[[], Any]) -> str:
        async with clients[tokens].stream("Why?") as stream:
            await started()
            return "".join([text async for text in stream.text()])

    return begin


if __name__ == "__main__":
    _, url, what, who = sys.argv
    print(json.dumps(asyncio.run({"calls": calls, "streams": streams}[what](url, who))))
