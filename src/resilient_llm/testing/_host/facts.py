"""What a machine with Ollama is made of: its models, its memory, its settings, and what its version does differently.

Rules of the file: frozen values with the source of their numbers; sizes in bytes, rates per second. What differs
between versions of Ollama is a field of `Version` and nothing else, so that a new version is one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

from resilient_llm._errors import ConfigError
from resilient_llm._types import ToolCall
from resilient_llm.testing._model import tokens

GIB: Final = 2**30
KV_CACHE: Final = {"f16": 1.0, "q8_0": 0.53125, "q4_0": 0.28125}  # bytes of a block of 32: 64, 34 and 18 (ggml)
EMBEDDING: Final = "embedding"
COMPLETION: Final = "completion"


@dataclass(frozen=True, slots=True, repr=False)
class Pulled:
    """A model that is on the disk of an `OllamaModel`. The defaults are those of a 3B model on a desktop GPU.

    Attributes:
        name: `latest` is added where a tag is missing.
        size: bytes of its weights.
        trained: tokens of the longest window; a larger `num_ctx` is cut to it without a word.
        num_ctx: tokens of the window that its Modelfile sets.
        kv_bytes: memory for each token of a window (llama3.2:3b at f16: 2 x 28 layers x 8 heads x 128 x 2).
        template: `rendered` by Ollama (a prompt that is too long is cut to half a window), `native` (only whole
            messages are dropped, then llama-server refuses) or `mlx` (nothing is cut).
        capabilities: what `/api/show` lists; without `completion` it only makes vectors.
        adds_bos: its tokenizer begins each prompt with a token of its own.
        shifts: its context can be shifted; deepseek2's cannot.
        parallel: several requests at once; Ollama forces one for some architectures (ollama/ollama#4165).
        prefill: tokens a second read, on the GPU.
        decode: tokens a second written at the start of an answer, on the GPU.
        half_at: tokens of context at which it writes half as fast (128 -> 60 at 7,500: ollama/ollama#7717).
        drift: the share by which each hour in memory makes a step longer (ollama/ollama#4050, #7740).
        leak: bytes of GPU memory that each load leaves behind (+300 MB each: ollama/ollama#10597).
        dimensions: of a vector.
        tokenizer: the tokens of a text. Default: a quarter of its characters, rounded up.
        around: tokens that its template puts around each message of a chat.
        says: the pieces of the answer to the last message, each a token or a tool call. Default: that message again,
            word by word.
        thinks: the pieces that it thinks before that, unless `think` is false.
        architecture: as `/api/show` names it.
        parameters: how many it has, as Ollama writes it.
        quantization: of its weights.

    Raises:
        ConfigError: a number has no meaning.
    """

    name: str = "llama3.2"
    size: int = 2_019_393_189
    trained: int = 131_072
    num_ctx: int | None = None
    kv_bytes: int = 114_688
    template: Literal["rendered", "native", "mlx"] = "rendered"
    capabilities: Sequence[str] = (COMPLETION, "tools", "thinking", EMBEDDING)
    adds_bos: bool = True
    shifts: bool = True
    parallel: bool = True
    prefill: float = 2000.0
    decode: float = 60.0
    half_at: int = 7500
    drift: float = 0.0
    leak: int = 0
    dimensions: int = 8
    tokenizer: Callable[[str], int] = tokens
    around: int = 0
    says: Callable[[str], Sequence[str | ToolCall]] | None = None
    thinks: Sequence[str] = ()
    architecture: str = "llama"
    parameters: str = "3.2B"
    quantization: str = "Q4_K_M"

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name: a model needs one, such as 'llama3.2'")
        _positive(self, "size", "trained", "prefill", "decode", "half_at", "dimensions")
        _positive(self, "kv_bytes", "drift", "leak", "around", least=0)

    def __repr__(self) -> str:
        return f"Pulled({self.name!r})"

    @property
    def embeds_only(self) -> bool:
        """It writes no text."""
        return COMPLETION not in self.capabilities


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware under an `OllamaModel`. The defaults are a desktop with one GPU.

    Attributes:
        vram: bytes of GPU memory, of all GPUs; 0 is a machine without one.
        ram: bytes of main memory.
        gpus: how many there are.
        disk: bytes a second of a first read (8B in 2 to 3 s from NVMe).
        cached: bytes a second of a model that was read lately and still fits into the main memory.
        spawn: seconds until a runner has started, before it reads.
        serial: the share of a step that requests at one time do not share: N at once take `serial * N + 1 - serial`
            times as long each. Measured: 0.39 to 0.54, the total gains 1.4 to 1.6 times at most.
        slow: how much longer a step takes on the CPU.

    Raises:
        ConfigError: a number has no meaning.
    """

    vram: int = 24 * GIB
    ram: int = 64 * GIB
    gpus: int = 1
    disk: float = 2.0e9
    cached: float = 8.0e9
    spawn: float = 0.5
    serial: float = 0.45
    slow: float = 8.0

    def __post_init__(self) -> None:
        _positive(self, "ram", "disk", "cached", "slow")
        _positive(self, "vram", "spawn", "serial", "gpus", least=0)


@dataclass(frozen=True, slots=True)
class Settings:
    """Ollama's environment variables, under their names without `OLLAMA_`.

    Attributes:
        num_parallel: requests at once for each model.
        max_queue: requests that may wait for a load; one more gets a 503. Those for a loaded model wait elsewhere.
        max_loaded: models in memory; 0: three for each GPU, three without one.
        keep_alive: seconds that an idle model stays in memory; infinite: for ever.
        load_timeout: seconds without a sign of life after which a load has failed.
        context_length: tokens of a window where nobody asks for one; 0: by the GPU's memory.
        kv_cache_type: how the memory of a window is kept; `q8_0` takes 0.53 of it, `q4_0` 0.28.

    Raises:
        ConfigError: a number has no meaning.
    """

    num_parallel: int = 1
    max_queue: int = 512
    max_loaded: int = 0
    keep_alive: float = 300.0
    load_timeout: float = 300.0
    context_length: int = 0
    kv_cache_type: Literal["f16", "q8_0", "q4_0"] = "f16"

    def __post_init__(self) -> None:
        if self.kv_cache_type not in KV_CACHE:
            raise ConfigError(f"kv_cache_type: {self.kv_cache_type!r} is none of {', '.join(KV_CACHE)}")
        _positive(self, "num_parallel", "max_queue", "load_timeout")
        _positive(self, "max_loaded", "keep_alive", "context_length", least=0)

    def loaded_at_most(self, machine: Machine) -> int:
        """Models in memory at one time."""
        return self.max_loaded or 3 * max(machine.gpus if machine.vram else 0, 1)

    def window(self, machine: Machine, version: Version) -> int:
        """The window where neither the request nor the model asks for one (ollama/ollama#14116)."""
        if self.context_length or not version.tiers:
            return self.context_length or 4096
        tiers = ((47 * GIB, 262_144), (23 * GIB, 32_768))
        return next((window for least, window in tiers if machine.vram >= least), 4096)


@dataclass(frozen=True, slots=True)
class Version:
    """What a version of Ollama does.

    Attributes:
        number: as `/api/version` tells it.
        flags: the fields `truncate` and `shift` mean something (since 0.12.6).
        halves: a prompt that is too long keeps half a window (0.30.9); before, a whole one.
        fast: a request for a loaded model passes by the queue of those that wait for a load.
        apart: a load goes on beside the queue; who wants the same model holds the queue up all the same.
        tiers: the default window goes by the GPU's memory (0.15.5).
        told: `/api/ps` tells the window (0.10).
        hidden: `/api/ps` does not list a model that is still loading.
        cached_counts: `prompt_eval_count` has the tokens that were in the cache; not in 0.30.0.
        schemas: a schema that cannot be used is a 400 of llama-server's; before, an error inside a 200.
        runner: what it calls the process that runs a model.
        missing: the 404 of a model that is not pulled, for a chat.
        too_long: the 400 of a text that is too long to embed.
    """

    number: str
    flags: bool = True
    halves: bool = True
    fast: bool = True
    apart: bool = False
    tiers: bool = True
    told: bool = True
    hidden: bool = True
    cached_counts: bool = True
    schemas: bool = True
    runner: str = "llama-server"
    missing: str = "model '{}' not found"
    too_long: str = "the input length exceeds the context length"


_CURRENT: Final = Version("0.32.15")
_OLD: Final = replace(
    _CURRENT,
    number="0.9.3",
    flags=False,
    halves=False,
    fast=False,
    apart=True,
    tiers=False,
    told=False,
    hidden=False,
    schemas=False,
    runner="llama runner",
    missing='model "{}" not found, try pulling it first',
    too_long="input length exceeds maximum context length",
)
# From the newest: what holds since. 0.10 to 0.29 are the old engine with a few things more; what they did with a prompt
# that is too long was not looked at, and is taken to be what 0.9.3 does.
VERSIONS: Final[Sequence[tuple[tuple[int, ...], Version]]] = (
    ((0, 30, 9), _CURRENT),
    ((0, 30, 1), replace(_CURRENT, halves=False)),
    ((0, 30), replace(_CURRENT, halves=False, cached_counts=False)),
    ((0, 15, 5), replace(_OLD, flags=True, told=True, tiers=True)),
    ((0, 12, 6), replace(_OLD, flags=True, told=True)),
    ((0, 10), replace(_OLD, told=True)),
    ((0,), _OLD),
)


def version_of(number: str) -> Version:
    """What this version does.

    Raises:
        ConfigError: it is no version.
    """
    parts = number.partition("-")[0].split(".")
    if not all(part.isdigit() for part in parts):
        raise ConfigError(f"version: {number!r} is none, such as '0.32.15'")
    given = tuple(map(int, parts))
    return replace(next((row for since, row in VERSIONS if given >= since), _OLD), number=number)


def _positive(value: object, *names: str, least: float | None = None) -> None:
    known = {one.name for one in fields(value)}  # type: ignore[arg-type]  # only dataclasses are
    for name in names:
        assert name in known
        number = getattr(value, name)
        if math.isnan(number) or (number < least if least is not None else number <= 0):
            raise ConfigError(f"{name}: {number!r} is too small")
