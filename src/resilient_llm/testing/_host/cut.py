"""What Ollama does to a prompt that is too long: by version and by template, with exact counts.

    chat, before all else   whole messages go from the front, never one of the system and never the last, until the rest
                            fits (server/prompt.go, routes.go: truncateNativeChatMessages)
    rendered, since 0.30.9  more than num_ctx - 1 tokens: `num_keep` stay (and the one that begins a text), and the end,
                            so that half of the rest is free; the system's words go with it (llm/llama_server.go:
                            contextShiftPromptLimit; ollama/ollama#17427). With `shift` off: 400
    rendered, before        more than num_ctx: `num_keep` stay, and the end, num_ctx in all (seen on 0.9.3)
    native, images, no cut  llama-server refuses what leaves no room for a token, and tells both numbers
    mlx                     nothing is cut: 400

Rules of the file: pure; tokens are counted by the model's own tokenizer.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from resilient_llm.testing._host.asked import Asked
from resilient_llm.testing._host.facts import Version

IMAGE: Final = 768  # tokens of an image, whatever its size
SHORTEN: Final = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the"
    " context length in settings, or use a model with a longer context length"
)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is left of a prompt.

    Attributes:
        tokens: that it had.
        kept: that are left.
        dropped: messages that went.
        text: what the model reads, as far as another prompt can have it in common; shorter than `kept` after a cut.
        refusal: the error instead.
    """

    tokens: int
    kept: int
    dropped: int = 0
    text: str = ""
    refusal: str | None = None


def fit(asked: Asked, window: int, version: Version, *, shift: bool) -> Fitted:
    """What a chat or a completion is cut to in this window."""
    count, texts = asked.pulled.tokenizer, asked.texts
    whole = _size(asked, range(len(texts)))
    if whole < window or asked.pulled.template == "mlx":
        too_long = f"input length ({whole} tokens) exceeds the model's maximum context length ({window} tokens)"
        return Fitted(whole, whole, text=asked.prompt, refusal=too_long if whole > window else None)
    kept: Sequence[int] = range(len(texts))
    if asked.truncates and asked.kind == "chat":
        kept = _kept(asked, window)
    text = "".join(texts[at] for at in kept)
    left = _size(asked, kept)
    dropped = len(texts) - len(kept)
    refusal = None
    seen = version.halves and any(asked.images[at] for at in kept)  # a prompt with images is never cut
    if version.flags and (not asked.truncates or asked.pulled.template == "native" or seen):
        refusal = exceeded(left, window) if left >= window else None
    elif version.halves and left > window - 1:
        if shift:
            keep = min(_keep(asked, left), window - 1)
            left, text = window - max((window - keep) // 2, 1), _head(text, keep, count(text))
        else:
            refusal = SHORTEN
    elif left > window:
        left, text = window, _head(text, min(_keep(asked, left), window - 1), count(text))
    return Fitted(whole, left, dropped, text, refusal)


def fit_inputs(asked: Asked, window: int, version: Version) -> Fitted:
    """What the texts of an embedding are cut to: each for itself, to the window."""
    counts = [asked.pulled.tokenizer(text) for text in asked.texts]
    kept = [min(count, window) for count in counts]
    refused = kept != counts and (not asked.truncates or asked.pulled.template == "mlx")
    return Fitted(sum(counts), sum(kept), refusal=version.too_long if refused else None)


def exceeded(tokens: int, window: int) -> str:
    """The refusal of the llama-server behind: its text is JSON, with both numbers."""
    error = {
        "code": 400,
        "message": f"request ({tokens} tokens) exceeds the available context size ({window} tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": tokens,
        "n_ctx": window,
    }
    return json.dumps({"error": error}, separators=(",", ":"))


def _kept(asked: Asked, window: int) -> Sequence[int]:
    """The messages that stay. The real server counts anew for each that it drops; here halving finds the same."""

    def from_on(first: int) -> list[int]:
        return [at for at, role in enumerate(asked.roles) if at >= first or role == "system"]

    last = len(asked.texts) - 1
    return from_on(bisect_left(range(last), True, key=lambda first: _size(asked, from_on(first)) <= window))


def _size(asked: Asked, kept: Sequence[int]) -> int:
    """The tokens of these messages, with what stands around them."""
    text = asked.prompt if len(kept) == len(asked.texts) else "".join(asked.texts[at] for at in kept)
    around = asked.pulled.around * len(kept) if asked.kind == "chat" else 0
    return asked.pulled.tokenizer(text) + around + IMAGE * sum(asked.images[at] for at in kept)


def _keep(asked: Asked, tokens: int) -> int:
    return (tokens if asked.num_keep < 0 else asked.num_keep) + asked.pulled.adds_bos


def _head(text: str, keep: int, tokens: int) -> str:
    """About what `keep` tokens of it are: only they can be in the cache, what follows has moved."""
    return text[: len(text) * keep // max(tokens, 1)]
