"""The events that a client tells to `on_event=`. See `AsyncClient`."""

from resilient_llm._events import (
    AnswerDegraded,
    AttemptEnded,
    AttemptStarted,
    BreakerChanged,
    CallEnded,
    CallStarted,
    ClientEvent,
    FellBack,
    FirstToken,
    PromptTrimmed,
    RetryPlanned,
    RoutePutAside,
    SlotsChanged,
)

__all__ = [
    "AnswerDegraded",
    "AttemptEnded",
    "AttemptStarted",
    "BreakerChanged",
    "CallEnded",
    "CallStarted",
    "ClientEvent",
    "FellBack",
    "FirstToken",
    "PromptTrimmed",
    "RetryPlanned",
    "RoutePutAside",
    "SlotsChanged",
]
