"""An answer of Ollama from bytes to events: success means `done: true`, however the bytes are cut."""

# ruff: noqa: E501  # a row of a table is a line

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import _errors as e
from resilient_llm._replies import Done, ReasoningDelta, TextDelta, Usage
from resilient_llm._types import ChatRequest, Message, Tool, ToolCall
from resilient_llm.wire import Decoder, WireEvent
from resilient_llm.wire.ollama import OllamaCodec

RECORDED = Path(__file__).parent / "recorded"
REQUEST = ChatRequest((Message("user", "hi"),))
SCRIPT = (
    "Hello! This is the scripted reply of a tiny test model:"
    " it counts one two three four five six seven eight nine ten café-語🙂, goodbye."
)
THOUGHT, ANSWER = SCRIPT.split(" five", 1)[0], "five" + SCRIPT.split(" five", 1)[1]
GIGA = 10**9


def decoder(request: ChatRequest = REQUEST, *, stream: bool = True) -> Decoder:
    return OllamaCodec("m").decoder(request, stream=stream)


def decode(*pieces: bytes, request: ChatRequest = REQUEST, stream: bool = True) -> list[WireEvent]:
    one = decoder(request, stream=stream)
    return [event for piece in pieces for event in one.feed(piece)] + one.close()


def outcome(pieces: Iterable[bytes]) -> list[WireEvent] | type[e.LLMError]:
    try:
        return decode(*pieces)
    except e.LLMError as error:
        return type(error)


