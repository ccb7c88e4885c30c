"""Counts the texts of this folder with real tokenizers, and writes `counts.json`. Run by hand: see README.md.

python count.py o200k=gpt-oss/tokenizer.json cl100k=encoders/cl100k_base.json llama3=… qwen=… gemma=… deepseek=…
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def counter(path: str) -> Callable[[str], int]:
    """What counts by this file: a `tokenizer.json` of Hugging Face's, or an encoder of the npm package `tiktoken`."""
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    if "bpe_ranks" not in found:
        from tokenizers import Tokenizer

        whole = Tokenizer.from_file(path)
        return lambda text: len(whole.encode(text, add_special_tokens=False).ids)
    import tiktoken

    ranks: dict[bytes, int] = {}
    for line in found["bpe_ranks"].split("\n"):
        _, first, *tokens = line.split(" ")
        ranks.update((base64.b64decode(token), int(first) + number) for number, token in enumerate(tokens))
    coding = tiktoken.Encoding(
        Path(path).stem, pat_str=found["pat_str"], mergeable_ranks=ranks, special_tokens=found["special_tokens"]
    )
    return lambda text: len(coding.encode(text, disallowed_special=()))


def main() -> None:
    by_family = {family: counter(path) for family, _, path in (one.partition("=") for one in sys.argv[1:])}
    texts = sorted(path for path in HERE.iterdir() if path.name not in ("README.md", "counts.json", "count.py"))
    counts = {
        path.name: {family: count(path.read_text(encoding="utf-8")) for family, count in by_family.items()}
        for path in texts
    }
    (HERE / "counts.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
