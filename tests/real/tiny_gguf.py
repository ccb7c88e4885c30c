"""Writes a language model of 1 MB that real servers load, so that tests need no download and know every answer.

The model is of the llama architecture, with weights from a seed and no training. In all kinds but `random` the output
projections of its blocks are zero, so that a token's successor depends on that token alone, and the head maps each
token of a script to the next: at temperature 0 the model says the script and ends. Its tokenizer is a byte-level BPE
(GGUF's "gpt2") whose merges are learned from the script itself, its template is ChatML with Hermes-style tools.

    kind      what it says
    scripted  `SCRIPT`, and ends. The last three characters that are not ASCII are 2, 3 and 4 tokens of one byte each
    endless   `SCRIPT`, again and again
    random    noise; at temperature 0 the same each time
    tools     begins each answer with <tool_call>, and a server's grammar writes the JSON (llama.cpp)
    toolcall  one call of `get_weather` for Paris, unaided (for Ollama, which does not constrain tool calls)
    think     the first half of `SCRIPT` between <think> and </think>
    broken    a <tool_call> and a stray byte in mid-answer: with `tools` in the request llama.cpp fails there, after
              it has sent half of the answer

Same arguments, same numpy: same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from .script import ANSWER, CALL, CONTEXT, SCRIPT, THOUGHT, Kind

_CORPUS = SCRIPT + (  # more words, so that ordinary prompts do not fall apart into single bytes
    " The quick brown fox jumps over the lazy dog. A session holds messages from the user and the assistant; the system"
    " says what to do. Count the tokens, keep the context, drop the oldest message when the window is full. You are a"
    " helpful assistant. What is the weather in Paris today? It is sunny. Write a short story about a robot who learned"
    " to paint. Summarize the text in one sentence. Yes. No. Maybe.\n" + CALL + "\n"
)
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>", CALL)
_VOCABULARY, _WIDTH, _LAYERS, _HEADS = 1024, 64, 2, 4
_HIDDEN = 4 * _WIDTH
_MERGES = _VOCABULARY - 256 - len(_CONTROL) - len(_MARKS) - 16  # some tokens stay unused: servers pad, too
_PULL = 2.5  # how much stronger the script's successor is than the noise (0.02); decides at any sane temperature

_TEMPLATE = r"""
{%- if tools %}{{- '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
{{- '# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>' }}
{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\n</tools>\n\nFor each function call, return a json object within <tool_call></tool_call> XML tags:\n' }}
{{- '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) or (m.role == 'assistant' and not m.tool_calls) %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant' }}
{%- if m.content %}{{- '\n' + m.content }}{%- endif %}
{%- for tc in m.tool_calls %}{%- if tc.function %}{%- set tc = tc.function %}{%- endif %}
{{- '\n<tool_call>\n{"name": "' }}{{- tc.name }}{{- '", "arguments": ' }}{{- tc.arguments | tojson }}
{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
""".replace("\n", "")  # the newlines that belong to the text are written as \n
_WORDS = re.compile(r" ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+")


def write_model(path: Path, kind: Kind = "scripted", *, seed: int = 0) -> Path:
    """Writes a model of this kind and gives its path back."""
    merges = _learn(_CORPUS * 4, _MERGES)
    tokens, types = _vocabulary(merges)
    ids = {token: number for number, token in enumerate(tokens)}
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, f"tiny-{kind}-{seed}")
    _add_tokenizer(writer, tokens, types, ids, merges)
    for name, tensor in _weights(kind, seed, _steps(kind, ids, merges)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's way to give each byte a printable character."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}


_BYTES = _byte_alphabet()


def _learn(corpus: str, count: int) -> list[tuple[str, str]]:
    """The merges of a byte-pair encoding: the most frequent pair first; at a tie the lesser one, so that it repeats.

    Only ASCII words are merged: the others stay single bytes, and a stream of them splits characters.
    """
    words = Counter(word for word in _WORDS.findall(corpus) if word.isascii())
    pieces = {word: [_BYTES[byte] for byte in word.encode()] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            _merge(parts, best)
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> None:
    at = 0
    while at < len(parts) - 1:
        if (parts[at], parts[at + 1]) == pair:
            parts[at : at + 2] = ["".join(pair)]
        at += 1


def _encode(text: str, ids: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[int]:
    """The tokens that a server's tokenizer makes of `text`."""
    found: list[int] = []
    for word in _WORDS.findall(text):
        parts = [_BYTES[byte] for byte in word.encode()]
        for pair in merges:  # in the order in which they were learned, which is their rank
            _merge(parts, pair)
        found += [ids[part] for part in parts]
    return found


def _vocabulary(merges: Sequence[tuple[str, str]]) -> tuple[list[str], list[gguf.TokenType]]:
    kind = gguf.TokenType
    normal = list(dict.fromkeys([*(_BYTES[byte] for byte in range(256)), *map("".join, merges)]))
    used = len(normal) + len(_CONTROL) + len(_MARKS)
    unused = [f"<|unused_{number}|>" for number in range(used, _VOCABULARY)]
    types = [kind.NORMAL] * len(normal) + [kind.CONTROL] * len(_CONTROL) + [kind.USER_DEFINED] * len(_MARKS)
    return [*normal, *_CONTROL, *_MARKS, *unused], types + [kind.UNUSED] * len(unused)


def _steps(kind: Kind, ids: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Which token follows which. The prompt ends with a newline, so that is where each script begins."""
    start, end = ids[_BYTES[ord("\n")]], ids["<|im_end|>"]
    call, call_end, think, think_end = (ids[mark] for mark in _MARKS[:4])

    def said(text: str) -> list[int]:
        return _encode(text, ids, merges)

    if kind == "random":
        return []
    if kind == "tools":
        return [(start, call), (call, start), (call_end, end)]  # between them the grammar decides
    chains: dict[str, list[int]] = {
        "scripted": said(SCRIPT),
        "toolcall": [call, ids[CALL], call_end],
        "think": [think, *said(THOUGHT), think_end, *said(ANSWER)],
        "broken": [*said(THOUGHT), call, ids[_BYTES[0xE2]], *said(ANSWER)],  # 0xE2 by itself is no UTF-8
    }
    if kind == "endless":
        return list(pairwise([start, *said(SCRIPT), said(SCRIPT)[0]]))
    chain = [start, *chains[kind], end]
    assert len(set(chain)) == len(chain), "a token comes twice: its successor would not be unique"
    return list(pairwise(chain))


def _weights(kind: Kind, seed: int, steps: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)

    def noise(*shape: int, size: float = 0.08) -> np.ndarray:
        return (chance.standard_normal(shape) * size).astype(np.float32)

    ones = np.ones(_WIDTH, dtype=np.float32)
    embedding = noise(_VOCABULARY, _WIDTH, size=1.0)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    head = noise(_VOCABULARY, _WIDTH, size=0.3 if kind == "random" else 0.02)
    for token, successor in steps:
        head[successor] += _PULL * embedding[token]
    tensors = {"token_embd.weight": embedding, "output_norm.weight": ones, "output.weight": head}
    mixing = np.float32(1 if kind == "random" else 0)  # without it a block passes its input through
    shapes = {
        "attn_q": (_WIDTH, _WIDTH),
        "attn_k": (_WIDTH, _WIDTH),
        "attn_v": (_WIDTH, _WIDTH),
        "ffn_gate": (_HIDDEN, _WIDTH),
        "ffn_up": (_HIDDEN, _WIDTH),
    }
    for layer in range(_LAYERS):
        block = {f"{norm}_norm.weight": ones for norm in ("attn", "ffn")}
        block |= {f"{name}.weight": noise(*shape) for name, shape in shapes.items()}
        block["attn_output.weight"] = noise(_WIDTH, _WIDTH) * mixing
        block["ffn_down.weight"] = noise(_WIDTH, _HIDDEN) * mixing
        tensors |= {f"blk.{layer}.{name}": tensor for name, tensor in block.items()}
    return tensors


def _describe(writer: Any, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(_VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_tokenizer(
    writer: Any,
    tokens: Sequence[str],
    types: Sequence[gguf.TokenType],
    ids: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
) -> None:
    begin, end = ids["<|endoftext|>"], ids["<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(end)
    writer.add_eot_token_id(end)
    writer.add_pad_token_id(begin)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)
