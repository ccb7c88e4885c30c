"""The calls that every stack is given: an answer of a hosted model, a fallback to a local one, a tool, a failure.

The hosted model is OpenAI's by name and address, so that stacks know its price, and a canned transport by nature:
nothing leaves this machine.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from resilient_llm import AsyncClient, OpenAICompatible, Retry, Route, ToolCall, Usage
from resilient_llm.errors import AllRoutesFailed
from resilient_llm.telemetry import Telemetry, execute_tool
from resilient_llm.testing import FakeBackend, say

HOSTED, LOCAL = "gpt-4o-mini", "qwen3:8b"
INPUT, OUTPUT = 1_000_000, 100_000  # tokens, enough for a price that can be read
ANSWER, QUESTION = "Rayleigh scattering.", "Why is the sky blue?"
CONVERSATION = "c42"


@dataclass
class Hosted:
    """OpenAI, played.

    Attributes:
        healthy: it answers; else it throttles.
    """

    healthy: bool = True
    asked: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if not self.healthy:
            return httpx.Response(503, json={"error": {"message": "The engine is overloaded", "type": "server_error"}})
        usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": HOSTED}
        events = [
            {
                **head,
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": ANSWER}, "finish_reason": None}],
            },
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**head, "choices": [], "usage": usage},
        ]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        headers = {"content-type": "text/event-stream", "x-request-id": "req_1"}
        return httpx.Response(200, headers=headers, text="".join([*lines, "data: [DONE]\n\n"]))


async def feed(**providers: Any) -> None:
    """Makes the calls, with these providers."""
    hosted = Hosted()
    wants = ToolCall("get_weather", {"city": "Paris"}, "call_0")
    usage = Usage(INPUT, OUTPUT)
    local = FakeBackend(
        say("Rayleigh", " scattering.", usage=usage), say(tool_calls=[wants], usage=usage), say("Sunny.", usage=usage),
        model=LOCAL, provider="ollama", name=f"ollama:{LOCAL}",
    )  # fmt: skip
    telemetry = Telemetry(content=True)
    async with httpx.AsyncClient(transport=httpx.MockTransport(hosted)) as http:
        cloud = Route(OpenAICompatible(HOSTED, api_key="sk-none", http_client=http), retry=Retry(attempts=2))
        llm = AsyncClient(cloud, local, telemetry=telemetry, **providers)
        await llm.chat(QUESTION)  # 1 the hosted model answers
        hosted.healthy = False
        await llm.chat(QUESTION)  # 2 it does not, the local one does

        def get_weather(city: str) -> str:
            """The weather in a city."""
            return f"sunny in {city}"

        alone = AsyncClient(local, telemetry=telemetry, **providers)
        reply = await alone.chat("Weather in Paris?", tools=[get_weather], conversation=CONVERSATION)  # 3 with a tool
        (call,) = reply.tool_calls
        with execute_tool(call, content=True, tracer_provider=providers.get("tracer_provider")):
            found = get_weather(**call.arguments)
        history = ["Weather in Paris?", reply.message, {"role": "tool", "content": found, "tool_call_id": call.id}]
        async with alone.stream(history, conversation=CONVERSATION) as stream:  # 4 as a stream
            async for _ in stream:
                pass
        other = Route(OpenAICompatible("gpt-4o", api_key="sk-none", http_client=http), retry=Retry(attempts=1))
        with suppress(AllRoutesFailed):
            await AsyncClient(cloud, other, telemetry=telemetry, **providers).chat(QUESTION)  # 5 nobody answers
