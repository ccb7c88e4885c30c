"""Answers that must not be cut, as models write them, and such that must."""

from __future__ import annotations

import base64
import random
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_CARD = """<div class="card">
  <img src="https://example.com/placeholder.png" alt="Product image" width="320" height="240">
  <h3 class="card-title">Product name</h3>
  <p class="card-text">Lorem ipsum dolor sit amet, consectetur adipiscing elit.</p>
  <a href="#" class="btn btn-primary">Add to cart</a>
</div>
"""
_REFRAIN = "\nRow on, my hearts, row on, row on,\nThe tide is with us till the dawn,\nRow on, my hearts, row on!\n\n"
_VERSES = [
    f"The {thing} is {colour} and the harbour is far,\n"
    for thing in ("sail", "sea", "moon", "mast")
    for colour in ("grey", "low", "torn", "old", "pale")
]
_PICTURE = base64.b64encode(
    b"\x89PNG" + random.Random(3).randbytes(700) + bytes(1200) + random.Random(4).randbytes(400)
)

GOOD: dict[str, str] = {
    "a board for a drawing, 80 by 24": "+" + "-" * 78 + "+\n" + ("|" + " " * 78 + "|\n") * 22 + "+" + "-" * 78 + "+\n",
    "a map of tiles, 40 by 30": "[\n" + "[1," + "1," * 38 + "1],\n" + ("[1," + "0," * 38 + "1],\n") * 28 + "]",
    "a matrix of zeros, 30 by 30": "[" + ("[" + "0, " * 29 + "0],\n ") * 30 + "]",
    "an identity matrix": "\n".join(" ".join(f"{float(i == j):.1f}" for j in range(30)) for i in range(30)),
    "rulers": ("=" * 120 + "\n") * 3 + "Title\n" + "-" * 200 + "\n" + "*" * 300,
    "a table without entries": "| Date | Who | What |\n|---|---|---|\n" + "|      |     |      |\n" * 60,
    "a table of the same entries": "| N/A | N/A | N/A |\n" * 100,
    "twelve cards of a page": _CARD * 12,
    "a poem with a refrain": _REFRAIN.join(_VERSES),
    "a line of a song, thirty times": "Hey, Jude, don't make it bad, take a sad song and make it better\n" * 30,
    "lines to write as a punishment": "".join(f"{n}. I must not talk in class.\n" for n in range(1, 151)),
    "the same without numbers": "I must not talk in class.\n" * 150,
    "no operation": "    nop\n" * 256,
    "base64 of a picture with an empty part": f"data:image/png;base64,{_PICTURE.decode()}",
    "a dump of zeros": "\n".join(f"{at:08x}  {'00 ' * 16} |{'.' * 16}|" for at in range(0, 1024, 16)),
    "a CSV of zeros with its dates": "".join(f"2025-01-{day:02d},0,0,0,0\n" for day in range(1, 32)) * 3,
    "a list of the same object": "[" + '{"id": null, "name": "", "active": false},\n' * 50 + "]",
    "the same text for five letters": "".join(f"{number}. Sentence of a letter to each.\n" for number in range(40)) * 5,
    "Chinese": "一闪一闪亮晶晶，满天都是小星星。\n" * 20,
    "Russian": "Спят усталые игрушки, книжки спят.\n" * 20,
    "indented": "\n".join(" " * depth + "{" for depth in range(0, 120, 2)),
}

LOOPS: dict[str, str] = {
    "a character": "G",
    "an emoji": "🙂",
    "a line end": "\n",
    "a word": "the ",
    "a sentence": "I'm sorry, I cannot help with that. Is there anything else? ",
    "a thought": "Wait, but the question says 'at least two'. Let me count again: one, two, three. Hmm.\n\n",
    "a number of a list": "- Improve the quality of the data\n- Increase the number of samples\n- Use a better model\n",
    "a paragraph": "In conclusion, " + "it is important to consider every aspect of the matter, because " * 9 + "so. ",
    "a long block": "".join(f"{n}. step number {n * n} of the plan\n" for n in range(40)),
    "Chinese": "对不起，我不能回答这个问题。",
    "Russian": "Извините, я не могу ответить на этот вопрос. ",
    "JSON": '{"name": "Paris", "country": "France"}, ',
}  # fmt: skip


def real_texts() -> dict[str, str]:
    """What people wrote: this project's pages, code, tests and test data."""
    files = [
        path
        for kind in ("*.md", "docs/*.md", "src/**/*.py", "tests/**/*.py", "tests/data/tokens/*")
        for path in ROOT.glob(kind)
    ]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files if path.is_file()}


def pieces(text: str, size: int = 4) -> list[str]:
    """As it comes: a token has about four characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


WORDS = (ROOT / "tests/data/tokens/english_story.txt").read_text(encoding="utf-8").split()


def written(chance: random.Random) -> str:
    """An answer of parts as regular as such things are: rows that differ in little, or for a page in nothing."""
    return "".join(f"## Part {number}\n\n{chance.choice(PARTS)(chance)}\n\n" for number in range(chance.randint(3, 9)))


def _prose(chance: random.Random) -> str:
    sentences = [" ".join(chance.choices(WORDS, k=chance.randint(4, 20))).capitalize() for _ in range(60)]
    return ". ".join(chance.choices(sentences, k=chance.randint(5, 80))) + "."


def _code(chance: random.Random) -> str:
    body = f"    value = {chance.choice(WORDS)}({chance.randint(0, 9)})\n    return value\n\n\n"
    return "```python\n" + "".join(f"def case_{number}():\n{body}" for number in range(chance.randint(5, 200))) + "```"


def _records(chance: random.Random) -> str:
    rows = [f'{{"id": {number}, "name": "", "tags": [], "active": false}}' for number in range(chance.randint(5, 200))]
    return "[" + chance.choice([",", ",\n  ", ", "]).join(rows) + "]"


def _table(chance: random.Random) -> str:
    few = [chance.choice(WORDS) for _ in range(chance.randint(2, 4))]
    rows = [" | ".join(chance.choices(few, k=4)) for _ in range(chance.randint(5, 150))]
    return "| # | a | b | c | d |\n|---|---|---|---|---|\n" + "".join(
        f"| {at} | {row} |\n" for at, row in enumerate(rows)
    )


def _figures(chance: random.Random) -> str:
    width = chance.randint(1, 6)
    return "\n".join(",".join(f"{chance.random():.{width}f}" for _ in range(8)) for _ in range(chance.randint(5, 150)))


def _the_same(chance: random.Random) -> str:
    """Up to what a loop begins with: placeholders, rulers, empty cells, a refrain."""
    unit = " ".join(chance.choices(WORDS, k=chance.randint(1, 40))) + chance.choice(["\n", "", "-" * 30, " | "])
    return unit * (chance.randint(500, 3900) // len(unit))


PARTS = (_prose, _code, _records, _table, _figures, _the_same)
