"""What Ollama tells of its models: `/api/tags`, `/api/ps`, `/api/show`.

Rules of the file: pure; field for field as ollama/ollama's `api/types.go` has it.
"""

from __future__ import annotations

import hashlib
from typing import Any

from resilient_llm.testing._host import lines
from resilient_llm.testing._host.facts import Pulled, Version
from resilient_llm.testing._host.runner import Runner


def digest_of(pulled: Pulled) -> str:
    """Of its files: what differs in them makes another one."""
    told = (pulled.name, pulled.size, pulled.quantization, pulled.num_ctx)
    return hashlib.sha256(repr(told).encode()).hexdigest()


def described(pulled: Pulled, version: Version) -> dict[str, Any]:
    """A model as `/api/tags` lists it."""
    told = details(pulled)
    if version.flags:
        told |= {"context_length": pulled.trained, "embedding_length": pulled.dimensions}
    return {
        **_named(pulled),
        "modified_at": "2026-01-01T00:00:00Z",
        "size": pulled.size,
        "digest": digest_of(pulled),
        "details": told,
        **({"capabilities": list(pulled.capabilities)} if version.flags else {}),
    }


def running(runner: Runner, now: float, version: Version) -> dict[str, Any]:
    """A model as `/api/ps` lists it while it is in memory."""
    expires = runner.expires if runner.expires is not None else now + min(runner.session, lines.FOR_EVER)
    return {
        **_named(runner.pulled),
        "size": runner.size,
        "digest": digest_of(runner.pulled),
        "details": details(runner.pulled),
        "expires_at": lines.at(expires),
        "size_vram": runner.vram,
        **({"context_length": runner.wants.num_ctx} if version.told else {}),
    }


def shown(pulled: Pulled) -> dict[str, Any]:
    """A model as `/api/show` tells of it."""
    arch = pulled.architecture
    return {
        "modelfile": f"FROM {pulled.name}\n",
        **({"parameters": f"num_ctx                        {pulled.num_ctx}"} if pulled.num_ctx else {}),
        "template": "{{ .Prompt }}",
        "details": details(pulled),
        "model_info": {
            "general.architecture": arch,
            "general.parameter_count": _count(pulled.parameters),
            f"{arch}.attention.head_count": 24,
            f"{arch}.attention.head_count_kv": 8,
            f"{arch}.block_count": 28,
            f"{arch}.context_length": pulled.trained,
            f"{arch}.embedding_length": pulled.dimensions,
            "tokenizer.ggml.add_bos_token": pulled.adds_bos,
            "tokenizer.ggml.tokens": None,
        },
        "capabilities": list(pulled.capabilities),
        "modified_at": "2026-01-01T00:00:00Z",
    }


def details(pulled: Pulled) -> dict[str, Any]:
    """What kind of model it is."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": pulled.architecture,
        "families": [pulled.architecture],
        "parameter_size": pulled.parameters,
        "quantization_level": pulled.quantization,
    }


def _named(pulled: Pulled) -> dict[str, str]:
    return {"name": pulled.name, "model": pulled.name}


def _count(parameters: str) -> int:
    """`3.2B` as a number."""
    return round(float(parameters.rstrip("BM")) * (10**6 if parameters.endswith("M") else 10**9))
