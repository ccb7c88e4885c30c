"""LLM calls that have to work: Ollama and OpenAI-compatible servers behind one typed client.

`AsyncClient` and `Client` are the doors, a list of routes is the fallback policy, `deadline` and `local_only` hold for
whole blocks of code. Errors live in `resilient_llm.errors`, fakes for tests in `resilient_llm.testing`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resilient_llm._client import AsyncClient
from resilient_llm._deadline import bind, deadline
from resilient_llm._errors import (
    AllRoutesFailed,
    ConfigError,
    ContextOverflow,
    DeadlineExceeded,
    LLMError,
    OutputInvalid,
    RateLimited,
    StreamInterrupted,
)
from resilient_llm._models import ModelInfo, Price
from resilient_llm._options import ChatOptions
from resilient_llm._replies import (
    Attempt,
    ChatReply,
    Done,
    EmbedReply,
    ParsedReply,
    ReasoningDelta,
    Restarted,
    ServedBy,
    Space,
    TextDelta,
    Timings,
    Usage,
)
from resilient_llm._route import Route
from resilient_llm._stream import ChatStream
from resilient_llm._sync import Client
from resilient_llm._sync_stream import Stream
from resilient_llm._types import ChatRequest, EmbedRequest, Image, Message, Tool, ToolCall
from resilient_llm._warnings import OptionWarning, ReloadWarning
from resilient_llm._zones import local_only
from resilient_llm.backends.base import Backend
from resilient_llm.policies.breaker import CircuitBreaker
from resilient_llm.policies.bulkhead import Bulkhead
from resilient_llm.policies.guard import ContextGuard, drop_oldest, refuse
from resilient_llm.policies.rate import RateLimit
from resilient_llm.policies.retry import Retry, RetryBudget
from resilient_llm.policies.timeouts import Timeouts
from resilient_llm.policies.tokens import TokenCounter

if TYPE_CHECKING:
    from resilient_llm.backends.ollama import Ollama
    from resilient_llm.backends.openai import OpenAICompatible

__all__ = [
    "AllRoutesFailed",
    "AsyncClient",
    "Attempt",
    "Backend",
    "Bulkhead",
    "ChatOptions",
    "ChatReply",
    "ChatRequest",
    "ChatStream",
    "CircuitBreaker",
    "Client",
    "ConfigError",
    "ContextGuard",
    "ContextOverflow",
    "DeadlineExceeded",
    "Done",
    "EmbedReply",
    "EmbedRequest",
    "Image",
    "LLMError",
    "Message",
    "ModelInfo",
    "Ollama",
    "OpenAICompatible",
    "OptionWarning",
    "OutputInvalid",
    "ParsedReply",
    "Price",
    "RateLimit",
    "RateLimited",
    "ReasoningDelta",
    "ReloadWarning",
    "Restarted",
    "Retry",
    "RetryBudget",
    "Route",
    "ServedBy",
    "Space",
    "Stream",
    "StreamInterrupted",
    "TextDelta",
    "Timeouts",
    "Timings",
    "TokenCounter",
    "Tool",
    "ToolCall",
    "Usage",
    "bind",
    "deadline",
    "drop_oldest",
    "local_only",
    "refuse",
]

# A backend comes with its first use: most programs need one of them, and each is a tenth of the import.
_LATER = {"Ollama": "resilient_llm.backends.ollama", "OpenAICompatible": "resilient_llm.backends.openai"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
