"""What Ollama tells of its models, and of vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import _errors as e
from resilient_llm._replies import Usage, Vectors
from resilient_llm._types import EmbedRequest
from resilient_llm.wire.ollama import Model, OllamaCodec, Show, parse_ps, parse_show, parse_tags, same_model

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def ps(**entry: Any) -> Model:
    (one,) = parse_ps(dump({"models": [{"name": "m:latest", **entry}]}))
    return one


def test_a_real_show_is_read() -> None:
    able = frozenset({"completion", "tools", "thinking"})
    assert parse_show(recorded("ollama_show.json")) == Show(None, 2048, able, "unknown", None)


def test_a_real_ps_is_read() -> None:
    first = parse_ps(recorded("ollama_ps.json"))[0]
    assert (first.name, first.size, first.size_vram, first.context_length) == ("scripted:latest", 2623232, 0, None)
    assert first.digest == "d1d999e130f306afcb0886f84a90b6692161e0d089599ef2bbc5df25669c3fb0"


def test_real_tags_are_read() -> None:
    found = {one.name for one in parse_tags(recorded("ollama_tags.json"))}
    assert found == {"scripted:latest", "random:latest", "think:latest", "toolcall:latest"}


@pytest.mark.parametrize(
    ("parameters", "num_ctx"),
    [
        ("num_ctx                        4096", 4096),
        ('stop                           "<|x|>"\nnum_ctx                        8192\nnum_gpu 0', 8192),
        ("num_ctx 1\nnum_ctx 2", 2),
        ('stop "num_ctx 99"', None),
        ("num_ctx many", None),
        ("draft_num_ctx 7", None),
        ("", None),
        (None, None),
    ],
)
def test_the_window_of_a_modelfile_is_found_in_its_parameters(parameters: Any, num_ctx: int | None) -> None:
    assert parse_show(dump({"parameters": parameters})).num_ctx == num_ctx


def test_the_trained_length_is_that_of_the_models_own_architecture() -> None:
    info = {"general.architecture": "gemma3", "clip.context_length": 77, "gemma3.context_length": 131072}
    assert parse_show(dump({"model_info": info})).context_length == 131072


def test_what_cannot_be_read_of_a_description_is_left_out() -> None:
    wrong = {"parameters": 5, "model_info": [], "details": "x", "capabilities": {"a": 1}}
    assert parse_show(dump(wrong)) == Show()
    assert parse_show(dump({"capabilities": ["tools", 5, None]})).capabilities == {"tools"}
    odd = ps(digest=5, size="big", size_vram=-1, context_length=True, details=None)
    assert odd == Model("m:latest")


def test_a_loaded_model_tells_its_window_and_where_it_is() -> None:
    one = ps(digest="d1", size=100, size_vram=40, context_length=4096, details={"quantization_level": "Q4_K_M"})
    assert one == Model("m:latest", "d1", "Q4_K_M", 100, 40, 4096)
    assert ps(context_length=0).context_length is None


def test_a_name_may_stand_in_either_field() -> None:
    assert parse_ps(dump({"models": [{"model": "m:1"}]}))[0].name == "m:1"


@pytest.mark.parametrize("entry", [{"remote_host": "https://ollama.com:443"}, {"remote_model": "gpt-oss:120b"}])
def test_what_hints_at_a_foreign_host_is_taken_for_one(entry: dict[str, str]) -> None:
    assert parse_show(dump(entry)).remote_host
    assert ps(**entry).remote_host


@pytest.mark.parametrize("models", [[], None])
def test_no_models_are_none(models: Any) -> None:
    assert parse_ps(dump({"models": models})) == parse_tags(dump({"models": models})) == ()


@pytest.mark.parametrize("parse", [parse_ps, parse_tags])
@pytest.mark.parametrize(
    "answer",
    [{}, {"models": {"a": 1}}, {"models": [5]}, {"models": [{"name": 5}]}, {"models": [{}]}],
)
def test_a_list_of_something_else_is_malformed(parse: Callable[[bytes], Any], answer: Any) -> None:
    with pytest.raises(e.Malformed):
        parse(dump(answer))


@pytest.mark.parametrize("parse", [parse_ps, parse_tags, parse_show])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", e.Truncated),
        (b'{"models":[', e.Truncated),
        (b"<html>a portal</html>", e.Malformed),
        (b"[1]", e.Malformed),
        (b"null", e.Malformed),
        (b"[" * 100_000, e.Malformed),
        (b"\x1f\x8b\x08garbage", e.Malformed),
        (b'{"models":5,"remote_host":5}', e.Malformed),
        (b'{"error":"model \'x\' not found"}', e.ModelNotFound),
    ],
)
def test_a_body_that_is_no_answer_is_a_typed_error(
    parse: Callable[[bytes], Any], body: bytes, kind: type[e.LLMError]
) -> None:
    with pytest.raises(kind):
        parse(body)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("llama3.2", "llama3.2:latest", True),
        ("llama3.2", "llama3.2", True),
        ("Llama3.2", "llama3.2:LATEST", True),
        ("library/llama3.2", "llama3.2", True),
        ("registry.ollama.ai/library/llama3.2:latest", "llama3.2", True),
        ("https://registry.ollama.ai/library/llama3.2", "llama3.2", True),
        ("me/mine", "registry.ollama.ai/me/mine:latest", True),
        ("localhost:5000/me/mine", "localhost:5000/me/mine:latest", True),
        ("hf.co/a/b-GGUF:Q4_K_M", "hf.co/a/b-GGUF:Q4_K_M", True),
        ("llama3.2:1b", "llama3.2", False),
        ("llama3.2", "llama3.2-vision", False),
        ("me/llama3.2", "llama3.2", False),
        ("hf.co/a/b", "a/b", False),
        ("localhost:5000/me/mine", "localhost:5001/me/mine", False),
        ("", "latest", False),
    ],
)
def test_names_are_the_same_as_ollama_takes_them(one: str, other: str, same: bool) -> None:
    assert same_model(one, other) is same_model(other, one) is same


def embed(body: bytes, texts: int = 2, cut: int | None = None) -> Vectors:
    decoder = OllamaCodec("m").decoder(EmbedRequest(("a",) * texts), stream=False)
    assert decoder.feed(body[:cut]) == []
    if cut is not None:
        assert decoder.feed(body[cut:]) == []
    (event,) = decoder.close()
    assert isinstance(event, Vectors)
    return event


@pytest.mark.parametrize("cut", [None, 0, 1, 700])
def test_real_vectors_are_read(cut: int | None) -> None:
    body = recorded("ollama_embed.json")
    found = embed(body, cut=cut)
    assert found.vectors == json.loads(body)["embeddings"]
    assert [len(vector) for vector in found.vectors] == [64, 64]
    assert (found.model, found.usage) == ("random", Usage(input_tokens=3))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (dump({"embeddings": [[1.0]]}), e.Malformed),  # one is missing
        (dump({"embeddings": [[1.0], [1.0], [1.0]]}), e.Malformed),
        (dump({"embeddings": [[1.0], [1.0, 2.0]]}), e.Malformed),
        (dump({"embeddings": [[], []]}), e.Malformed),
        (dump({"embeddings": [[1.0], ["2"]]}), e.Malformed),
        (dump({"embeddings": [[1.0], [None]]}), e.Malformed),
        (dump({"embeddings": [[1.0], [True]]}), e.Malformed),
        (dump({"embeddings": [[1.0], None]}), e.Malformed),
        (b'{"embeddings":[[1.0],[NaN]]}', e.Malformed),
        (b'{"embeddings":[[1.0],[1e999]]}', e.Malformed),
        (b'{"embeddings":[[1.0],[' + b"9" * 400 + b"]]}", e.Malformed),
        (dump({"embeddings": None}), e.Malformed),
        (dump({"embedding": [1.0]}), e.Malformed),
        (dump([[1.0], [1.0]]), e.Malformed),
        (b'{"embeddings":[[1.0],[1.', e.Truncated),
        (b"", e.Truncated),
        (b"<html>", e.Malformed),
        (dump({"error": "embedding contains NaN or Inf values"}), e.ServerError),
        (dump({"error": "the input length exceeds the context length"}), e.ContextOverflow),
    ],
)
def test_vectors_that_would_poison_an_index_are_refused(body: bytes, kind: type[e.LLMError]) -> None:
    with pytest.raises(kind):
        embed(body)


def test_whole_numbers_are_numbers() -> None:
    assert embed(dump({"embeddings": [[1, 0], [0, 1]], "model": 5, "prompt_eval_count": "3"})) == Vectors(
        [[1.0, 0.0], [0.0, 1.0]]
    )
