"""How OpenAI-compatible servers differ in what they take: one table, as data.

They agree on a shape and differ in fields: one refuses what another requires. Rules of the file: a difference is a
field of `Profile`; who differs is a row of `PROFILES`, and the first row that fits provider and model wins; a row says
where it is known from. What no row knows is learned from the first refusal (`_openai_learn`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from resilient_llm._errors import ConfigError
from resilient_llm._needs import NEEDS, Need
from resilient_llm._numbers import whole
from resilient_llm._types import ChatRequest, Reasoning

Fields = Mapping[str, Any]
_VALUES: Mapping[str, tuple[str | None, ...]] = {
    "max_tokens_field": ("max_tokens", "max_completion_tokens"),
    "system_role": ("system", "developer"),
    "reasoning_echo": (None, "reasoning_content", "reasoning"),
    "seed_field": ("seed", "random_seed", None),
    "schema": ("json_schema", "json_object", "prompt"),
    "forced": ("required", "any", None),
}
LEVELS: tuple[Reasoning, ...] = ("none", "low", "medium", "high")


def _effort(**other: str) -> Mapping[Reasoning, Fields | None]:
    return {level: {"reasoning_effort": other.get(level, level)} for level in LEVELS}


def _switch(off: Fields | None, on: Fields | None) -> Mapping[Reasoning, Fields | None]:
    return {level: off if level == "none" else on for level in LEVELS}


@dataclass(frozen=True, slots=True)
class Profile:
    """How one dialect differs. The defaults are the common one.

    Attributes:
        name: whose it is.
        max_tokens_field: its name for the output cap.
        system_role: its role for system and developer messages.
        one_system: it takes one system message, at the beginning: all of them are joined there.
        alternates: user and assistant must take turns: neighbours of one role are joined.
        stream_usage: it takes `stream_options.include_usage`.
        samples_while_reasoning: it takes `temperature` while the model reasons.
        reasons_by_default: its model reasons when nothing is said about it.
        reasoning: the fields that each level of reasoning adds to the body; `None` is a level that it does not have.
        reasoning_echo: the field of an assistant message in which it wants its earlier reasoning back.
        reasoning_required: an assistant message with tool calls must have that field, if need be empty.
        seed_field: its name for the seed; `None` if it has none.
        max_stop: the stop sequences that it takes.
        schema: its surest form of an answer by JSON schema: `json_schema`; `json_object`, with the schema in the
            prompt; `prompt`, the schema in the prompt alone.
        forced: its word for a tool call that must be; `None` if it takes none.
        tool_ids: a pattern of the ids of tool calls; others get a new one.
        names: a message may carry a `name`.
        names_results: a tool's result carries the name of the tool.
        null_content: a message that only calls tools has `null` for content, else an empty string.
        fetches_images: it takes an image by its URL.
        empty_tools: where the history has tool calls, it wants `tools`, if need be empty.
        lacks: what its models do not take at all.
        refused: fields of the body that it refuses; they are left out.

    Raises:
        ConfigError: an attribute has no such value, or `reasoning` leaves out a level.
    """

    name: str = "compatible"
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    system_role: Literal["system", "developer"] = "system"
    one_system: bool = False
    alternates: bool = False
    stream_usage: bool = True
    samples_while_reasoning: bool = True
    reasons_by_default: bool = False
    reasoning: Mapping[Reasoning, Fields | None] = field(default_factory=_effort)
    reasoning_echo: Literal["reasoning_content", "reasoning"] | None = None
    reasoning_required: bool = False
    seed_field: Literal["seed", "random_seed"] | None = "seed"
    max_stop: int | None = None
    schema: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    forced: Literal["required", "any"] | None = "required"
    tool_ids: str = r"[\x21-\x7e]{1,256}"
    names: bool = True
    names_results: bool = False
    null_content: bool = False
    fetches_images: bool = True
    empty_tools: bool = False
    lacks: frozenset[Need] = frozenset()
    refused: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, values in _VALUES.items():
            if getattr(self, name) not in values:
                known = ", ".join(map(repr, values))
                raise ConfigError(f"{name}: {getattr(self, name)!r:.60} is not one of {known}")
        for name in ("lacks", "refused"):
            given = getattr(self, name)
            if not isinstance(given, (tuple, list, set, frozenset)) or not all(isinstance(one, str) for one in given):
                raise ConfigError(f"{name}: {given!r:.60} is not a collection of names")
            object.__setattr__(self, name, frozenset(given))
        if not self.lacks <= set(NEEDS):
            raise ConfigError(f"lacks: {sorted(self.lacks)!r:.60} is not among {', '.join(NEEDS)}")
        if not isinstance(self.reasoning, Mapping) or set(self.reasoning) != set(LEVELS):
            raise ConfigError(f"reasoning: fields, or None, are needed for each of {', '.join(LEVELS)}")
        if self.max_stop is not None:
            whole("max_stop", self.max_stop)
        try:
            re.compile(self.tool_ids)
        except (re.error, TypeError) as error:
            raise ConfigError(f"tool_ids: {self.tool_ids!r:.60} is not a pattern: {error}") from None

    def samples(self, request: ChatRequest) -> bool:
        """It takes a temperature with this request."""
        if self.samples_while_reasoning:
            return True
        if request.reasoning is None:
            return not self.reasons_by_default
        return (self.reasoning[request.reasoning] or {}).get("reasoning_effort") == "none"

    def thinks(self, request: ChatRequest) -> bool:
        """Its model thinks before it answers this request."""
        if request.reasoning is None or self.reasoning[request.reasoning] is None:
            return self.reasons_by_default
        return request.reasoning != "none"

    def differences(self) -> dict[str, Any]:
        """What is not as in the common dialect, by the name of the field."""
        common = Profile()
        return {
            one.name: value
            for one in fields(self)
            if one.name != "name" and (value := getattr(self, one.name)) != getattr(common, one.name)
        }


_NEVER = _switch({}, None)  # a model that does not reason: "none" is what it does anyway
_THINKING = _switch({"thinking": {"type": "disabled"}}, {"thinking": {"type": "enabled"}})
_TEMPLATE: Mapping[Reasoning, Fields | None] = {
    level: {"chat_template_kwargs": {"enable_thinking": level != "none", "reasoning_effort": level}} for level in LEVELS
}

# https://github.com/openai/openai-openapi: ids of at most 40 characters, 4 stop sequences, none on o3 and o4-mini.
_OPENAI = Profile("openai", tool_ids=r"[\x21-\x7e]{1,40}", max_stop=4, null_content=True)
_REASONER = replace(
    _OPENAI,
    max_tokens_field="max_completion_tokens",
    system_role="developer",
    samples_while_reasoning=False,
    reasons_by_default=True,
)
_O = replace(_REASONER, reasoning=_effort(none="low"))
# mistral-common and the errors 3230 and 3280 of Mistral's API; 422 `extra_forbidden` for what it does not know.
_MISTRAL_IDS = r"[a-zA-Z0-9]{9}"
_MISTRAL = Profile(
    "mistral",
    one_system=True,
    stream_usage=False,  # it sends the usage unasked
    reasoning=_switch({"reasoning_effort": "none"}, {"reasoning_effort": "high"}),
    seed_field="random_seed",
    forced="any",
    tool_ids=_MISTRAL_IDS,
    names=False,
    names_results=True,
)
# console.groq.com/docs/openai: no `name` in messages; structured outputs and reasoning depend on the model.
_GROQ = Profile("groq", max_stop=4, names=False)
# api-docs.deepseek.com/guides: JSON mode only; with thinking on, tool calls come back with their reasoning.
_DEEPSEEK = Profile(
    "deepseek",
    reasoning=_THINKING,
    reasoning_echo="reasoning_content",
    reasoning_required=True,
    schema="json_object",
    forced=None,
    max_stop=16,
)
# platform.moonshot.ai/docs: "thinking is enabled but reasoning_content is missing in assistant tool call message".
_MOONSHOT = replace(_DEEPSEEK, name="moonshot", fetches_images=False, max_stop=5)
# docs.claude.com, OpenAI SDK compatibility: system messages are hoisted and joined, seed and response_format ignored.
# The budgets are litellm's for the same levels (litellm 1.109, constants.py).
_ANTHROPIC = Profile(
    "anthropic",
    one_system=True,
    reasoning={
        level: {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget else {}
        for level, budget in zip(LEVELS, (0, 1024, 2048, 4096), strict=True)
    },
    seed_field=None,
    schema="prompt",
    tool_ids=r"[a-zA-Z0-9_-]{1,64}",
    null_content=True,
)
# Templates raise on a system message that is not the first (Qwen 3.5 and later), on roles that do not alternate
# (Mistral, Gemma), on ids that are not Mistral's; thinking is switched by arguments of the template.
_TEMPLATED = Profile("vllm", one_system=True, reasoning=_TEMPLATE)
_VLLM = replace(
    _TEMPLATED, reasoning={level: {"reasoning_effort": level, **(_TEMPLATE[level] or {})} for level in LEVELS}
)
_STRICT_TEMPLATES = r"(mistral|mixtral|ministral|codestral|devstral|magistral|pixtral)"
_SELF_HOSTED = "vllm|sglang|llamacpp|lmstudio|tgi"

# Who reasons by default, and what is refused then: pydantic-ai's table of OpenAI's models, checked live in July 2026.
PROFILES: tuple[tuple[str, str, Profile], ...] = (
    ("openai|azure", r"o1-(mini|preview)", replace(_O, system_role="system")),
    ("openai|azure", r"o(3|4-mini)", replace(_O, refused=frozenset({"stop"}))),
    ("openai|azure", r"o\d", _O),
    ("openai|azure", r"gpt-5[\w.]*-chat", replace(_OPENAI, max_tokens_field="max_completion_tokens", reasoning=_NEVER)),
    ("openai|azure", r"gpt-5\.(1|2|3|4)(?!.*(codex|pro))", replace(_REASONER, reasons_by_default=False)),
    # "none" came with 5.1; before it, "minimal" is the least
    ("openai|azure", r"gpt-5(?!\.)", replace(_REASONER, reasoning=_effort(none="minimal"))),
    ("openai|azure", r"gpt-5", _REASONER),
    ("openai|azure", r"(chatgpt|gpt-[34])", replace(_OPENAI, reasoning=_NEVER)),
    ("azure", r"(mistral|ministral|codestral|pixtral)", _MISTRAL),
    ("openai|azure", r"", _OPENAI),
    ("mistral", r"magistral", replace(_MISTRAL, reasons_by_default=True, reasoning=_switch(None, {}))),
    ("mistral", r"", _MISTRAL),
    ("groq", r"qwen", replace(_GROQ, reasoning=_switch({"reasoning_effort": "none"}, {"reasoning_effort": "default"}))),
    ("groq", r"gpt-oss", replace(_GROQ, reasons_by_default=True, reasoning=_effort(none="low"))),
    ("groq", r"(llama-4|kimi)", replace(_GROQ, reasoning=_NEVER)),
    ("groq", r"", replace(_GROQ, reasoning=_NEVER, schema="json_object")),
    ("deepseek", r"deepseek-(reasoner|v4)", replace(_DEEPSEEK, reasons_by_default=True)),
    ("deepseek", r"", _DEEPSEEK),
    ("moonshot", r"kimi-(k2\.5|k2\.6|k3|k2-thinking)", replace(_MOONSHOT, reasons_by_default=True)),
    ("moonshot", r"", _MOONSHOT),
    # docs.z.ai: `thinking`, JSON mode
    ("zai", r"", Profile("zai", reasoning=_THINKING, schema="json_object", forced=None)),
    # help.aliyun.com/model-studio: `enable_thinking`, JSON mode
    (
        "dashscope",
        r"",
        Profile(
            "dashscope",
            reasoning=_switch({"enable_thinking": False}, {"enable_thinking": True}),
            schema="json_object",
            forced=None,
        ),
    ),
    # openrouter.ai/docs: `reasoning` in and out; behind it stands any of the others, so the tightest ids
    (
        "openrouter",
        r"",
        Profile(
            "openrouter",
            reasoning={
                level: {"reasoning": {"enabled": False} if level == "none" else {"effort": level}} for level in LEVELS
            },
            reasoning_echo="reasoning",
            tool_ids=r"[a-zA-Z0-9_-]{1,40}",
            null_content=True,
        ),
    ),
    # ai.google.dev/gemini-api/docs/openai: unknown fields are refused, a result is found by the name of its tool
    ("gemini", r"", Profile("gemini", max_stop=5, names=False, names_results=True, null_content=True)),
    ("anthropic", r"", _ANTHROPIC),
    # badlogic/pi-mono: "Anthropic (via LiteLLM/proxy) requires the tools param when conversation has tool_calls"
    ("litellm", r"", Profile("litellm", tool_ids=r"[a-zA-Z0-9_-]{1,40}", empty_tools=True)),
    (_SELF_HOSTED, _STRICT_TEMPLATES, replace(_VLLM, alternates=True, tool_ids=_MISTRAL_IDS)),
    (_SELF_HOSTED, r"gemma", replace(_VLLM, alternates=True)),
    ("vllm|sglang", r"", _VLLM),
    ("llamacpp", r"", replace(_TEMPLATED, name="llamacpp")),
    ("lmstudio", r"", Profile("lmstudio", one_system=True, fetches_images=False)),
    ("tgi", r"", Profile("tgi", one_system=True, max_stop=4)),  # validation.rs: MAX_STOP_SEQUENCES
)


def profile_for(provider: str, model: str) -> Profile:
    """The dialect of a model at a provider (`openai`, `azure`, `vllm`, …); the common one if nothing else is known."""
    name, provider = model.rpartition("/")[2].lower(), provider.lower()
    for providers, models, profile in PROFILES:
        if re.fullmatch(providers, provider) and re.match(models, name):
            return profile if profile.name == provider else replace(profile, name=provider)
    return Profile(provider)
