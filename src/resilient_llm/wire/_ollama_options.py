"""The options of Ollama: which there are, which of them make it load a model anew, and what a wrong one was to be.

It exists because Ollama ignores a name that it does not know, with nothing but a line in its log: `num_cxt` leaves the
window as it was. Rules of the file: tables and pure functions. Source: `api/types.go` of ollama 0.33 (`Options` and
`Runner`), `needsReload` in `server/sched.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# A runner is started with these; a request with another value ends it and starts a new one.
RUNNER: Final = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}
)
_WHOLE: Final = (RUNNER - {"use_mmap"}) | {"num_keep", "seed", "num_predict", "top_k", "repeat_last_n"}
_NUMBER: Final = frozenset(
    {"top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"}
)
KNOWN: Final = _WHOLE | _NUMBER | {"use_mmap", "stop"}
# Older servers had them, and other clients still name them.
_FORMER: Final = frozenset(
    {"mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "penalize_newline", "numa", "vocab_only", "low_vram"}
    | {"f16_kv", "logits_all", "use_mlock", "embedding_only", "num_gqa", "rope_frequency_base", "rope_frequency_scale"}
)


def unknown(options: Mapping[str, Any]) -> list[str]:
    """For each option that Ollama would ignore, a sentence that says so and what may have been meant."""
    said = []
    for name in options:
        if name in KNOWN:
            continue
        if name in _FORMER:
            said.append(f"options: {name!r} is one of older servers; Ollama ignores it today")
            continue
        from difflib import get_close_matches  # only who is wrong waits for it

        near = get_close_matches(str(name).lower(), sorted(KNOWN), 1, 0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        said.append(f"options: Ollama has no {str(name)[:60]!r} and ignores it{meant}")
    return said


def mistyped(options: Mapping[str, Any]) -> str | None:
    """What is wrong with the type of an option, which Ollama answers with a 500; `None` if nothing is."""
    for name, value in options.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if (name in _WHOLE or name in _NUMBER) and value is not None and not number:
            return f"options: {name!r} is a number, not {type(value).__name__}"
        if name == "use_mmap" and not isinstance(value, bool | None):
            return f"options: 'use_mmap' is true or false, not {type(value).__name__}"
    return None


def differing(pinned: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The runner's options in `given` that are not what is `pinned`: `num_ctx: 8192 instead of 4096`."""
    return [
        f"{name}: {value!r} instead of {pinned[name]!r}" if name in pinned else f"{name}: {value!r}"
        for name, value in given.items()
        if name in RUNNER and (name not in pinned or pinned[name] != value)
    ]
