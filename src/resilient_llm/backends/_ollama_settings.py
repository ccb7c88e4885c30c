"""What is said when an `Ollama` is made: checked at once, and read as Ollama's own programs read it."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from resilient_llm._errors import ConfigError
from resilient_llm._numbers import is_number, shown
from resilient_llm._warnings import OptionWarning, ReloadWarning, warn
from resilient_llm.wire._ollama_options import differing, mistyped, unknown

SHIFTS = (0, 12, 6)  # the version since which a model is loaded with a `shift` or without
STAYS = 300.0  # seconds that Ollama keeps a model in memory, if nobody says otherwise (OLLAMA_KEEP_ALIVE)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}  # Go's
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)"


def address(base_url: str | None) -> str:
    """What Ollama's own client makes of `OLLAMA_HOST`: scheme and port may be missing; `0.0.0.0` is this machine.

    Raises:
        ConfigError: it is no text.
    """
    if base_url == "" or not isinstance(base_url, str | None):  # empty: a variable that was not set, perhaps
        raise ConfigError(f"base_url: {shown(base_url)} is not an http:// or https:// address")
    given = base_url or os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        port = parts.port or (11434 if "://" not in given else None)
        host = "127.0.0.1" if parts.hostname in (None, "0.0.0.0") else parts.hostname  # noqa: S104  # not a bind
    except ValueError:
        return url  # `endpoint` says what is wrong with it
    if parts.username or parts.query or parts.fragment or not url.isprintable():
        return url
    host = f"[{host}]" if ":" in str(host) else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def key(base_url: str | None) -> str | None:
    """The key of the environment, for the server of the environment: another one must not get to see it."""
    ours = base_url is None or urlsplit(base_url).hostname in ("ollama.com", "www.ollama.com")
    return (os.environ.get("OLLAMA_API_KEY") or None) if ours else None


def is_address(host: str) -> bool:
    """It needs no name look-up."""
    return host == "localhost" or host.replace(".", "").isdigit() or ":" in host


def parallel() -> int:
    """`OLLAMA_NUM_PARALLEL`, whose default is 1. It is the server's, and tells how one of this machine was started."""
    value = os.environ.get("OLLAMA_NUM_PARALLEL", "1")
    return max(1, int(value)) if value.isdigit() else 1


def stays(keep_alive: float | str | None) -> float:
    """The seconds that a model stays in memory after its last word; infinite for a negative number.

    Raises:
        ConfigError: Ollama would refuse it; the message shows how it is spelled.
    """
    if keep_alive is None:
        return STAYS
    if is_number(keep_alive) and abs(keep_alive) <= sys.float_info.max:
        return keep_alive if keep_alive >= 0 else math.inf
    if isinstance(keep_alive, str) and re.fullmatch(rf"[-+]?({_PART})+", keep_alive):
        seconds = sum(float(many) * _UNITS[unit] for many, unit in re.findall(_PART, keep_alive))
        return seconds if keep_alive[0] != "-" else math.inf
    bare = isinstance(keep_alive, str) and re.fullmatch(r"[-+]?\d+", keep_alive)
    hint = f": it has no unit. For seconds write {keep_alive} without quotes, or '{keep_alive}s'" if bare else ""
    raise ConfigError(f"keep_alive: {shown(keep_alive)} is neither seconds nor a duration such as '10m'{hint}")


def checked_switches(think: object, shift: object) -> None:
    """Checks `think=` and `shift=`.

    Raises:
        ConfigError: one is none of what it may be.
    """
    if not isinstance(think, bool | None) and think not in ("low", "medium", "high", "max"):
        raise ConfigError(f"think: {shown(think)} is not one of True, False, low, medium, high, max")
    if not isinstance(shift, bool | None):
        raise ConfigError(f"shift: {shown(shift)} is not one of True, False, None")


def checked_options(options: Mapping[str, Any] | None) -> None:
    """Warns of options that Ollama would ignore.

    Raises:
        ConfigError: one is of a type that Ollama answers with a 500.
    """
    if not isinstance(options, Mapping):
        return  # the codec says what is wrong with it
    wrong = mistyped(options)
    if wrong is not None:
        raise ConfigError(wrong)
    for said in unknown(options):
        warn(said, OptionWarning)


def checked_kinds(model: str, kinds: Collection[type], version: tuple[int, ...] | None) -> None:
    """Warns where a model that chats without a shift embeds, too: `/api/embed` has no such field."""
    if len(kinds) > 1 and (version is None or version >= SHIFTS):
        warn(
            f"{model} both chats and embeds: Ollama loads it anew at each change between them, because embeddings know"
            " no shift=False. Give each a model of its own, or Ollama(shift=None)",
            ReloadWarning,
        )


def checked_extra(extra: Mapping[str, Any], pinned: Mapping[str, Any], shift: bool | None) -> None:
    """Warns of what in the `extra=` of a call Ollama would ignore, or load the model anew for."""
    options = extra.get("options")
    if isinstance(options, Mapping):
        checked_options(options)
        differs = differing(pinned, options)
    else:
        differs = []
    if "shift" in extra and extra["shift"] != shift:
        differs.append(f"shift: {extra['shift']!r} instead of {shift!r}")
    if differs:
        warn(
            f"extra: {', '.join(differs)} makes Ollama load the model anew, for this call and for the next without it."
            " Give it to Ollama(num_ctx=…, options=…, shift=…), or give such calls a route of their own",
            ReloadWarning,
        )
    if "keep_alive" in extra:
        warn(
            "extra: keep_alive in a call outlasts it and can block every load of the server (ollama/ollama#17408);"
            " give it to Ollama(keep_alive=…), which says it with loads only",
            ReloadWarning,
        )
