"""Whether a prompt was cut without a word, from what the server says that it counted.

A server left to itself keeps the end of a prompt and says 200. Ollama drops whole messages from the front of a chat
until it fits; if one message alone is too long, half of the window goes, the system's words with it, and older runners
cut to the window itself (ollama/ollama#17427, #14259; `server/prompt.go`, `llm/llama_server.go`). What it counted is
then less than what we sent, and often a number that only the window explains.

Our own estimate of what we sent may be off by a tenth, and by a script's own factor. So it is calibrated on the answers
of the same model, by the kind of text; and where it cannot decide, near the window, the messages do: a cut leaves what
is left after whole messages, with less than the next of them of room.

Rules of the file: pure. The answer to "was it cut?" is yes where a cut explains the count and its absence does not, and
where both do; what surely fits was not cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from resilient_llm._replies import Done
from resilient_llm._types import ChatRequest, Message
from resilient_llm.policies.tokens import PRIMING, TokenCounter, fits_surely, size

KEPT = 60  # answers of a kind of text that the ratio is taken over
LEAST = 150  # tokens of a prompt below which the template around it is too much of it to learn from
LIGHT = 8_000  # characters that are counted only to learn from: about 2 ms
OFTEN = 200  # light prompts that are looked at; after them one of so many
THIN = 6  # characters for a token counted; English has 4 to 5. Where nobody knows the window only more is looked at
ENOUGH = 8  # answers after which there is no need to count only to learn
UNKNOWN = 0.35  # how far the estimate may be off for a tokenizer that nothing is known of
FEW = 0.12  # and after three answers
SURE = 0.035  # and at the least: a long prompt is off by less than the text that it was learned from
POSSIBLE = (0.3, 12.0)  # a ratio that some tokenizer has: bytes for Thai are 3 a character, and we count 0.29 at least
UNTOLD = 0.4  # of the estimate; below it a prompt was cut, though nobody knows the window
LEAST_WINDOW = 2_048  # tokens; no server in use has a smaller one
_NUM_KEEP = (4, 5)  # tokens that Ollama keeps from the front: `num_keep`, and one that begins a text where there is one
_LOOKED_AT = 2_000  # characters of a prompt that tell its kind


class Counted:
    """What one model's server counts, against our estimate of it."""

    __slots__ = ("_looks", "_ratios")

    def __init__(self) -> None:
        self._looks = 0
        self._ratios: dict[str, deque[tuple[float, float]]] = {}  # with the size of the prompt in tokens

    def cut(
        self, request: ChatRequest, counted: int | None, window: int | None, estimate: TokenCounter, *,
        whole: bool = True,
    ) -> bool:  # fmt: skip
        """Whether the prompt of an answer was cut on the way to its model. Learns from one that was not.

        Args:
            request: as it was sent.
            counted: the tokens of the prompt by the server, cached ones among them.
            window: in tokens, as far as it is known.
            estimate: counts a request as well as we can.
            whole: the server counts what it had in its cache, too.
        """
        if not counted or any(message.images for message in request.messages):  # what an image is worth nobody knows
            return False
        if fits_surely(request, LEAST_WINDOW if window is None else window):
            if whole:
                self._learn(request, counted, estimate)
            return False
        if window is None and size(request) < THIN * counted:
            return False
        kind = kind_of(request.messages)
        ratio, spread = self.known(kind, window or 0)
        expected = ratio * estimate(request)
        if window is None:
            found = whole and counted < expected * (UNTOLD if spread == UNKNOWN else 1 - 2 * spread - 0.2)
        else:
            found = _explained(request, counted, window, expected, spread, estimate, ratio, whole=whole)
        if not found and whole:
            self._add(kind, counted / (expected / ratio), expected)
        return found

    def known(self, kind: str, window: int = 0) -> tuple[float, float]:
        """The tokens there are for one of our estimate, in this kind of text, and by how much that may be off.

        Long prompts are off by less than short ones; near a window only the long ones say something.
        """
        seen = self._ratios.get(kind, ())
        if len(seen) < 3:
            return 1.0, UNKNOWN
        long = [ratio for ratio, tokens in seen if tokens >= window / 3]
        ratios = long if len(long) >= ENOUGH else [ratio for ratio, _ in seen]
        middle = median(ratios)
        off = sorted(abs(one / middle - 1) for one in ratios)
        usual = 1.3 * off[int(0.9 * (len(off) - 1))]  # the tenth that is farthest off may be an accident
        return middle, max(usual, FEW if len(ratios) < ENOUGH else SURE)

    def factor(self, request: ChatRequest, window: int) -> float | None:
        """What our estimate of this prompt has to be multiplied by to be hardly ever too low; `None`: not known yet."""
        ratio, spread = self.known(kind_of(request.messages), window)
        return None if spread == UNKNOWN else ratio * (1 + spread)

    def __str__(self) -> str:
        """`words × 1.04, code × 1.11`: what the server counts for one of ours, where that is known."""
        known = {kind: self.known(kind) for kind in self._ratios}
        return ", ".join(f"{kind} × {ratio:.2f}" for kind, (ratio, spread) in known.items() if spread < UNKNOWN)

    def _learn(self, request: ChatRequest, counted: int, estimate: TokenCounter) -> None:
        if counted < LEAST or size(request) > LIGHT:
            return
        self._looks += 1
        if self._looks > OFTEN and self._looks % OFTEN:
            return
        kind = kind_of(request.messages)
        if len(self._ratios.get(kind, ())) < ENOUGH:
            guess = estimate(request)
            self._add(kind, counted / guess, guess)

    def _add(self, kind: str, ratio: float, expected: float) -> None:
        if expected >= LEAST and POSSIBLE[0] <= ratio <= POSSIBLE[1]:
            self._ratios.setdefault(kind, deque(maxlen=KEPT)).append((ratio, expected))

    def __repr__(self) -> str:
        known = {kind: round(self.known(kind)[0], 3) for kind in self._ratios}
        return f"Counted({known})"


