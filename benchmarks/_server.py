"""The other side of every benchmark: canned bytes over a raw asyncio protocol.

It runs in a process of its own, so that none of its time is counted, and does as little as a server can. What it
answers stands in the address: `/64/v1/chat/completions` gives 64 tokens, and with `/64h/…` a stream holds after its
first token until somebody asks for `/release`. Each event of a stream is one HTTP chunk.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
from functools import cache
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_OPENAI = {
    "created": 1767225600,
    "model": "gpt-5-mini",
    "service_tier": "default",
    "system_fingerprint": "fp_0123456789",
}
_OLLAMA = {"model": "llama3.2", "created_at": "2026-01-01T00:00:00.000000000Z"}
_SPENT = {
    "total_duration": 512345678, "load_duration": 12345678, "prompt_eval_count": 12, "prompt_eval_duration": 98765432,
    "eval_duration": 398765432,
}  # fmt: skip
_LOADED = {
    "name": "llama3.2:latest", "model": "llama3.2:latest", "digest": "0" * 64, "size": 2 << 30, "size_vram": 2 << 30,
    "context_length": 8192, "details": {"quantization_level": "Q4_K_M"},
}  # fmt: skip
_SHOWN = {"details": {"family": "llama", "quantization_level": "Q4_K_M"}, "capabilities": ["completion"],
          "model_info": {"general.architecture": "llama", "llama.context_length": 131072}}  # fmt: skip


def _tokens(count: int) -> list[str]:
    return [f" token{number}" for number in range(count)]  # LiteLLM breaks off a stream that repeats itself


def _openai_usage(count: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 12, "completion_tokens": count, "total_tokens": 12 + count,
        "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip


def _openai_events(count: int) -> list[bytes]:
    def event(choices: list[Any], usage: Any = None) -> bytes:
        body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", **_OPENAI, "choices": choices, "usage": usage}
        return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"

    def choice(delta: Any, finish: str | None = None) -> list[Any]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]

    pieces = [event(choice({"content": text})) for text in _tokens(count)]
    first = event(choice({"role": "assistant", "content": "", "refusal": None}))
    return [first, *pieces, event(choice({}, "stop")), event([], _openai_usage(count)), b"data: [DONE]\n\n"]


def _openai_whole(count: int) -> Any:
    message = {"role": "assistant", "content": "".join(_tokens(count)), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", **_OPENAI}
    return {**whole, "choices": [choice], "usage": _openai_usage(count)}


def _ollama_events(count: int) -> list[bytes]:
    def line(text: str, **more: Any) -> bytes:
        body = {**_OLLAMA, "message": {"role": "assistant", "content": text}, "done": bool(more), **more}
        return json.dumps(body, separators=(",", ":")).encode() + b"\n"

    return [*map(line, _tokens(count)), line("", done_reason="stop", eval_count=count, **_SPENT)]


def _ollama_whole(count: int) -> Any:
    message = {"role": "assistant", "content": "".join(_tokens(count))}
    return {**_OLLAMA, "message": message, "done": True, "done_reason": "stop", "eval_count": count, **_SPENT}


def _body(content: Any) -> bytes:
    body = json.dumps(content).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@cache
def answer(path: str, count: int, stream: bool) -> tuple[bytes, bytes]:
    """The answer in two parts, so that a stream can hold between them."""
    ollama = path.startswith("/api/chat")
    if not stream:
        fixed = {"/api/ps": {"models": [_LOADED]}, "/api/show": _SHOWN}
        return _body(fixed.get(path) or (_ollama_whole if ollama else _openai_whole)(count)), b""
    kind = b"application/x-ndjson" if ollama else b"text/event-stream"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    events = (_ollama_events if ollama else _openai_events)(count)
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    return head + b"".join(chunks[:2]), b"".join(chunks[2:]) + b"0\r\n\r\n"


class Peer(asyncio.Protocol):
    """One connection."""

    held: list[tuple[asyncio.WriteTransport, bytes]] = []  # noqa: RUF012  # of all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, rest = self.received.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self.received = rest[size:]
            self.reply(head.split(b" ", 2)[1].decode(), rest[:size])

    def reply(self, target: str, body: bytes) -> None:
        if target == "/release":
            while self.held:
                waiting, rest = self.held.pop()
                waiting.write(rest)
            self.transport.write(_body({}))
            return
        count, _, path = target.removeprefix("/").partition("/")
        path = f"/{path}"
        stream = b'"stream":true' in body or b'"stream": true' in body
        first, rest = answer(path, int(count.removesuffix("h")), stream)
        if stream and count.endswith("h"):
            self.transport.write(first)
            self.held.append((self.transport, rest))
        else:
            self.transport.write(first + rest)


async def serve() -> None:
    """Says its port, and ends with whoever started it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Peer, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def many_files() -> None:
    """Raises the soft limit on open files: a thousand streams are a thousand sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))


if __name__ == "__main__":
    many_files()
    asyncio.run(serve())
