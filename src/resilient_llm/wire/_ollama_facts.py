"""What Ollama tells of itself and its models, and when two names mean the same model.

Rules of the file: what decides (a name, a foreign host) is checked and `Malformed` when it is of a wrong type; what
only describes is `None` when it cannot be read. What hints at a foreign host is taken for one: privacy hangs on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resilient_llm._errors import Malformed
from resilient_llm.wire import dump
from resilient_llm.wire._checks import checked, whole
from resilient_llm.wire._ollama_errors import in_band

_NUM_CTX = r"^\s*num_ctx\s+(\d{1,9})\s*$"


@dataclass(frozen=True, slots=True)
class Model:
    """A model as `/api/tags` and `/api/ps` list it.

    Attributes:
        name: with its tag.
        digest: of its files.
        quantization: such as `Q4_K_M`.
        size: bytes on disk, or in memory if it is loaded.
        size_vram: bytes of it that are on a GPU; only of a loaded one.
        context_length: tokens of the window that it is loaded with; only of a loaded one, since 0.10.
        expires_at: when it leaves memory unless it is used, in the server's words; only of a loaded one.
        remote_host: where it runs, if not here.
    """

    name: str
    digest: str | None = None
    quantization: str | None = None
    size: int | None = None
    size_vram: int | None = None
    context_length: int | None = None
    expires_at: str | None = None
    remote_host: str | None = None

    @property
    def cpu_share(self) -> float | None:
        """The share of a loaded model that the CPU computes, 0 to 1; `None` if it is not told."""
        if not self.size or self.size_vram is None:
            return None
        return max(1 - self.size_vram / self.size, 0.0)


@dataclass(frozen=True, slots=True)
class Show:
    """A model as `/api/show` tells of it.

    Attributes:
        num_ctx: tokens of the window that its Modelfile sets.
        context_length: tokens that it was trained for; Ollama makes a larger window this small without a word.
        capabilities: such as `completion`, `tools`, `thinking`, `vision`, `embedding`.
        quantization: such as `Q4_K_M`.
        remote_host: where it runs, if not here.
    """

    num_ctx: int | None = None
    context_length: int | None = None
    capabilities: frozenset[str] = frozenset()
    quantization: str | None = None
    remote_host: str | None = None


def show_body(model: str) -> bytes:
    """The body for `/api/show`."""
    return dump({"model": model})


def parse_show(body: bytes) -> Show:
    """What `/api/show` answered.

    Raises:
        LLMError: it is not that: an error, `Malformed` or `Truncated`.
    """
    answer = _answer(body)
    info, parameters = _mapping(answer, "model_info"), answer.get("parameters")
    arch, able = info.get("general.architecture"), answer.get("capabilities")
    set_window = re.findall(_NUM_CTX, parameters, re.MULTILINE | re.ASCII) if isinstance(parameters, str) else []
    return Show(
        num_ctx=int(set_window[-1]) if set_window else None,
        context_length=_count(info, f"{arch}.context_length"),
        capabilities=frozenset(one for one in able if isinstance(one, str)) if isinstance(able, list) else frozenset(),
        quantization=_text(_mapping(answer, "details"), "quantization_level"),
        remote_host=_remote(answer),
    )


def parse_ps(body: bytes) -> tuple[Model, ...]:
    """The models in memory; one that is still loading is not among them.

    Raises:
        LLMError: the body is not an answer of `/api/ps`: an error, `Malformed` or `Truncated`.
    """
    return _models(body)


def parse_tags(body: bytes) -> tuple[Model, ...]:
    """The models that are there.

    Raises:
        LLMError: the body is not an answer of `/api/tags`: an error, `Malformed` or `Truncated`.
    """
    return _models(body)


def parse_version(body: bytes) -> tuple[int, ...] | None:
    """The version, `0.32.15` as `(0, 32, 15)`; `None` for a build that has none, such as `0.0.0`.

    Raises:
        LLMError: the body is not an answer of `/api/version`.
    """
    match = re.match(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", str(_answer(body).get("version")), re.ASCII)
    numbers = tuple(int(part or 0) for part in match.groups()) if match is not None else ()
    return numbers if any(numbers) else None


def same_model(one: str, other: str) -> bool:
    """Whether two names mean the same model for Ollama, which fills in host, namespace and tag and looks at no case."""
    return _full(one) == _full(other)


def _full(name: str) -> str:
    path, _, tag = name.casefold().rpartition("://")[2].rpartition(":")
    if not path or "/" in tag:  # no tag: the colon, if there is one, is that of a port
        path, tag = f"{path}:{tag}" if path else tag, "latest"
    parts = path.split("/")
    defaults = ["registry.ollama.ai", "library"]
    return "/".join([*defaults[: max(3 - len(parts), 0)], *parts]) + f":{tag}"


def _models(body: bytes) -> tuple[Model, ...]:
    answer = _answer(body)
    if "models" not in answer:
        raise Malformed("the answer has no list of models")
    return tuple(_model(one) for one in checked(answer["models"] or [], list, "models"))


def _model(entry: Any) -> Model:
    checked(entry, dict, "a model")
    return Model(
        name=checked(entry.get("name") or entry.get("model"), str, "the name of a model"),
        digest=_text(entry, "digest"),
        quantization=_text(_mapping(entry, "details"), "quantization_level"),
        size=_count(entry, "size"),
        size_vram=_count(entry, "size_vram"),
        context_length=_count(entry, "context_length") or None,
        expires_at=_text(entry, "expires_at"),
        remote_host=_remote(entry),
    )


def _answer(body: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = checked(whole(body), dict, "the whole")
    if answer.get("error"):
        raise in_band(answer)
    return answer


def _remote(entry: Mapping[str, Any]) -> str | None:
    for name in ("remote_host", "remote_model"):
        if entry.get(name):
            return str(checked(entry[name], str, name))
    return None


def _mapping(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = entry.get(name)
    return value if isinstance(value, dict) else {}


def _text(entry: Mapping[str, Any], name: str) -> str | None:
    value = entry.get(name)
    return value if isinstance(value, str) and value else None


def _count(entry: Mapping[str, Any], name: str) -> int | None:
    value = entry.get(name)
    return value if type(value) is int and value >= 0 else None
