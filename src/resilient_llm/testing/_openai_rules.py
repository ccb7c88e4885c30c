"""What servers with OpenAI's API refuse, as their own words and documentation have it: the strict side of the fake.

It exists so that a request which only the lenient take is found in a test and not by a user. Rules of the file: it
knows nothing of how the library writes its requests; what a server refuses is data, how that is looked for is shared.
Sources: openai/openai-openapi; the validators of mistral-common; console.groq.com/docs/openai; api-docs.deepseek.com;
platform.moonshot.ai; docs.z.ai; help.aliyun.com/model-studio; Google's and Anthropic's pages on their compatible
endpoints; litellm 1.109 in front of Anthropic; the chat templates that Qwen, Mistral and Gemma publish.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from resilient_llm.testing._model import encode

_NAMES: Final = (
    "model messages stream stream_options max_tokens max_completion_tokens temperature top_p seed stop tools"
    " tool_choice parallel_tool_calls response_format reasoning_effort n user logprobs top_logprobs logit_bias"
    " metadata store service_tier frequency_penalty presence_penalty"
)
_COMMON: Final = frozenset(_NAMES.split())


@dataclass(frozen=True, slots=True)
class Rules:
    """What one server takes.

    Attributes:
        fields: of the body; `None` ignores those that it does not know.
        roles: of messages.
        efforts: values of `reasoning_effort`.
        cools: takes a temperature, also while it reasons.
        stops: the most stop sequences.
        forced: words and types of a tool choice.
        formats: types of `response_format`.
        ids: a pattern of tool call ids.
        system_first: one system message, at the beginning.
        alternates: user and assistant take turns, a user begins.
        blank: takes an empty string beside tool calls.
        null: takes null beside tool calls.
        names: a message may have a `name`.
        result_names: a result must have the name of its tool.
        echo: the field in which reasoning comes back.
        echo_needed: a message with tool calls must have it.
        urls: fetches images.
        tools_needed: wants `tools` where the history has tool calls, also an empty list; others refuse an empty one.
        style: whose envelope its refusals have.
    """

    fields: frozenset[str] | None = None
    roles: frozenset[str] = frozenset({"system", "user", "assistant", "tool"})
    efforts: frozenset[str] = frozenset({"none", "low", "medium", "high"})
    cools: bool = True
    stops: int = 1000
    forced: frozenset[str] = frozenset({"auto", "none", "required", "function"})
    formats: frozenset[str] = frozenset({"text", "json_object", "json_schema"})
    ids: str = r".+"
    system_first: bool = False
    alternates: bool = False
    blank: bool = True
    null: bool = True
    names: bool = True
    result_names: bool = False
    echo: str | None = None
    echo_needed: bool = False
    urls: bool = True
    tools_needed: bool = False
    style: Literal["openai", "mistral", "gemini"] = "openai"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused, and the field that is to blame."""

    text: str
    param: str
    field: bool = False  # the server does not take this field at all, or not this value of it


