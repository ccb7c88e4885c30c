"""From a Python function to what a model is told of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from resilient_llm._errors import ConfigError
from resilient_llm._numbers import shown
from resilient_llm._types import Tool

ToolLike = Tool | Callable[..., Any] | Mapping[str, Any]


def tools_from(given: Sequence[ToolLike] | None) -> tuple[Tool, ...]:
    """The tools of a call: functions, `Tool`s or OpenAI-style dicts.

    Raises:
        ConfigError: one of them is none, or a parameter of a function has no JSON schema.
    """
    if given is not None and not isinstance(given, Sequence):
        raise ConfigError(f"tools: a list of tools is needed, not {type(given).__name__}")
    return tuple(_tool(one) for one in given or ())


def _tool(given: ToolLike) -> Tool:
    if isinstance(given, Tool):
        if not (isinstance(given.name, str) and given.name and isinstance(given.parameters, Mapping)):
            raise ConfigError("tools: a tool needs a name, which is a string, and a schema of its parameters, a dict")
        return given
    if isinstance(given, Mapping):
        function = given.get("function", given)
        if not isinstance(function, Mapping) or not function.get("name"):
            raise ConfigError("tools: a dict needs the shape {'type': 'function', 'function': {'name': …}}")
        schema = function.get("parameters", {"type": "object"})
        return _tool(Tool(function["name"], function.get("description") or "", schema))
    if not callable(given):
        raise ConfigError(f"tools: a function, a Tool or a dict is needed, not {type(given).__name__}")
    return tool_from(given)


def tool_from(function: Callable[..., Any]) -> Tool:
    """A tool from a function: its name, the first paragraph of its docstring, and a schema from its annotations.

    Raises:
        ConfigError: a parameter has no JSON schema, or is `*args` or `**kwargs`.
    """
    own = function.func if isinstance(function, partial) else function
    name = getattr(own, "__name__", type(own).__name__)
    if not name.isidentifier():
        raise ConfigError(f"tools: {name} is no name that a model can call; give a function made with def, or a Tool")
    fields: dict[str, Any] = {}
    try:
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ConfigError(f"tools: {name}: the model can only give arguments by name, not {parameter}")
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            fields[parameter.name] = (kind, ... if parameter.default is parameter.empty else parameter.default)
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        schema = model.model_json_schema()
    except (
        PydanticUserError,
        PydanticSchemaGenerationError,
        PydanticInvalidForJsonSchema,
        NameError,
        TypeError,
    ) as error:
        raise ConfigError(f"tools: {name}: no JSON schema for its parameters: {type(error).__name__}") from None
    schema.pop("title", None)
    schema.pop("description", None)
    description = (inspect.getdoc(own) or "").split("\n\n")[0].replace("\n", " ")
    return Tool(name, description, schema, function)


def schema_of(kind: Any) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """What checks an answer of this type, and the JSON schema that the model is told.

    Raises:
        ConfigError: the type has no JSON schema.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return adapter, adapter.json_schema()
    except Exception as error:  # noqa: BLE001  # for what is no type pydantic has no error of its own
        raise ConfigError(f"type: {shown(kind)} has no JSON schema: {type(error).__name__}") from None
