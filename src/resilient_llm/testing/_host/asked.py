"""What a request asks of Ollama, read once from its body; what is wrong with one `_ollama_checks` has said before.

Rules of the file: pure; names and defaults are those of ollama/ollama's `api/types.go`. What makes a loaded model be
loaded again is one value, `Wants`, and the reason is named as a person would look for it: the option with both values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from resilient_llm.testing._host.facts import Machine, Pulled, Settings, Version
from resilient_llm.testing._model import integer, roles_of, texts_of

LEAST_WINDOW: Final = 4  # tokens; a smaller num_ctx is raised to it
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_RUNNER: Final = {"num_batch": 512, "num_gpu": -1, "main_gpu": None, "use_mmap": None, "num_thread": 0}


@dataclass(frozen=True, slots=True)
class Wants:
    """What a model has to be loaded with.

    Attributes:
        num_ctx: tokens of the window, as it will be.
        auto: nobody asked for that window.
        num_batch, num_gpu, main_gpu, use_mmap, num_thread, draft_num_predict: options of the runner.
        shift: whether the context may be shifted.
    """

    num_ctx: int
    auto: bool = True
    num_batch: Any = 512
    num_gpu: Any = -1
    main_gpu: Any = None
    use_mmap: Any = None
    num_thread: Any = 0
    draft_num_predict: Any = 4
    shift: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a model.

    Attributes:
        kind: which of the three.
        named: the model, as it was named.
        pulled: the model.
        wants: what it has to be loaded with.
        keep_alive: seconds, infinite for a negative number, or `None`.
        streams: in lines.
        truncates: a prompt that is too long may be cut.
        roles: of the messages.
        texts: of the messages, the prompt, or the inputs of an embedding.
        images: of each message.
        limit: the most tokens of the answer.
        num_keep: tokens that are never thrown away.
        thinks: as the request says it, or `None`.
        format: of the answer, if one is asked for.
    """

    kind: Literal["chat", "generate", "embed"]
    named: str
    pulled: Pulled
    wants: Wants
    keep_alive: float | None
    streams: bool
    truncates: bool
    roles: Sequence[str]
    texts: Sequence[str]
    images: Sequence[int]
    limit: int | None
    num_keep: int
    thinks: Any
    format: Any

    @property
    def prompt(self) -> str:
        """The whole of it, as the model would read it; what its prefix has in common with another is in the cache."""
        return "".join(self.texts)


def read(
    kind: Literal["chat", "generate", "embed"],
    body: Mapping[str, Any],
    pulled: Pulled,
    version: Version,
    default_window: int,
) -> Asked:
    """What this request asks."""
    given = body.get("options")
    options: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    messages = body.get("messages")
    if kind == "chat":
        roles, texts, images = roles_of(messages), texts_of(messages), _images(messages)
    else:
        texts = _inputs(body) if kind == "embed" else _prompt(body)
        roles, images = ["user"] * len(texts), [0] * len(texts)
    limit, keep = integer(options.get("num_predict")), integer(options.get("num_keep"))
    return Asked(
        kind,
        str(body.get("model")),
        pulled,
        _wants(body, options, pulled, version, default_window),
        keep_alive_of(body.get("keep_alive")),
        body.get("stream") is not False and kind != "embed",
        body.get("truncate") is not False or not (version.flags or kind == "embed"),  # embeddings had it first
        roles,
        texts,
        images,
        None if limit is None or limit < 0 else limit,
        4 if keep is None else keep,
        body.get("think"),
        body.get("format") or None,
    )


def differs(loaded: Wants, asked: Wants, version: Version) -> str | None:
    """Why a model that is loaded has to be loaded again, or `None`."""
    for one in fields(Wants):
        old, new = getattr(loaded, one.name), getattr(asked, one.name)
        if old == new or one.name == "auto" or (one.name == "shift" and not version.flags):
            continue
        if one.name == "num_ctx" and version.tiers and loaded.auto and asked.auto:
            continue
        if (one.name == "num_gpu" and new < 0) or (one.name == "use_mmap" and new is None):
            continue
        return f"{one.name}: {old} -> {new}"
    return None


def keep_alive_of(value: object) -> float | None:
    """Seconds: a number is one already, a text is a duration of Go's; negative is for ever."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        text = str(value)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        seconds = -seconds if text.startswith("-") else seconds
    return math.inf if seconds < 0 else seconds


def default_window(pulled: Pulled, settings: Settings, machine: Machine, version: Version) -> int:
    """The window of a request that asks for none."""
    return pulled.num_ctx or settings.window(machine, version)


def _wants(
    body: Mapping[str, Any], options: Mapping[str, Any], pulled: Pulled, version: Version, default: int
) -> Wants:
    asked = integer(options.get("num_ctx"))
    window = max(asked or default, LEAST_WINDOW)
    if "vision" in pulled.capabilities:
        window = max(window, 2048)
    given = {name: options.get(name, default) for name, default in _RUNNER.items()}
    shift = body.get("shift")
    return Wants(
        min(window, pulled.trained),
        auto=not asked and pulled.num_ctx is None,
        draft_num_predict=options.get("draft_num_predict", 4),
        shift=pulled.shifts if shift is None or not version.flags else bool(shift),
        **given,
    )


def _prompt(body: Mapping[str, Any]) -> list[str]:
    return [text for text in (body.get("system"), body.get("prompt")) if isinstance(text, str) and text]


def _inputs(body: Mapping[str, Any]) -> list[str]:
    given = body.get("input") or []
    return [given] if isinstance(given, str) else [str(one) for one in given] if isinstance(given, list) else []


def _images(messages: object) -> list[int]:
    listed = messages if isinstance(messages, list) else []
    found = [one.get("images") for one in listed if isinstance(one, Mapping)]
    return [len(one) if isinstance(one, list) else 0 for one in found]
