"""Prompts in five scripts, made of the texts that the estimate is judged by, and what real tokenizers make of them.

A text is taken apart behind line ends and marks; a piece is worth its share of what the real tokenizer counted for the
whole text. So the estimate errs here as it errs beside that tokenizer, which no tokenizer made from it would show.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from statistics import mean

from resilient_llm import Message

TEXTS = Path(__file__).parent.parent / "data" / "tokens"  # see its README.md
COUNTS: dict[str, dict[str, int]] = json.loads((TEXTS / "counts.json").read_text())
AROUND = 5  # tokens of the template around a message
SCRIPTS = ("english", "code", "json", "chinese", "russian")
_BEHIND = re.compile(r"(?<=[\n.,;:。，、；：！？!?{}])")
_UNIT = re.compile(r"[A-Za-z]{1,6}|[А-яЁё]{1,4}|\d{1,3}|[\u3000-\u9fff\uff00-\uffef]{1,2}|[^\w\s]{1,2}|\n+|\w")


def pieces_of(text: str) -> list[str]:
    return [piece for piece in _BEHIND.split(text) if piece]


FILES = {name: pieces_of((TEXTS / name).read_text(encoding="utf-8").strip() + "\n") for name in sorted(COUNTS)}


@lru_cache
def pieces_worth(family: str) -> dict[str, float]:
    """The tokens of each piece, by this family's tokenizer."""
    worth: defaultdict[str, list[float]] = defaultdict(list)
    for name, pieces in FILES.items():
        units = [len(_UNIT.findall(piece)) or 1 for piece in pieces]
        for piece, many in zip(pieces, units, strict=True):
            worth[piece].append(many * COUNTS[name][family] / sum(units))
    return {piece: mean(found) for piece, found in worth.items()}


@lru_cache
def tokenizer(family: str) -> Callable[[str], int]:
    """Counts a text that is made of our pieces."""
    known = pieces_worth(family)

    @lru_cache(maxsize=4096)
    def of_paragraph(text: str) -> float:
        return sum(known.get(piece, len(piece) / 4) for piece in pieces_of(text))

    def count(text: str) -> int:
        return round(sum(of_paragraph(line) for line in text.splitlines(keepends=True)))

    return count


class Prompts:
    """Prompts of one tokenizer, by chance: one long message or a talk, new or gone on with, of any size.

    Args:
        family: whose tokenizer.
        window: in tokens. Sizes go from a twentieth of it to three times as much,
        near: but this share is within 5 % of it.
        chance: of all that.
    """

    def __init__(self, family: str, window: int, near: float, chance: Random) -> None:
        self._worth = pieces_worth(family)
        self._count, self._window, self._near, self._chance = tokenizer(family), window, near, chance
        self._talks: dict[str, list[Message]] = {}  # the last in each script, which may go on

    def draw(self) -> tuple[str, list[Message]]:
        """A prompt, and its form: `one` long message, a `talk`, or one that `goes on`."""
        chance, script = self._chance, self._chance.choice(SCRIPTS)
        size = math.exp(chance.uniform(math.log(0.05), math.log(3)))
        size = self._window * (chance.uniform(0.95, 1.05) if chance.random() < self._near else size)
        system = [Message("system", self._text(script, chance.uniform(20, 100)))] if chance.random() < 0.7 else []
        form = chance.choices(("one", "talk", "goes on"), (50, 10, 40))[0]
        if form == "one":
            return form, [*system, Message("user", self._text(script, size))]
        talk = self._talks.get(script, [])
        if form == "talk" or not talk or self._size(talk) > 3 * self._window:
            form, talk = "talk", self._talk(script, size, system)
        else:
            usual = self._size(talk) / len(talk)
            talk = [*talk, *(Message(role, self._turn(script, usual)) for role in ("assistant", "user"))]
        self._talks[script] = talk
        return form, talk

    def _talk(self, script: str, size: float, talk: list[Message]) -> list[Message]:
        """Turns of about one size, until it is as long and the user has the last word."""
        usual = math.exp(self._chance.uniform(math.log(25), math.log(400)))
        left = size - self._size(talk)
        while left > 0 or not talk or talk[-1].role != "user":
            role = "assistant" if talk and talk[-1].role == "user" else "user"
            text = self._turn(script, usual, most=left - AROUND if left > usual else usual)
            talk.append(Message(role, text))
            left -= self._count(text) + AROUND
        return talk

    def _turn(self, script: str, usual: float, most: float = math.inf) -> str:
        return self._text(script, max(8.0, min(self._chance.lognormvariate(math.log(usual), 0.6), most)))

    def _size(self, messages: Sequence[Message]) -> int:
        return sum(self._count(one.content) + AROUND for one in messages)

    def _text(self, script: str, tokens: float) -> str:
        """About so many tokens: a passage of a text, and of others if it is not long enough."""
        found: list[str] = []
        said = 0.0
        while said < tokens:
            pieces = FILES[self._chance.choice([name for name in FILES if name.startswith(script)])]
            start = self._chance.randrange(len(pieces))
            for piece in pieces[start:]:
                found.append(piece)
                said += self._worth[piece]
                if said >= tokens:
                    break
        return "".join(found)
