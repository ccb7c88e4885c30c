"""How fast the token estimate is and how near it comes to real tokenizers: `python -m benchmarks.tokens`.

The texts and what real tokenizers count in them are those of the tests (`tests/data/tokens/README.md`). A text is
repeated until it has a megabyte; the time is that of the process, the best of five.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean

from resilient_llm.policies._weights import FAMILIES
from resilient_llm.policies.tokens import estimate

TEXTS = Path(__file__).parent.parent / "tests" / "data" / "tokens"
KINDS = ("english", "code", "json", "chinese", "russian")
AIM = 3.0  # MB/s


def speed(text: str) -> float:
    """Megabytes of UTF-8 in a second."""
    long = text * (1_000_000 // len(text.encode()) + 1)
    best = 1e9
    for _ in range(5):
        began = time.process_time()
        estimate(long)
        best = min(best, time.process_time() - began)
    return len(long.encode()) / 1e6 / best


def main() -> None:
    counts = json.loads((TEXTS / "counts.json").read_text())
    print(f"| texts | MB/s (aim {AIM:g}) | {' | '.join(f'{family}: mean, worst' for family in FAMILIES)} |")
    print(f"|---|---|{'---|' * len(FAMILIES)}")
    for kind in KINDS:
        texts = {name: (TEXTS / name).read_text(encoding="utf-8") for name in counts if name.startswith(kind)}
        row = [f"{speed(''.join(texts.values())):.1f}"]
        for family in FAMILIES:
            off = [abs(estimate(text, family) / counts[name][family] - 1) for name, text in texts.items()]
            row.append(f"{mean(off):.1%}, {max(off):.1%}")
        print(f"| {kind} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