def line(content: Any = "", *, done: Any = False, message: dict[str, Any] | None = None, **more: Any) -> bytes:
    said = {"role": "assistant", "content": content, **(message or {})}
    return json.dumps({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": said, "done": done, **more}).encode() + b"\n"  # fmt: skip


def last(reason: str | None = "stop", content: str = "", **more: Any) -> bytes:
    return line(content, done=True, **({} if reason is None else {"done_reason": reason}), **more)


def call(name: str = "w", arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": {} if arguments is None else arguments}, **more}


def text(events: list[WireEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def thought(events: list[WireEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta))


def calls(events: list[WireEvent]) -> list[ToolCall]:
    return [event for event in events if isinstance(event, ToolCall)]


def done(events: list[WireEvent]) -> Done:
    assert [isinstance(event, Done) for event in events].count(True) == 1
    assert isinstance(events[-1], Done)
    return events[-1]


PARIS = ToolCall("get_weather", {"city": "Paris"}, "call_0")
# text, reasoning, calls, finish, usage, degraded
WHOLE: dict[str, tuple[str, str, list[ToolCall], str, Usage, tuple[str, ...]]] = {
    "ollama_chat.ndjson": (SCRIPT, "", [], "stop", Usage(11, 42), ()),
    "ollama_chat.json": (SCRIPT, "", [], "stop", Usage(11, 42), ()),
    "ollama_length.ndjson": ("Hello! This is", "", [], "length", Usage(11, 4), ("cut_at_length",)),
    "ollama_thinking.ndjson": (ANSWER, THOUGHT, [], "stop", Usage(11, 44), ()),
    "ollama_thinking.json": (ANSWER, THOUGHT, [], "stop", Usage(11, 44), ()),
    "ollama_thinking_length.ndjson": ("", "Hello! This", [], "length", Usage(11, 4), ("cut_at_length", "thinking_ate_budget")),
    "ollama_tools.ndjson": ("", "", [PARIS], "tool_calls", Usage(210, 4), ()),
    "ollama_tools.json": ("", "", [PARIS], "tool_calls", Usage(210, 4), ()),
    "ollama_033_tools.ndjson": (
        "",
        "Two cities, two calls.",
        [
            ToolCall("get_weather", {"city": "Paris", "days": 3}, "call_x1b2c3d4"),
            ToolCall("get_weather", {"city": "Zürich", "days": 3}, "call_e5f6g7h8"),
        ],
        "tool_calls",
        Usage(187, 61),
        (),
    ),
    "ollama_033_cloud.ndjson": ("Four.", "Short.", [], "stop", Usage(74, 19), ()),
}  # fmt: skip
BROKEN: dict[str, type[e.LLMError]] = {
    "ollama_killed.ndjson": e.ServerError,
    "ollama_bad_format.ndjson": e.BadRequest,
    "ollama_033_silent_end.ndjson": e.Truncated,
    "ollama_033_not_done.json": e.Truncated,
    "ollama_033_no_done_flag.ndjson": e.Truncated,
    "ollama_load.json": e.Malformed,
}
BODIES = {name: (RECORDED / name).read_bytes() for name in (*WHOLE, *BROKEN)}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", WHOLE)
def test_recorded_answers(name: str, stream: bool) -> None:
    """The decoder takes either form, whichever was asked for."""
    events = decode(BODIES[name], stream=stream)
    end = done(events)
    assert (text(events), thought(events), calls(events), end.finish_reason, end.usage, end.degraded) == WHOLE[name]


@pytest.mark.parametrize("name", BROKEN)
def test_recorded_failures(name: str) -> None:
    assert outcome([BODIES[name]]) is BROKEN[name]


@given(st.sampled_from(sorted(BODIES)), st.lists(st.integers(0, 5000), max_size=12))
def test_any_split_gives_the_same_events(name: str, cuts: list[int]) -> None:
    body = BODIES[name]
    ends = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    pieces = [body[start:end] for start, end in pairwise(ends)]
    assert outcome(pieces) == outcome([body])


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\n\n"])
def test_line_ends_and_single_bytes_make_no_difference(name: str, ends: bytes) -> None:
    body = BODIES[name].replace(b"\n", ends)
    assert outcome(body[at : at + 1] for at in range(len(body))) == outcome([BODIES[name]])


@pytest.mark.parametrize("name", [*WHOLE, *BROKEN])
def test_no_beginning_of_an_answer_is_taken_for_the_answer(name: str) -> None:
    body = BODIES[name].rstrip(b"\n")
    for end in range(len(body)):
        assert outcome([body[:end]]) is e.Truncated


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        line("a"),
        line("a") + b'{"model":"m","mess',
        line("a", done_reason="stop"),
        line("a") + last().replace(b'"done": true', b'"done": false'),
    ],
)
def test_an_end_without_done_is_truncated(body: bytes) -> None:
    assert outcome([body]) is e.Truncated


def test_a_reason_without_done_is_told() -> None:
    with pytest.raises(e.Truncated, match="without done: true, though with done_reason 'stop'"):
        decode(line("a"), line("b", done_reason="stop"))


@pytest.mark.parametrize("reason", ["load", "unload"])
@pytest.mark.parametrize("before", [b"", line("a")])
def test_a_load_is_no_answer(reason: str, before: bytes) -> None:
    with pytest.raises(e.Malformed, match=f"done_reason '{reason}'"):
        decode(before, last(reason))


def test_what_follows_the_last_line_is_not_read() -> None:
    one = decoder()
    events = one.feed(line("a") + last() + b'{"error":"x"}\n')
    assert done(events).finish_reason == "stop"
    assert one.feed(b"garbage\n" * 3) == []
    assert one.close() == []


def test_finishing_is_true_from_the_last_line_on() -> None:
    one = decoder()
    seen = [one.finishing]
    for piece in (line("a"), last(), b"\n"):
        one.feed(piece)
        seen.append(one.finishing)
    assert seen == [False, False, True, True]


def test_an_answer_in_one_piece_comes_at_its_end() -> None:
    one = decoder(stream=False)
    assert one.feed(last(content="all").rstrip()) == []
    assert text(one.close()) == "all"


def test_thoughts_come_before_the_text_and_the_calls_of_their_line() -> None:
    events = decode(last(content="b", message={"thinking": "a", "tool_calls": [call()]}))
    assert [type(event) for event in events] == [ReasoningDelta, TextDelta, ToolCall, Done]


@pytest.mark.parametrize("reason", ["stop", None])
def test_the_last_line_may_hold_text(reason: str | None) -> None:
    assert text(decode(line("a"), last(reason, "b"))) == "ab"


def test_nothing_that_comes_beside_text_is_lost() -> None:
    beside = [{"thinking": "hm"}, {"tool_calls": [call("w")]}]
    bare = json.dumps({"model": "m", "message": {"content": "d", "tool_calls": [call("x")]}, "done": False}).encode()
    events = decode(line("a"), *(line("b", message=more) for more in beside), bare + b"\n", last())
    assert (text(events), thought(events), [one.name for one in calls(events)]) == ("abbd", "hm", ["w", "x"])


def test_a_line_without_text_makes_no_event() -> None:
    assert [type(event) for event in decode(line(""), line("a"), line(""), line("b"), last())] == [TextDelta, TextDelta, Done]  # fmt: skip


def test_a_call_is_handed_over_when_it_comes() -> None:
    """A call takes long to write, and silence is measured in events."""
    one = decoder()
    assert one.feed(line(message={"tool_calls": [call("w", {"a": 1})]})) == [ToolCall("w", {"a": 1}, "call_0")]


@pytest.mark.parametrize(
    ("reason", "finish", "raw", "degraded"),
    [
        ("stop", "stop", "stop", ()),
        ("length", "length", "length", ("cut_at_length",)),
        ("", "stop", None, ()),
        (None, "stop", None, ()),
        ("content_filter", "other", "content_filter", ()),
    ],
)
def test_reasons(reason: str | None, finish: str, raw: str | None, degraded: tuple[str, ...]) -> None:
    end = done(decode(line("a"), last(reason)))
    assert (end.finish_reason, end.raw_finish_reason, end.degraded) == (finish, raw, degraded)


@pytest.mark.parametrize(("reason", "finish"), [("stop", "tool_calls"), ("", "tool_calls"), ("length", "length")])
def test_calls_change_what_stop_means(reason: str, finish: str) -> None:
    assert done(decode(line(message={"tool_calls": [call()]}), last(reason))).finish_reason == finish


def test_calls_without_an_id_are_numbered_over_the_whole_answer() -> None:
    body = line(message={"tool_calls": [call("a"), call("b", id="call_x")]}) + line(message={"tool_calls": [call("c")]})
    assert [(one.name, one.id) for one in calls(decode(body, last()))] == [
        ("a", "call_0"),
        ("b", "call_x"),
        ("c", "call_2"),
    ]


def test_a_call_without_arguments_has_none() -> None:
    (one,) = calls(decode(line(message={"tool_calls": [{"function": {"name": "now", "arguments": None}}]}), last()))
    assert one.arguments == {}


@pytest.mark.parametrize("reason", ["stop", "length", ""])
def test_an_answer_with_nothing_in_it_is_no_answer(reason: str) -> None:
    with pytest.raises(e.EmptyReply) as caught:
        decode(line(""), last(reason))
    assert ("token limit" in caught.value.message) == (reason == "length")


def test_reasoning_alone_is_not_empty() -> None:
    events = decode(line(message={"thinking": "hm"}), last())
    assert (text(events), thought(events), done(events).degraded) == ("", "hm", ())


def test_a_limit_that_thinking_used_up_is_told() -> None:
    eaten = done(decode(line(message={"thinking": "hm"}), last("length")))
    assert eaten.degraded == ("cut_at_length", "thinking_ate_budget")
    begun = done(decode(line(message={"thinking": "hm"}), line("a"), last("length")))
    assert begun.degraded == ("cut_at_length",)


TOOL = Tool("search", "", {})


@pytest.mark.parametrize(
    ("tools", "choice", "degraded"),
    [
        ((TOOL,), "required", ("field_dropped",)),
        ((TOOL,), "search", ("field_dropped",)),
        ((TOOL,), "auto", ()),
        ((TOOL,), "none", ()),
        ((TOOL,), None, ()),
        ((), "required", ()),
    ],
)
def test_a_call_that_could_not_be_forced_is_told(
    tools: tuple[Tool, ...], choice: str | None, degraded: tuple[str, ...]
) -> None:
    request = ChatRequest(REQUEST.messages, tools=tools, tool_choice=choice)
    assert done(decode(line("a"), last(), request=request)).degraded == degraded


FIGURES = {
    "total_duration": 9 * GIGA,
    "load_duration": 2 * GIGA,
    "prompt_eval_duration": GIGA,
    "eval_duration": 3 * GIGA,
}


def test_durations_are_seconds_and_the_queue_is_what_no_part_has() -> None:
    end = done(decode(line("a"), last(**FIGURES)))
    assert (end.load, end.server_queue) == (2.0, 3.0)


def test_a_real_queue_is_small_and_not_negative() -> None:
    end = done(decode(BODIES["ollama_chat.ndjson"]))
    assert end.load == pytest.approx(0.260532846)
    assert end.server_queue == pytest.approx(0.327603983 - 0.260532846 - 0.001249198 - 0.065041688)
    assert done(decode(line("a"), last(**{**FIGURES, "total_duration": GIGA}))).server_queue == 0.0


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("wrong", [None, "1", 1.5, True, -1, 2**63, 10**400])
def test_without_every_figure_the_queue_is_not_known(name: str, wrong: Any) -> None:
    end = done(decode(line("a"), last(**{**FIGURES, name: wrong})))
    assert end.server_queue is None
    assert end.load == (None if name == "load_duration" else 2.0)


def test_a_schema_runs_a_thinking_model_twice_and_hides_the_queue() -> None:
    request = ChatRequest(REQUEST.messages, schema={"type": "object"})
    assert done(decode(line("{}"), last(**FIGURES), request=request)).server_queue == 3.0
    body = line(message={"thinking": "hm"}) + line("{}") + last(**FIGURES)
    assert done(decode(body, request=request)).server_queue is None


def test_counts_are_usage_and_what_is_no_count_is_left_out() -> None:
    counted = {"prompt_eval_count": 7, "eval_count": 3, "prompt_eval_cached_count": 5}
    assert done(decode(line("a"), last(**counted))).usage == Usage(7, 3, 5)
    for wrong in (None, -1, "7", 7.0, True, []):
        assert done(decode(line("a"), last(prompt_eval_count=wrong))).usage == Usage()


def test_the_server_names_its_model() -> None:
    assert done(decode(line("a"), last())).model == "m"
    assert done(decode(line("a", model=5), last(model=None))).model is None


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("mark", [{"remote_host": "https://ollama.com:443"}, {"remote_model": "gpt-oss:120b"}])
def test_a_request_that_was_handed_on_is_told(where: str, mark: dict[str, str]) -> None:
    first, final = (mark, {}) if where == "first" else ({}, mark)
    assert done(decode(line("a", **first), last(**final))).remote is True
    assert done(decode(line("a"), last(remote_host=""))).remote is False


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_error_is_found_on_every_line(at: int) -> None:
    lines = [line("a"), line("b"), last()]
    lines[at] = lines[at][:-2] + b',"error":"an error was encountered while running the model: unexpected EOF"}\n'
    assert outcome(lines) is e.ServerError


WRONG: list[Any] = [
    "x", 5, None, True, [1], [],
    {}, {"done": False}, {"status": "pulling manifest"}, {"response": "text", "done": False},
    {"message": "text", "done": False}, {"message": [], "done": False}, {"message": 5, "done": True},
    *({"message": {"content": wrong}, "done": False} for wrong in (5, ["a"], {"a": 1}, True)),
    *({"message": {"thinking": wrong}, "done": False} for wrong in (5, ["a"], {"a": 1}, True)),
    *({"message": {"content": "a"}, "done": wrong} for wrong in ("true", 1, "", [], None)),
    *({"message": {"content": "a"}, "done": True, "done_reason": wrong} for wrong in (5, ["stop"], {"a": 1})),
    *({"message": {"tool_calls": wrong}, "done": False} for wrong in (
        "x", 5, {"a": 1}, [5], [None], [{}], [{"function": None}], [{"function": []}], [{"function": {}}],
        [{"function": {"name": 5}}], [{"function": {"name": "w", "arguments": '{"a":1}'}}],
        [{"function": {"name": "w", "arguments": ["a"]}}], [{"function": {"name": "w"}, "id": 5}],
    )),
]  # fmt: skip


@pytest.mark.parametrize("first", [b"", line("a")])
@pytest.mark.parametrize("value", WRONG, ids=[json.dumps(value)[:60] for value in WRONG])
def test_json_of_another_shape_is_malformed(value: Any, first: bytes) -> None:
    assert outcome([first, json.dumps(value).encode() + b"\n", last()]) is e.Malformed


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>a portal</body></html>",
        b"  <!DOCTYPE html>\n<html>",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03garbage\n",
        b"data: {}\n\n",
        b"not json\n",
        b'{"message":{"content":"a"\n',
        b'{"message":{"content":NaN},"done":false}\n',
        b'{"message":{"content":"a"},"done":false,"total_duration":NaN}\n',
        b'{"message":{"content":"\xff\xfe"},"done":false}\n',
        b'{"message":{"content":"\\ud800"},"done":false}\n',
        b'{"a":' * 100_000 + b"\n",
        b"[" * 100_000 + b"\n",
        b'{"message":{"content":"a"},"done":false,"eval_count":' + b"9" * 5000 + b"}\n",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_bytes_that_are_no_answer_are_malformed(body: bytes) -> None:
    assert outcome([body]) is e.Malformed
    assert outcome([line("a"), body]) is e.Malformed


def test_a_page_of_html_is_called_that() -> None:
    with pytest.raises(e.Malformed, match="a page of HTML"):
        decode(b"<html>\n")


def test_a_tool_call_without_a_name_is_what_the_model_wrote() -> None:
    assert outcome([line(message={"tool_calls": [call("")]})]) is e.OutputInvalid


def test_a_line_of_fifty_megabytes_is_malformed_before_it_is_whole() -> None:
    one = decoder()
    with pytest.raises(e.Malformed, match="longer than"):
        for _ in range(50):
            one.feed(b"a" * 2**20)


def test_no_error_shows_what_the_server_wrote_as_an_answer() -> None:
    for body in (b'{"message":{"content":["secret"]},"done":false}\n', b'{"secret\n', b'{"message":"secret"}\n'):
        with pytest.raises(e.LLMError) as caught:
            decode(body)
        assert "secret" not in repr(caught.value)
