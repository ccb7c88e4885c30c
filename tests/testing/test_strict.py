"""`FakeOpenAI(strict=)`: each thing that a real server refuses is refused, by its name, and a plain request is not."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from resilient_llm.testing import FakeOpenAI, say

HI = {"role": "user", "content": "hi"}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "1", "name": "f"}
LONG = {**CALL, "id": "x" * 41}
PICTURE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
SYSTEM = {"role": "system", "content": "s"}


def history(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages)}


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [  # server, model, what is in the request, whom it blames
    ("openai", "o3", {"max_tokens": 5}, "max_tokens"),
    ("openai", "gpt-4o", {"reasoning_effort": "low"}, "reasoning_effort"),
    ("openai", "o3", {"temperature": 0.5}, "temperature"),
    ("openai", "gpt-4o", {"stop": list("abcde")}, "stop"),
    ("deepseek", "deepseek-chat", {"tool_choice": "required"}, "tool_choice"),
    ("deepseek", "deepseek-chat", {"response_format": {"type": "json_schema"}}, "response_format"),
    ("openai", "gpt-4o", {"tools": []}, "tools"),
    ("openai", "gpt-4o", {"response_format": {"type": "json_object"}}, "messages"),
    ("openai", "gpt-4o", history({"role": "wizard", "content": "hi"}), "messages[0].role"),
    ("openai", "gpt-4o", history({**HI, "reasoning_content": "hm"}), "messages[0].reasoning_content"),
    ("groq", "llama-4", history({**HI, "name": "ann"}), "messages[0].name"),
    ("vllm", "qwen3", history(HI, SYSTEM), "messages"),
    ("vllm", "gemma3", history(HI, HI), "messages"),
    ("vllm", "gemma3", history({"role": "assistant", "content": "hi"}), "messages"),
    ("anthropic", "claude", history({"role": "user", "content": " "}), "messages[0].content"),
    ("anthropic", "claude", history(HI, {**ASKED, "content": ""}, RESULT), "messages[1].content"),
    ("openai", "gpt-4o", history({"role": "assistant", "content": [PICTURE]}), "messages[0].content"),
    ("lmstudio", "m", history({"role": "user", "content": [PICTURE]}), "messages[0].content"),
    ("deepseek", "deepseek-chat", history(HI, ASKED, RESULT), "messages[1]"),
    ("litellm", "claude", history(HI, ASKED, RESULT), "tools"),
    ("openai", "gpt-4o", history(HI, RESULT), "messages[1]"),
    ("gemini", "gemini-2.5", history(HI, ASKED, {**RESULT, "name": ""}), "messages[2]"),
    ("openai", "gpt-4o", history(HI, ASKED, HI), "messages[2]"),
    ("openai", "gpt-4o", history(HI, ASKED), "messages"),
    ("openai", "gpt-4o", history(HI, {**ASKED, "tool_calls": [LONG]}, RESULT), "messages[1]"),
    ("openai", "gpt-4o", history(HI, {**ASKED, "tool_calls": [CALL, CALL]}, RESULT), "messages[1]"),
    (
        "openai", "gpt-4o",
        history(HI, {**ASKED, "tool_calls": [{**CALL, "function": {"name": "f g", "arguments": "{}"}}]}, RESULT),
        "messages[1].tool_calls.function.name",
    ),
]  # fmt: skip


def asked(server: str, model: str, request: dict[str, Any]) -> httpx2.Response:
    with FakeOpenAI(say("yes"), strict=server) as fake:
        body = {"model": model, "messages": [HI], **request}
        return httpx2.post(f"{fake.url}/chat/completions", json=body)


@pytest.mark.parametrize(("server", "model", "request_", "param"), REFUSED)
def test_what_a_server_does_not_take_is_refused_by_its_name(
    server: str, model: str, request_: dict[str, Any], param: str
) -> None:
    refused = asked(server, model, request_)
    assert refused.status_code == 400
    if server != "gemini":
        assert refused.json()["error"]["param"] == param


@pytest.mark.parametrize("server", sorted({server for server, *_ in REFUSED}))
def test_a_plain_request_is_taken(server: str) -> None:
    assert asked(server, "m", {}).status_code == 200


def test_the_envelopes_of_mistral_and_gemini_are_their_own() -> None:
    mistral = asked("mistral", "mistral-large", {"seed": 7})
    assert (mistral.status_code, mistral.json()["message"]["detail"][0]["loc"]) == (422, ["body", "seed"])
    gemini = asked("gemini", "gemini-2.5", {"thinking": {}})
    assert (gemini.status_code, gemini.json()[0]["error"]["status"]) == (400, "INVALID_ARGUMENT")
