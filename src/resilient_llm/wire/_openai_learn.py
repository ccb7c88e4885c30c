"""What a refusal teaches about a server: a dialect that differs from the last one in what was refused.

No table knows every server. One that refuses a field and names it is sent the request once more without it, and is not
sent it again. Rules of the file: pure; a refusal of what is not in the body teaches nothing, and nothing is learned
twice, so that no two re-sends are for one reason; without a model, its messages and its tools there is no request.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace

from resilient_llm._types import ChatRequest
from resilient_llm.wire._openai_profiles import LEVELS, Profile
from resilient_llm.wire._openai_request import chat_body

_NEEDED = frozenset({"model", "messages", "stream", "tools", "functions"})
_CAPS: dict[str, str] = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_FORMS = ("json_schema", "json_object", "prompt")  # from the surest form of an answer by schema to the weakest


def learned(profile: Profile, parameter: str | None, request: ChatRequest) -> Profile | None:
    """The dialect without what was refused; `None` if this request would be the same in it.

    Args:
        profile: in which the request was written.
        parameter: the field, as the server names it.
        request: which was refused.
    """
    path = [step for step in re.split(r"[.\[\]]+", parameter or "") if step and step != "body"]
    if not path:
        return None
    body = chat_body(request, "", profile, stream=True)
    if path[0] == "messages":
        made = _message(profile, path[-1])
    elif path[0] in _NEEDED or path[0] not in body:
        return None
    else:
        made = _field(profile, path[0], request)
    return made if made is not None and chat_body(request, "", made, stream=True) != body else None


def told(before: Profile, after: Profile) -> str:
    """What was learned, in words."""
    if after.lacks != before.lacks:
        return f"no {' and no '.join(sorted(after.lacks - before.lacks))}"
    if after.reasoning != before.reasoning:
        lost = [level for level in LEVELS if after.reasoning[level] is None and before.reasoning[level] is not None]
        return f"no reasoning={lost[0]!r}"
    for one in fields(Profile):
        value = getattr(after, one.name)
        if one.name != "refused" and value != getattr(before, one.name):
            return f"{one.name} is {value!r}"
    return f"no {' and no '.join(sorted(after.refused - before.refused))}"


def _field(profile: Profile, name: str, request: ChatRequest) -> Profile | None:
    refused = profile.refused | {name}
    if name in _CAPS:
        other = _CAPS[name]
        swapped = other not in profile.refused and name == profile.max_tokens_field
        return replace(profile, max_tokens_field=other if swapped else name, refused=refused)  # type: ignore[arg-type]
    if name == "response_format" and request.schema is not None and profile.schema != "prompt":
        return replace(profile, schema=_FORMS[_FORMS.index(profile.schema) + 1])  # type: ignore[arg-type]
    if name == "stream_options":
        return replace(profile, stream_usage=False)
    level = request.reasoning
    if level is not None and name in (profile.reasoning[level] or {}):
        return replace(profile, reasoning={**profile.reasoning, level: None})
    return replace(profile, refused=refused)


def _message(profile: Profile, name: str) -> Profile | None:
    """Without a field of a message."""
    if name == "role":
        return replace(profile, system_role="system")
    if name == "name":
        return replace(profile, names=False, names_results=False)
    if name == profile.reasoning_echo:
        return replace(profile, reasoning_echo=None, reasoning_required=False)
    return None
