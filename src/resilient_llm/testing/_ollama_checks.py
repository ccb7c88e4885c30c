"""What Ollama refuses before a model looks at it, in the order in which it looks and in the words that it uses.

It is here so that a client's mistake is found by a test as the real server would find it: a bare string for `stop`, a
`keep_alive` without its unit, the arguments of a tool call as a string of JSON.

Rules of the file: pure; the texts are those of Go's `encoding/json` and `time`, and of ollama/ollama's `api/types.go`
and `server/routes.go`. A mistake in the types is a 400, one in the options a 500.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from resilient_llm.testing._script import Call
from resilient_llm.testing._steps import Status

_DURATION: Final = re.compile(r"[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h))+)")
_THINK: Final = (None, True, False, "low", "medium", "high", "max")
_TYPES: Final = {
    "/api/chat": "ChatRequest",
    "/api/generate": "GenerateRequest",
    "/api/embed": "EmbedRequest",
    "/api/show": "ShowRequest",
}
_ARGUMENTS: Final = (
    "json: cannot unmarshal string into Go struct field ChatRequest.messages.tool_calls.function.arguments of type"
    " api.ToolCallFunctionArguments"
)


def refusal(call: Call) -> Status | None:
    """What is wrong with the body of a request for a model."""
    if call.empty:
        return Status(400, "missing request body")
    if call.json is None:
        return Status(400, "unexpected EOF")
    if not isinstance(call.json, Mapping):
        kind = {list: "array", str: "string", bool: "bool"}.get(type(call.json), "number")
        return Status(400, f"json: cannot unmarshal {kind} into Go value of type api.{_TYPES[call.path]}")
    wrong = next(_mistakes(call), None)
    if wrong is not None:
        return Status(400, wrong)
    if not call.body.get("model"):
        return Status(400, "model is required")
    return None


def refused_option(call: Call) -> Status | None:
    """What is wrong with its options: a caller's mistake with the status of a server's.

    Names that Ollama does not know do nothing, so that their type does not matter.
    """
    options = call.body.get("options")
    for name, value in options.items() if isinstance(options, Mapping) else ():
        kind, fits = _OPTIONS.get(name, ("", _anything))
        if value is not None and not fits(value):
            return Status(500, f'option "{name}" must be of type {kind}')
    wanted = call.body.get("format")
    if wanted not in (None, "", "json") and not isinstance(wanted, Mapping):
        written = json.dumps(json.dumps(wanted))
        return Status(500, f'invalid format: {written}; expected "json" or a valid JSON Schema object')
    return None


def _mistakes(call: Call) -> Iterator[str]:
    """What Go cannot read into its types."""
    request = call.body
    kept = request.get("keep_alive")
    if isinstance(kept, bool):
        yield "Unsupported type: 'bool'"
    if isinstance(kept, str) and not _DURATION.fullmatch(kept):
        missing = re.fullmatch(r"[-+]?[\d.]+", kept)
        yield f'time: missing unit in duration "{kept}"' if missing else f'time: invalid duration "{kept}"'
    if call.path == "/api/embed":
        given = request.get("input") or []
        texts = given if isinstance(given, list) else [given]
        if not all(isinstance(one, str) for one in texts):
            yield "invalid input type"
        return
    think = request.get("think")
    if think not in _THINK:
        yield f'invalid think value: "{think}" (must be "high", "medium", "low", "max", true, or false)'
    if any(isinstance(one, str) for one in _arguments(request)):
        yield _ARGUMENTS


def _arguments(request: Mapping[str, Any]) -> Iterator[object]:
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        for one in calls if isinstance(calls, list) else ():
            function = one.get("function") if isinstance(one, Mapping) else None
            yield function.get("arguments") if isinstance(function, Mapping) else None


def _anything(value: object) -> bool:
    del value
    return True


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_OPTIONS: Final[Mapping[str, tuple[str, Callable[[object], bool]]]] = {
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep"), ("integer", _number)),
    **dict.fromkeys(("seed", "num_predict", "top_k", "repeat_last_n", "draft_num_predict"), ("integer", _number)),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), ("float32", _number)),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), ("float32", _number)),
    "use_mmap": ("boolean", lambda value: isinstance(value, bool)),
    "stop": ("array", lambda value: isinstance(value, list)),
}