_DEVELOPER: Final = frozenset({"developer", "system", "user", "assistant", "tool"})
_OPENAI: Final = Rules(fields=_COMMON, roles=_DEVELOPER, efforts=frozenset(), stops=4, ids=r".{1,40}", blank=False)
_REASONS: Final = replace(
    _OPENAI, fields=_COMMON - {"max_tokens"}, efforts=frozenset({"low", "medium", "high"}), cools=False
)
_MISTRAL: Final = Rules(
    fields=(_COMMON - {"max_completion_tokens", "stream_options", "seed", "logit_bias", "store"}) | {"random_seed"},
    efforts=frozenset({"none", "high"}), forced=frozenset({"auto", "none", "any", "function"}), ids=r"[a-zA-Z0-9]{9}",
    system_first=True, names=False, result_names=True, style="mistral",
)  # fmt: skip
_DEEPSEEK: Final = Rules(
    fields=_COMMON | {"thinking"}, efforts=frozenset(), forced=frozenset({"auto", "none"}), stops=16,
    formats=frozenset({"text", "json_object"}), echo="reasoning_content", echo_needed=True,
)  # fmt: skip
_TEMPLATE: Final = Rules(system_first=True)
RULES: Final[tuple[tuple[str, str, Rules], ...]] = (
    ("openai|azure", r"o1-mini", replace(_REASONS, roles=_DEVELOPER - {"developer", "system"} | {"system"})),
    ("openai|azure", r"o(3|4-mini)", replace(_REASONS, fields=_COMMON - {"max_tokens", "stop"})),
    ("openai|azure", r"o\d", _REASONS),
    ("openai|azure", r"gpt-5\.", replace(_REASONS, efforts=_REASONS.efforts | {"none"})),
    ("openai|azure", r"gpt-5", replace(_REASONS, efforts=_REASONS.efforts | {"minimal"})),
    ("azure", r"mistral", _MISTRAL),
    ("openai|azure", r"", _OPENAI),
    ("mistral", r"", _MISTRAL),
    ("zai", r"", Rules(fields=_COMMON | {"thinking"}, efforts=frozenset(), forced=frozenset({"auto"}),
                       formats=frozenset({"text", "json_object"}))),
    ("dashscope", r"", Rules(efforts=frozenset(), forced=frozenset({"auto", "none", "function"}),
                             formats=frozenset({"text", "json_object"}))),
    ("litellm", r"", Rules(ids=r"[a-zA-Z0-9_-]{1,64}", tools_needed=True)),
    ("groq", r"qwen", Rules(fields=_COMMON, efforts=frozenset({"none", "default"}), stops=4, names=False)),
    ("groq", r"gpt-oss", Rules(fields=_COMMON, efforts=frozenset({"low", "medium", "high"}), stops=4, names=False)),
    ("groq", r"", Rules(fields=_COMMON, efforts=frozenset(), stops=4, names=False,
                        formats=frozenset({"text", "json_object"}))),
    ("deepseek", r"", _DEEPSEEK),
    ("moonshot", r"", replace(_DEEPSEEK, stops=5, urls=False)),
    ("openrouter", r"", Rules(ids=r"[a-zA-Z0-9_-]{1,40}", blank=False, echo="reasoning")),
    ("gemini", r"", Rules(fields=_COMMON, stops=5, blank=False, names=False, result_names=True, style="gemini")),
    ("anthropic", r"", Rules(system_first=True, ids=r"[a-zA-Z0-9_-]{1,64}", blank=False)),
    ("vllm|sglang|llamacpp", r"(mistral|codestral|devstral)",
     replace(_TEMPLATE, alternates=True, ids=r"[a-zA-Z0-9]{9}")),
    ("vllm|sglang|llamacpp", r"gemma", replace(_TEMPLATE, alternates=True)),
    ("tgi", r"", replace(_TEMPLATE, stops=4)),
    ("lmstudio", r"", replace(_TEMPLATE, urls=False)),
    ("vllm|sglang|llamacpp", r"", _TEMPLATE),
)  # fmt: skip


def rules_of(server: str, model: str) -> Rules | None:
    """What that model takes there, or `None` if there is no such server."""
    name = model.rpartition("/")[2].lower()
    return next((one for who, what, one in RULES if re.fullmatch(who, server) and re.match(what, name)), None)


def refusal_of(body: Mapping[str, Any], rules: Rules) -> Refusal | None:
    """The first thing that is wrong with a request, or `None`."""
    for check in (_fields, _values, _roles, _order, _contents, _calls):
        found = check(body, rules)
        if found is not None:
            return found
    return None


