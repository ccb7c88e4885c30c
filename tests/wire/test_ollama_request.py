"""What Ollama is sent: never anything that it could cut, and never a request without an end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient_llm import _errors as e
from resilient_llm._types import ChatRequest, EmbedRequest, Image, Message, Tool, ToolCall
from resilient_llm.wire.ollama import OllamaCodec, load_body, show_body

HI = (Message("user", "hi"),)
WEATHER = Tool("get_weather", "The weather in a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
SEARCH = Tool("search", "", {"type": "object"})
WINDOW = 8192


def codec(**more: Any) -> OllamaCodec:
    return OllamaCodec("llama3.2", **{"window": lambda: WINDOW, **more})


def body(request: ChatRequest | EmbedRequest | None = None, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    call = codec(**more).encode(request or ChatRequest(HI), stream=stream)
    made: dict[str, Any] = json.loads(call.body)
    return made


def message(*messages: Message) -> dict[str, Any]:
    made: dict[str, Any] = body(ChatRequest(messages))["messages"][-1]
    return made


def test_the_least_request_is_this() -> None:
    call = codec().encode(ChatRequest(HI), stream=True)
    assert call.path == "/api/chat"
    assert json.loads(call.body) == {
        "model": "llama3.2",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "truncate": False,
        "shift": False,
        "options": {"num_predict": WINDOW},
    }


def test_everything_that_a_call_can_say_is_sent() -> None:
    request = ChatRequest(
        HI,
        max_tokens=100,
        temperature=0.0,
        seed=7,
        stop=("END", "STOP"),
        tools=(WEATHER, SEARCH),
        tool_choice="auto",
        reasoning="low",
        schema={"type": "object"},
    )
    made = body(request, stream=False, num_ctx=4096)
    assert made == {
        "model": "llama3.2",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "truncate": False,
        "shift": False,
        "think": "low",
        "format": {"type": "object"},
        "options": {"num_ctx": 4096, "num_predict": 100, "temperature": 0.0, "seed": 7, "stop": ["END", "STOP"]},
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "The weather in a city.",
                    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
                },
            },
            {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}},
        ],
    }


@pytest.mark.parametrize(
    ("max_tokens", "options", "window", "sent"),
    [
        (100, {"num_predict": 50}, WINDOW, 100),
        (None, {"num_predict": 50}, WINDOW, 50),
        (None, {"num_predict": 0}, WINDOW, 0),
        (None, {"num_predict": -1}, WINDOW, -1),  # the user's own word, also for ten windows
        (None, None, WINDOW, WINDOW),
        (None, None, None, 4096),
        (100, None, None, 100),
    ],
)
def test_an_answer_always_has_an_end(
    max_tokens: int | None, options: dict[str, Any] | None, window: int | None, sent: int
) -> None:
    made = body(ChatRequest(HI, max_tokens=max_tokens), options=options, window=lambda: window)
    assert made["options"]["num_predict"] == sent


def test_the_window_is_asked_for_each_request() -> None:
    known: list[int | None] = [None]
    one = codec(window=lambda: known[0])
    sent = []
    for known[0] in (None, 2048, 8192):
        sent.append(json.loads(one.encode(ChatRequest(HI), stream=True).body)["options"]["num_predict"])
    assert sent == [4096, 2048, 8192]


@pytest.mark.parametrize(("shift", "sent"), [(False, {"shift": False}), (True, {"shift": True}), (None, {})])
def test_shift_is_what_the_backend_says(shift: bool | None, sent: dict[str, bool]) -> None:
    made = body(shift=shift)
    load = json.loads(load_body(codec(shift=shift)))
    assert {key: made[key] for key in made.keys() & {"shift"}} == sent
    assert {key: load[key] for key in load.keys() & {"shift"}} == sent
    assert made["truncate"] is False


@pytest.mark.parametrize(
    ("think", "reasoning", "sent"),
    [
        (None, None, None),
        (True, None, True),
        (False, None, False),
        ("max", None, "max"),
        (None, "none", False),
        (True, "none", False),
        (False, "high", "high"),
        ("max", "medium", "medium"),
    ],
)
def test_thinking_is_what_the_call_says_and_else_the_backend(think: Any, reasoning: Any, sent: Any) -> None:
    assert body(ChatRequest(HI, reasoning=reasoning), think=think).get("think") == sent


def test_options_of_the_call_win_over_those_of_the_backend_and_extra_wins_over_both() -> None:
    request = ChatRequest(HI, temperature=0.1, seed=2, extra={"options": {"seed": 3, "top_p": 0.5}, "logprobs": True})
    made = body(request, num_ctx=2048, options={"num_ctx": 1, "temperature": 0.9, "seed": 1, "top_k": 5})
    assert made["options"] == {
        "num_ctx": 2048,
        "num_predict": WINDOW,
        "temperature": 0.1,
        "seed": 3,
        "top_k": 5,
        "top_p": 0.5,
    }
    assert made["logprobs"] is True


def test_extra_has_the_last_word_about_every_field() -> None:
    made = body(ChatRequest(HI, extra={"truncate": True, "think": True}), think=False)
    assert (made["truncate"], made["think"]) == (True, True)


@pytest.mark.parametrize("where", ["backend", "extra"])
def test_a_single_stop_sequence_becomes_the_list_that_ollama_wants(where: str) -> None:
    given = {"stop": "END"}
    made = body(options=given) if where == "backend" else body(ChatRequest(HI, extra={"options": given}))
    assert made["options"]["stop"] == ["END"]


def test_encoding_changes_nothing_that_its_user_holds() -> None:
    options = {"stop": "END", "top_k": 1}
    extra = {"options": {"top_p": 0.5}}
    body(ChatRequest(HI, seed=1, extra=extra), options=options, num_ctx=512)
    assert (options, extra) == ({"stop": "END", "top_k": 1}, {"options": {"top_p": 0.5}})


@pytest.mark.parametrize("options", [["top_k"], 5, "top_k=5"])
def test_options_that_are_no_mapping_are_refused_with_an_example(options: Any) -> None:
    with pytest.raises(e.ConfigError, match="options: a mapping such as"):
        codec(options=options)
    with pytest.raises(e.ConfigError, match="extra: options: a mapping such as"):
        body(ChatRequest(HI, extra={"options": options}))


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(e.ConfigError, match="JSON"):
        body(ChatRequest(HI, extra={"x": object()}))


def test_keep_alive_goes_with_no_request() -> None:
    assert "keep_alive" not in body()
    assert "keep_alive" not in body(EmbedRequest(("a",)))


def tools(choice: str | None) -> list[str]:
    made = body(ChatRequest(HI, tools=(WEATHER, SEARCH), tool_choice=choice))
    return [one["function"]["name"] for one in made.get("tools", [])]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, ["get_weather", "search"]),
        ("auto", ["get_weather", "search"]),
        ("none", []),
        ("required", ["get_weather", "search"]),
        ("search", ["search"]),
    ],
)
def test_a_choice_of_tools_is_made_by_what_is_shown(choice: str | None, sent: list[str]) -> None:
    assert tools(choice) == sent


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_roles_are_kept(role: str) -> None:
    assert message(Message(role, "text")) == {"role": role, "content": "text"}


def test_a_developer_is_the_system() -> None:
    assert message(Message("developer", "be brief"))["role"] == "system"


def test_an_image_is_bare_base64() -> None:
    images = [Image(data="aGk="), Image(data="aG8=", media_type="image/jpeg")]
    made = message(Message("user", "what is it", images=images))
    assert made == {"role": "user", "content": "what is it", "images": ["aGk=", "aG8="]}


def test_a_data_url_is_base64_too() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    assert message(Message("user", [part]))["images"] == ["aGk="]


def test_an_image_by_url_is_refused_here_but_may_go_elsewhere() -> None:
    with pytest.raises(e.UnsupportedParameter, match=r"Image\(data=") as caught:
        message(Message("user", "what is it", images=[Image(data="aGk="), Image(url="https://example.com/secret.png")]))
    assert (caught.value.parameter, caught.value.falls_back, caught.value.retryable) == ("images", True, False)
    assert "secret" not in repr(caught.value)


def test_a_history_with_tools_keeps_thoughts_and_arguments_as_objects() -> None:
    calls = [ToolCall("get_weather", {"city": "Paris"}, "call_a"), ToolCall("search", {}, "")]
    made = message(Message("assistant", "", reasoning="two calls", tool_calls=calls))
    assert made == {
        "role": "assistant",
        "content": "",
        "thinking": "two calls",
        "tool_calls": [
            {"id": "call_a", "function": {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}},
            {"function": {"index": 1, "name": "search", "arguments": {}}},
        ],
    }


def test_the_result_of_a_tool_is_named_after_its_call() -> None:
    first = Message("assistant", "", tool_calls=[ToolCall("get_weather", {}, "call_0")])
    second = Message("assistant", "", tool_calls=[ToolCall("search", {}, "call_0")])
    named = Message("tool", "mild", name="weather", tool_call_id="call_0")
    result = Message("tool", "mild", tool_call_id="call_0")
    assert message(first, named)["tool_name"] == "weather"
    assert message(first, result) == {
        "role": "tool",
        "content": "mild",
        "tool_name": "get_weather",
        "tool_call_id": "call_0",
    }
    assert message(first, result, second, result)["tool_name"] == "search"
    assert message(Message("tool", "mild")) == {"role": "tool", "content": "mild"}


def test_an_embedding_is_never_cut_either() -> None:
    call = codec(num_ctx=512, options={"num_gpu": 0}).encode(EmbedRequest(("a", "b")), stream=True)
    assert call.path == "/api/embed"
    assert json.loads(call.body) == {
        "model": "llama3.2",
        "input": ["a", "b"],
        "truncate": False,
        "options": {"num_gpu": 0, "num_ctx": 512},
    }


def test_a_load_asks_nothing_and_has_the_options_of_the_requests() -> None:
    one = codec(num_ctx=512, options={"num_gpu": 0, "top_k": 3}, think=True)
    assert json.loads(load_body(one)) == {
        "model": "llama3.2",
        "messages": [],
        "stream": False,
        "shift": False,
        "options": {"num_gpu": 0, "top_k": 3, "num_ctx": 512},
    }
    assert json.loads(load_body(one, keep_alive="10m", embed=True)) == {
        "model": "llama3.2",
        "input": [],
        "keep_alive": "10m",
        "options": {"num_gpu": 0, "top_k": 3, "num_ctx": 512},
    }


@pytest.mark.parametrize("keep_alive", [0, -1, 300.5, "1h30m"])
def test_a_load_says_how_long_the_model_stays(keep_alive: Any) -> None:
    assert json.loads(load_body(codec(), keep_alive=keep_alive))["keep_alive"] == keep_alive


def test_what_is_shown_of_a_call_is_its_size() -> None:
    assert "hi" not in repr(codec().encode(ChatRequest(HI), stream=True)).replace("api/chat", "")


def test_the_body_for_show_names_the_model() -> None:
    assert json.loads(show_body("llama3.2")) == {"model": "llama3.2"}
