"""What a model is told of a function: seen by the backend that is asked."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from resilient_llm import ChatRequest, Tool
from resilient_llm.testing import FakeBackend, say

from .kit import client

pytestmark = pytest.mark.anyio


class Place(BaseModel):
    city: str


def forecast(
    place: Place, unit: Literal["C", "F"] = "C", days: Annotated[int, Field(description="how many", ge=1)] = 1
) -> str:
    """The weather
    in a place.

    Nobody reads this.
    """
    return ""


class Weather:
    def now(self, city: str) -> str:
        """The weather now."""
        return city


async def told(*tools: Any) -> list[Tool]:
    backend = FakeBackend(say("yes"))
    await client(backend).chat("hi", tools=list(tools))
    request = backend.requests[0]
    assert isinstance(request, ChatRequest)
    return list(request.tools)


async def test_a_function_is_its_name_its_first_paragraph_and_its_annotations() -> None:
    (tool,) = await told(forecast)
    assert (tool.name, tool.description, tool.function) == ("forecast", "The weather in a place.", forecast)
    schema = tool.parameters
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["place"], False)
    unit, days = schema["properties"]["unit"], schema["properties"]["days"]
    assert (unit["enum"], unit["default"]) == (["C", "F"], "C")
    assert (days["type"], days["description"], days["minimum"]) == ("integer", "how many", 1)
    assert schema["$defs"]["Place"]["properties"]["city"]["type"] == "string"


async def test_a_part_of_a_function_keeps_its_name_and_a_method_loses_its_self() -> None:
    here, now = await told(partial(forecast, days=3), Weather().now)
    assert (here.name, here.description) == ("forecast", "The weather in a place.")
    assert here.parameters["properties"]["days"]["default"] == 3
    assert (now.name, list(now.parameters["properties"])) == ("now", ["city"])


async def test_a_tool_goes_as_it_is() -> None:
    given = Tool("search", "Finds.", {"type": "object", "properties": {}})
    assert await told(given) == [given]