def _explained(
    request: ChatRequest, counted: int, window: int, expected: float, spread: float, estimate: TokenCounter,
    ratio: float, *, whole: bool,
) -> bool:  # fmt: skip
    """Whether a cut explains the count."""
    if expected * (1 + UNKNOWN) <= window or counted > window:
        return False  # it fitted; or the window is not the one that we know
    if counted in pinned(window) or (whole and counted < expected * (1 - UNKNOWN)):
        return True
    if not whole or expected * (1 + 2 * spread) <= window:
        return False
    if counted < expected * (1 - spread):
        return True
    left = expected
    for message in _droppable(request.messages):
        if left * (1 + spread) <= window:
            return False
        gone = ratio * (estimate(ChatRequest(messages=(message,))) - PRIMING)
        left -= gone
        if abs(counted - left) <= spread * left and counted + gone * (1 + UNKNOWN) > window:
            return True
    return False


def shifted(done: Done, window: int | None) -> bool:
    """An answer outgrew the window: the server dropped the middle of the context, the system's words first.

    One that ends where the window ends says `length` (`shift: false`, or a server that cannot shift).
    """
    prompt, answer = done.usage.input_tokens, done.usage.output_tokens
    if window is None or prompt is None or answer is None:
        return False
    used = prompt + answer
    return used > window or (used == window and done.finish_reason != "length")


def pinned(window: int) -> frozenset[int]:
    """The counts that a cut prompt has because of this window: half of it and what is kept of the front, or all of it.

    4096 leaves 2050 or 2051 (since 0.30: `window − max((window − keep) // 2, 1)`), or 4096 (before).
    """
    halves = {window - max((window - keep) // 2, 1) for keep in _NUM_KEEP}
    return frozenset(halves | {window})


def _droppable(messages: Sequence[Message]) -> list[Message]:
    """What Ollama leaves out one after the other: all but the system's messages and the last."""
    return [one for one in messages[:-1] if one.role not in ("system", "developer")]


def kind_of(messages: Sequence[Message]) -> str:
    """The kind of text that most of a prompt is: tokenizers differ by it more than by anything else."""
    each = max(_LOOKED_AT // max(len(messages), 1), 50)
    text = "".join(message.content[:each] for message in messages[-40:])
    if not text:
        return "none"
    tests: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("east", lambda c: "\u3000" <= c <= "\ud7af"),
        ("greek", lambda c: "\u0370" <= c <= "\u052f"),
        ("other", lambda c: c > "\u024f"),
    )
    for name, test in tests:
        if sum(map(test, text)) > 0.3 * len(text):
            return name
    dense = [c for c in text if not c.isspace()]
    marks = sum(not c.isalnum() for c in dense) / max(len(dense), 1)
    return "data" if marks > 0.28 else "code" if marks > 0.1 else "words"
