"""The real servers, one of each for the whole run, and the models that they serve."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx2
import pytest

from . import litellm, llamacpp, ollama
from .script import Kind
from .subjects import Hands, Subject, fake, named_by_the_environment, real

KEY = "sk-tests-only"  # the one that the llama.cpp servers want
NARROW = 512  # tokens of a window that a test fills quickly
SUBJECTS = ["fake 0.9.3", "fake 0.32.15", "real", *(["yours"] if os.environ.get("OLLAMA_TEST_HOST") else [])]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    asked = "peers" in str(config.getoption("markexpr"))
    for item in items:
        if here in item.path.parents and "[fake" not in item.name:
            item.add_marker("real")
            if item.get_closest_marker("peers") and not (asked and litellm.BIN.exists()):
                item.add_marker(pytest.mark.skip(reason="needs the LiteLLM proxy: `make peers`"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Gives the file of a tiny model of that kind."""
    for package in ("numpy", "gguf"):
        pytest.importorskip(package, reason=f"{package}, which writes the models, is not installed: `make test` does")
    from .tiny_gguf import write_model

    folder = tmp_path_factory.mktemp("models")

    @cache
    def path(kind: Kind) -> Path:
        return write_model(folder / f"{kind}.gguf", kind)

    return path


@pytest.fixture(scope="session")
def llama_needed(model: object) -> None:
    """Skips what needs a llama.cpp server where there can be none."""
    pytest.importorskip("xllamacpp", reason="xllamacpp has no wheel for this machine, or is not installed")


@pytest.fixture(scope="session")
def llama(model: Callable[[Kind], Path], llama_needed: None) -> Iterator[llamacpp.Server]:
    """llama.cpp with the scripted model: 2 slots of 2,048 tokens, and a key."""
    with llamacpp.llama_server(model("scripted"), api_keys=[KEY], model_alias=["scripted"]) as server:
        yield server


@pytest.fixture(scope="session")
def llama_narrow(model: Callable[[Kind], Path], llama_needed: None) -> Iterator[llamacpp.Server]:
    """llama.cpp with the scripted model and one slot of 512 tokens."""
    settings = {"n_ctx": NARROW, "n_parallel": 1, "api_keys": [KEY], "model_alias": ["scripted"]}
    with llamacpp.llama_server(model("scripted"), **settings) as server:
        yield server


@pytest.fixture(scope="session")
def llama_embed(model: Callable[[Kind], Path], llama_needed: None) -> Iterator[llamacpp.Server]:
    """llama.cpp set up for embeddings."""
    pooling = "LLAMA_POOLING_TYPE_MEAN"  # without pooling it refuses to embed
    settings = {"embedding": True, "pooling_type": pooling, "api_keys": [KEY], "model_alias": ["random"]}
    with llamacpp.llama_server(model("random"), **settings) as server:
        yield server


@pytest.fixture(scope="session")
def llama_tools(model: Callable[[Kind], Path], llama_needed: None) -> Iterator[llamacpp.Server]:
    """llama.cpp with the model that begins every answer with a tool call."""
    with llamacpp.llama_server(model("tools"), api_keys=[KEY], model_alias=["tools"]) as server:
        yield server


@pytest.fixture(scope="session")
def ollama_server(model: Callable[[Kind], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ollama.Server]:
    """Ollama with five models and a `narrow` one made from the first, one request at a time and a queue of two."""
    reason = ollama.missing()
    if reason is not None:
        pytest.skip(reason)
    kinds: tuple[Kind, ...] = ("scripted", "endless", "random", "think", "toolcall")
    models = {kind: model(kind) for kind in kinds}
    folder = tmp_path_factory.mktemp("ollama")
    one = {"num_thread": 1}  # more threads wait for each other where the machine has no core to spare
    with ollama.ollama_server(models, folder, parameters=one, OLLAMA_NUM_PARALLEL=1, OLLAMA_MAX_QUEUE=2) as server:
        server.create("narrow", {"from": "scripted", "parameters": {"num_ctx": NARROW}})
        yield server


@pytest.fixture(scope="session")
def subjects() -> Iterator[dict[str, Subject]]:
    """Two of the subjects of the contract, and the others once they are asked for."""
    with fake("0.9.3") as old, fake("0.32.15") as new:
        yield {"fake 0.9.3": old, "fake 0.32.15": new}


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Iterator[Subject]:
    """A server that claims to be Ollama."""
    name = request.param
    if name not in subjects:
        yours = name == "yours"
        subjects[name] = named_by_the_environment() if yours else real(request.getfixturevalue("ollama_server"))
    with httpx2.Client(verify=False) as http:  # nothing is encrypted, and reading the certificates takes its time
        yield replace(subjects[name], http=http)


@pytest.fixture
def hands(subject: Subject) -> Hands:
    """What can be done to its processes."""
    if subject.hands is None:
        pytest.skip("nothing is done to the processes of a server that is not ours")
    return subject.hands