def envelope_of(refusal: Refusal, rules: Rules) -> tuple[int, Any]:
    """Status and body of the refusal, as this server writes them."""
    if rules.style == "mistral" and refusal.field:
        detail = {"type": "extra_forbidden", "loc": ["body", refusal.param], "msg": "Extra inputs are not permitted"}
        return 422, {"object": "error", "message": {"detail": [detail]}, "type": "invalid_request_error"}
    if rules.style == "gemini" and refusal.field:
        text = f'Invalid JSON payload received. Unknown name "{refusal.param}": Cannot find field.'
        return 400, encode([{"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}}])
    code = "unsupported_parameter" if refusal.field else None
    error = {"message": refusal.text, "type": "invalid_request_error", "param": refusal.param, "code": code}
    return 400, {"error": error}


def _fields(body: Mapping[str, Any], rules: Rules) -> Refusal | None:
    wrong = sorted(body.keys() - rules.fields) if rules.fields is not None else []
    return Refusal(f"Unsupported parameter: '{wrong[0]}' is not supported with this model.", wrong[0], True) if wrong \
        else None  # fmt: skip


def _values(body: Mapping[str, Any], rules: Rules) -> Refusal | None:
    effort = body.get("reasoning_effort")
    choice = body.get("tool_choice")
    form = body.get("response_format")
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    if effort is not None and effort not in rules.efforts:
        return Refusal(f"Unsupported value: 'reasoning_effort' does not support '{effort}'.", "reasoning_effort", True)
    if "temperature" in body and not rules.cools and effort != "none":
        return Refusal("Unsupported value: 'temperature' does not support this value.", "temperature", True)
    if len(body.get("stop") or ()) > rules.stops:
        return Refusal("Too many stop sequences.", "stop")
    if kind is not None and kind not in rules.forced:
        return Refusal("This model does not support this tool_choice.", "tool_choice", True)
    if isinstance(form, Mapping) and form.get("type") not in rules.formats:
        return Refusal("This response_format type is unavailable now", "response_format", True)
    if body.get("tools") == [] and not rules.tools_needed:
        return Refusal("Invalid 'tools': empty array. Expected an array with minimum length 1.", "tools")
    if form == {"type": "json_object"} and "json" not in str(body.get("messages")).lower():
        return Refusal("Prompt must contain the word 'json'.", "messages")
    return None


def _roles(body: Mapping[str, Any], rules: Rules) -> Refusal | None:
    known = {"role", "content", "name", "tool_calls", "tool_call_id", rules.echo}
    for at, message in enumerate(body["messages"]):
        if message.get("role") not in rules.roles:
            return Refusal(f"Unsupported value: 'messages[{at}].role'.", f"messages[{at}].role", True)
        extra = sorted(message.keys() - known)
        if extra:
            return Refusal(f"'messages[{at}].{extra[0]}' is not supported.", f"messages[{at}].{extra[0]}", True)
        if "name" in message and not rules.names and not (message["role"] == "tool" and rules.result_names):
            return Refusal(f"property 'messages[{at}].name' is not supported", f"messages[{at}].name", True)
    return None


def _order(body: Mapping[str, Any], rules: Rules) -> Refusal | None:
    roles = ["system" if one["role"] == "developer" else one["role"] for one in body["messages"]]
    if rules.system_first and "system" in roles[1:]:
        return Refusal("System message must be at the beginning.", "messages")
    spoken = [role for role in roles if role in ("user", "assistant")]
    turns = [role for one, role in zip(["", *roles], roles, strict=False) if (one, role) in (
        ("user", "user"), ("assistant", "assistant"))]  # fmt: skip
    if rules.alternates and (turns or spoken[:1] != ["user"]):
        return Refusal("Conversation roles must alternate user/assistant/user/assistant/...", "messages")
    return None


def _contents(body: Mapping[str, Any], rules: Rules) -> Refusal | None:
    for at, message in enumerate(body["messages"]):
        content, where = message.get("content"), f"messages[{at}].content"
        empty = content is None or (isinstance(content, str) and not content.strip()) or content == []
        if message.get("tool_calls"):
            if (content is None and not rules.null) or (content is not None and empty and not rules.blank):
                return Refusal("text content blocks must be non-empty", where)
        elif empty and message["role"] != "tool":
            return Refusal("must have either content or tool_calls, but not none", where)
        for part in content if isinstance(content, list) else ():
            if part.get("type") == "image_url":
                if message["role"] != "user":
                    return Refusal("Image URLs are only allowed for messages with role 'user'", where)
                if not rules.urls and not part["image_url"]["url"].startswith("data:"):
                    return Refusal("image URLs are not supported", where)
        if rules.echo_needed and message.get("tool_calls") and rules.echo not in message:
            return Refusal("reasoning_content is missing in assistant tool call message", f"messages[{at}]")
    return None


def _calls(body: Mapping[str, Any], rules: Rules) -> Refusal | None:
    seen: set[str] = set()
    waiting: set[str] = set()
    if rules.tools_needed and "tools" not in body and any(one.get("tool_calls") for one in body["messages"]):
        return Refusal("the tools= param is required where the messages hold tool calls", "tools")
    for at, message in enumerate(body["messages"]):
        where = f"messages[{at}]"
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                return Refusal("messages with role 'tool' must be a response to a preceding 'tool_calls'", where)
            if rules.result_names and not message.get("name"):
                return Refusal("function_response.name: Name cannot be empty.", where)
            waiting.discard(message["tool_call_id"])
            continue
        if waiting:
            return Refusal("Not the same number of function calls and responses", where)
        for call in message.get("tool_calls") or ():
            if not re.fullmatch(rules.ids, call["id"]) or call["id"] in seen:
                return Refusal(f"Tool call id was {call['id']} but must be of another form, and its own", where)
            if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", call["function"]["name"]):
                return Refusal("string does not match pattern", f"{where}.tool_calls.function.name")
            seen.add(call["id"])
            waiting.add(call["id"])
    return Refusal("an assistant message with 'tool_calls' must be followed by tool messages", "messages") if waiting \
        else None  # fmt: skip
