"""Prompts and answers for a span, in the message schema of the GenAI conventions. Only who asks for it gets it.

The shape is the one that Phoenix and MLflow parse: Phoenix drops a whole list for one bad item, and every answer that
has no `finish_reason` (which later conventions deprecate). Images are told, not shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from resilient_llm._types import ChatRequest, Message, Tool, ToolCall
from resilient_llm.telemetry._semconv import INPUT_MESSAGES, OUTPUT_MESSAGES, TOOL_DEFINITIONS

_FINISH = {"tool_calls": "tool_call"}


def dumps(value: Any) -> str:
    """JSON, whatever stands in it."""
    return json.dumps(value, ensure_ascii=False, default=lambda thing: f"<{type(thing).__name__}>")


def asked(request: ChatRequest) -> dict[str, str]:
    """The attributes that hold what was asked."""
    made: dict[str, str] = {INPUT_MESSAGES: dumps([_message(one) for one in request.messages])}
    if request.tools:
        made[TOOL_DEFINITIONS] = dumps([_tool(one) for one in request.tools])
    return made


def answered(text: str, reasoning: str, calls: Sequence[ToolCall], finish: str) -> dict[str, str]:
    """The attribute that holds the answer."""
    parts = _parts(text, reasoning, calls)
    return {
        OUTPUT_MESSAGES: dumps([{"role": "assistant", "parts": parts, "finish_reason": _FINISH.get(finish, finish)}])
    }


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        answer = {"type": "tool_call_response", "id": message.tool_call_id or "", "response": message.content}
        return {"role": "tool", "parts": [answer]}
    parts = _parts(message.content, message.reasoning or "", message.tool_calls)
    parts += [{"type": "text", "content": f"[{image.media_type}]"} for image in message.images]
    return {"role": message.role, "parts": parts}


def _parts(text: str, reasoning: str, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "reasoning", "content": reasoning}] if reasoning else []
    if text:
        parts.append({"type": "text", "content": text})
    parts += [{"type": "tool_call", "id": one.id, "name": one.name, "arguments": one.arguments} for one in calls]
    return parts


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function", "name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)
    }  # fmt: skip
