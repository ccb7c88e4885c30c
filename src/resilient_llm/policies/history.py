"""What of a conversation goes along when it moves to another route.

What a model thought is bound to the route that it came from: elsewhere it is another model's secret, at best ignored
and at worst refused. How the rest is spelled is each server's own affair, and done where its requests are written.
"""

from __future__ import annotations

from dataclasses import replace

from resilient_llm._types import ChatRequest


def for_route(request: ChatRequest, route: str) -> ChatRequest:
    """The request without the reasoning of other routes. Reasoning of which nobody knows where it is from stays."""
    for message in request.messages:
        if message.reasoning and message.route not in (None, route):
            break
    else:
        return request
    own = (
        message
        if not message.reasoning or message.route in (None, route)
        else message.model_copy(update={"reasoning": None})
        for message in request.messages
    )
    return replace(request, messages=tuple(own))
