"""What a call needs of a model beside text, so that a route which lacks it is passed over before anything is sent.

Rules of the file: unknown means allowed; a lack is something that the server, a table or the user said.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal, get_args

from resilient_llm._types import ChatRequest

Need = Literal["tools", "vision", "schema"]
NEEDS: tuple[Need, ...] = get_args(Need)
_CALLED: dict[Need, str] = {"tools": "tools", "vision": "images", "schema": "an answer by JSON schema"}
# The fields of a request that carry each of them, in the spellings of the servers. A schema has other forms to fall
# back to (`Profile.schema`), so that a server which refuses the field does not lack it.
_FIELDS: dict[Need, re.Pattern[str]] = {
    "tools": re.compile(r"(tools|functions)\b"),
    "vision": re.compile(r"images?\b|image_url\b|.*\bimage_url\b"),
}


def needs_of(request: ChatRequest) -> list[Need]:
    """What this call cannot do without."""
    found: list[Need] = []
    if request.tools and request.tool_choice != "none":
        found.append("tools")
    if any(message.images for message in request.messages):
        found.append("vision")
    if request.schema is not None:
        found.append("schema")
    return found


def need_behind(parameter: str | None) -> Need | None:
    """The need whose field a server refuses with that name, or `None`: then the field is one to do without."""
    for need, pattern in _FIELDS.items():
        if parameter and pattern.match(parameter):
            return need
    return None


def why_not(request: ChatRequest, lacks: Collection[Need]) -> str | None:
    """What the call needs and is not there, in words; `None` if nothing."""
    missing = [_CALLED[need] for need in needs_of(request) if need in lacks] if lacks else []
    return f"the call needs {' and '.join(missing)}, which this model does not take" if missing else None
