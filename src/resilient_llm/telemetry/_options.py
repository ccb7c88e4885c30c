"""What the user may say about traces and metrics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from resilient_llm._errors import ConfigError

Version = Literal["1.41", "dev"]
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURES = ("span_only", "span_and_event", "true")  # the last from before v1.37; events alone are not sent here


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a client puts into traces and metrics, beyond what it always does.

    Args:
        content: prompts, answers and tool definitions on the span of the call. Default: what the variable
            `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says (`SPAN_ONLY`, `SPAN_AND_EVENT`), else no. Never
            for a call that is `local_only`, by whatever way: where the spans go is not known here.
        propagate_to: hosts that may be told of a trace (`traceparent`), beside those of this machine. `baggage` is
            sent to nobody.
        metric_tags: the words of `tags=` that may become a label of metrics. Each adds series.
        conventions: whose names are used, `1.41` or `dev`: the GenAI conventions' last version with a tag, or what they
            have become since.

    Raises:
        ConfigError: a value has no meaning; the message names it.
    """

    content: bool | None = None
    propagate_to: Sequence[str] = ()
    metric_tags: Sequence[str] = ()
    conventions: Version = "1.41"

    def __post_init__(self) -> None:
        if self.conventions not in get_args(Version):
            raise ConfigError(f"conventions: {self.conventions!r} is not one of {', '.join(get_args(Version))}")
        for name in ("propagate_to", "metric_tags"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(one, str) and one for one in value):
                raise ConfigError(f"{name}: a list of strings is needed, not {value!r:.60}")
        for host in self.propagate_to:
            if "/" in host or "://" in host:
                raise ConfigError(f"propagate_to: {host!r:.60} is not a host; leave scheme, port and path out")

    @property
    def captures(self) -> bool:
        """Content is wanted."""
        return os.environ.get(CAPTURE, "").lower() in _CAPTURES if self.content is None else self.content
