"""A server that cuts prompts as Ollama does, for texts whose tokens a tokenizer of its own counts.

It exists to score the detector: it knows what it cut. The tokenizer differs from our estimate by a factor of each kind
of text (up to 12 %, as real ones did on held-out files) and by chance from message to message.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from resilient_llm import ChatRequest, Message
from resilient_llm.policies.tokens import MESSAGE, estimate

_ENGLISH = (
    "the of and to in is you that it was for on are as with his they at be this have from or by one had not but what"
    " all were when we there can an which their said if do will each about how up out them then she many some so these"
    " would other into has more her two like him see time could make first been number people over water called down"
    " house because different picture important something thought question children mountain together government"
)
_RUSSIAN = (
    "и в не на я быть он с что а по это она этот к но они мы весь который из у то за свой от так о для ты же год"
    " человек время рука дело жизнь день голова друг дом слово место лицо работа вопрос сторона страна"
)
_HAN = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经十三之进着等部度家电"
    "力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看"
)
WORDS, RUSSIAN, HAN = _ENGLISH.split(), _RUSSIAN.split(), list(_HAN)
FACTORS = {"english": 1.03, "code": 0.92, "json": 1.1, "chinese": 0.93, "russian": 1.12}
AROUND = 5  # tokens of the chat template around a message


class Scripts:
    """Texts of five kinds, cut from a long one of each."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        pick = rng.choice
        line = lambda: f"    {pick(WORDS)}_{pick(WORDS)} = {pick(WORDS)}({pick(WORDS)}, {rng.randrange(999)})\n"  # noqa: E731
        item = lambda: f'{{"{pick(WORDS)}": {rng.randrange(99999)}, "{pick(WORDS)}": "{pick(WORDS)}"}},'  # noqa: E731
        self._long = {
            "english": " ".join(pick(WORDS) for _ in range(40_000)),
            "code": "".join(line() for _ in range(4_000)),
            "json": "".join(item() for _ in range(4_000)),
            "chinese": "".join(pick(HAN) for _ in range(60_000)),
            "russian": " ".join(pick(RUSSIAN) for _ in range(30_000)),
        }
        self._chars = {kind: len(text) / estimate(text) for kind, text in self._long.items()}

    def text(self, kind: str, tokens: float) -> str:
        """About so many tokens."""
        chars = max(int(tokens * self._chars[kind]), 2)
        start = self._rng.randrange(max(len(self._long[kind]) - chars, 1))
        return self._long[kind][start : start + chars]

    def prompt(self, kind: str, tokens: float) -> list[Message]:
        """One long message, or a conversation in messages of one size or other; often with a system message."""
        rng = self._rng
        messages = [Message("system", self.text(kind, rng.randint(20, 100)))] if rng.random() < 0.7 else []
        if rng.random() < 0.5:
            return [*messages, Message("user", self.text(kind, tokens))]
        usual, said = math.exp(rng.uniform(math.log(25), math.log(500))), 0.0
        while said < tokens:
            many = max(5.0, rng.lognormvariate(math.log(usual), 0.6))
            messages.append(
                Message("assistant" if messages and messages[-1].role == "user" else "user", self.text(kind, many))
            )
            said += many
        return [*messages, Message("user", self.text(kind, 20))]


@dataclass(frozen=True, slots=True)
class Cutting:
    """A server with this window; an old one cuts what is still too long to the window, a new one to half of it."""

    window: int
    old: bool = False

    def count(self, messages: Sequence[Message], kind: str) -> tuple[int, bool]:
        """The tokens that it says the prompt had, and whether it cut it."""
        sizes = [tokens_of(message, kind) for message in messages]
        whole = sum(sizes)
        kept = list(range(len(messages)))
        while sum(sizes[number] for number in kept) > self.window:
            oldest = next((number for number in kept[:-1] if messages[number].role != "system"), None)
            if oldest is None:
                return (self.window if self.old else self.window - (self.window - 5) // 2), True
            kept.remove(oldest)
        left = sum(sizes[number] for number in kept)
        return left, left < whole


def tokens_of(message: Message, kind: str) -> int:
    """The tokens of a message by the tokenizer of this server: always the same for the same text."""
    guess = estimate(message.content)
    chance = random.Random(hashlib.sha256(message.content.encode()).digest()).gauss(0, 0.05)
    off = math.exp(chance * math.sqrt(200 / max(guess, 50)) if guess < 2_000 else chance / 4)
    return max(1, round(guess * FACTORS[kind] * off)) + AROUND


def request_of(messages: Sequence[Message]) -> ChatRequest:
    """A request of these messages alone."""
    assert MESSAGE < AROUND + 1
    return ChatRequest(messages=tuple(messages))
