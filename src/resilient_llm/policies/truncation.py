"""Whether a prompt was cut without a word, from what the server says that it counted.

A server left to itself keeps the end of a prompt and says 200. Ollama drops whole messages from the front of a chat
until it fits; if one message alone is too long, half of the window goes, the system's words with it, and older runners
cut to the window itself (ollama/ollama#17427, #14259; `server/prompt.go`, `llm/llama_server.go`). What it counted is
then less than what we sent, and often a number that only the window explains.

Our own estimate of what we sent may be off by a tenth, and by a script's own factor. So it is calibrated on the answers
of the same model, by the kind of text, and a conversation that goes on is measured by what its beginning was counted
as. Where that cannot decide, near the window, the messages do: a cut leaves what is left after whole messages, with
less than the next of them of room.

What was learned of other answers only helps to name a cut. Whether one is an error is decided by its own answer alone
(`Counted.alone`), unless the route adapts.

Rules of the file: pure. The answer to "was it cut?" is yes where a cut explains the count and its absence does not, and
where both do; what surely fits was not cut. So a conversation of short messages that is new to us and fills its window
but for a few percent is taken for one that was cut: nobody can tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from resilient_llm._replies import Done
from resilient_llm._types import ChatRequest, Message
from resilient_llm.policies._talks import Begun, Talks
from resilient_llm.policies.tokens import PRIMING, Extent, TokenCounter

KEPT = 60  # answers of a kind of text that the ratio is taken over
LEAST = 150  # tokens of a prompt below which the template around it is too much of it to learn from
LIGHT = 8_000  # characters that are counted only to learn from: about 2 ms
OFTEN = 200  # light prompts that are looked at; after them one of so many
THIN = 6  # characters for a token counted; English has 4 to 5. Where nobody knows the window only more is looked at
ENOUGH = 8  # answers after which there is no need to count only to learn
UNKNOWN = 0.35  # how far the estimate may be off for a tokenizer that nothing is known of
FEW = 0.12  # and after three answers
SURE = 0.035  # and at the least: a long prompt is off by less than the text that it was learned from
# By how much a prompt may have more tokens than we think, at the most:
BEYOND = 0.6  # of no known family: cl100k makes 1.5 times as many tokens of Russian as its successor
NAMED = 0.12  # of a family that we have the weights of: 0.11 was the worst of 126 texts (tests/data/tokens)
LEARNED = 0.065  # after eight answers, or half as much again as it is usually off
SHORT = 0.16  # of single messages, which are off by more than a prompt: new turns, and those that went
EXACT = 0.004  # and of what was counted before
GROSS = 0.1  # of the estimate; more is missing than chance explains
ROOM = 8  # tokens by which a short message may be larger than we think, and still not have had room
POSSIBLE = (0.3, 12.0)  # a ratio that some tokenizer has: bytes for Thai are 3 a character, and we count 0.29 at least
UNTOLD = 0.4  # of the estimate; below it a prompt was cut, though nobody knows the window
LEAST_WINDOW = 2_048  # tokens; no server in use has a smaller one
_NUM_KEEP = (4, 5)  # tokens that Ollama keeps from the front: `num_keep`, and one that begins a text where there is one
_LOOKED_AT = 2_000  # characters of a prompt that tell its kind


class Counted:
    """What one model's server counts, against our estimate of it.

    Attributes:
        more: answers that what was learned calls cut, and `alone` does not.
        fewer: the other way round.
    """

    __slots__ = ("_looks", "_named", "_ratios", "_talks", "fewer", "more")

    def __init__(self, *, named: bool = False) -> None:
        self._looks, self._named = 0, named
        self.more = self.fewer = 0
        self._talks = Talks()
        self._ratios: dict[str, deque[tuple[float, float]]] = {}  # with the size of the prompt in tokens

    def cut(
        self, request: ChatRequest, counted: int | None, window: int | None, estimate: TokenCounter, *,
        whole: bool = True, refuses: bool = False, extent: Extent | None = None,
    ) -> bool:  # fmt: skip
        """Whether the prompt of an answer was cut on the way to its model. Learns from one that was not.

        Args:
            request: as it was sent.
            counted: the tokens of the prompt by the server, cached ones among them.
            window: in tokens, as far as it is known.
            estimate: counts a request as well as we can.
            whole: the server counts what it had in its cache, too.
            refuses: the server says that it refuses what is too long, and does not cut it: only what can be nothing
                else is a cut.
            extent: of the request, if it was measured before.
        """
        extent = Extent(request) if extent is None else extent
        if not counted or extent.images:  # what an image is worth nobody knows
            return False
        if extent.fits(LEAST_WINDOW if window is None else window):
            if whole and counted >= LEAST and extent.chars <= LIGHT:
                self._learn(request, counted, estimate)
            return False
        if window is not None and counted > window:
            window = None  # it is not the one that we know: servers before 0.10 do not tell theirs
        if window is None and extent.chars < THIN * counted:
            return False
        kind, begun = kind_of(request.messages), self._talks.begun(request, window) if whole else None
        if begun is not None and begun.counted is None:
            sure, perhaps = True, False  # less than this was too long already
        else:
            worth = self._worth(request, kind, window or 0, estimate, begun)
            sure = _surely_cut(counted, window, worth, whole=whole)
            perhaps = not sure and whole and not refuses and _perhaps_cut(request, counted, window, worth, estimate)
        if whole and not perhaps:
            if not sure:
                guess = estimate(request)
                self._add(kind, counted / guess, guess)
            self._talks.remember(request, window, None if sure else counted)
        return sure or perhaps

    def alone(
        self, request: ChatRequest, counted: int | None, window: int | None, estimate: TokenCounter, *, learned: bool,
        whole: bool = True, refuses: bool = False, extent: Extent | None = None,
    ) -> bool:  # fmt: skip
        """The same by this answer alone, as if the model had never been asked before.

        Learns nothing, and notes where `learned`, which is what `cut` says, is another answer.
        """
        fresh = Counted(named=self._named)
        found = fresh.cut(request, counted, window, estimate, whole=whole, refuses=refuses, extent=extent)
        self.more += learned and not found
        self.fewer += found and not learned
        return found

    def known(self, kind: str, window: int = 0) -> tuple[float, float]:
        """The tokens there are for one of our estimate, in this kind of text, and by how much that may be off."""
        ratios = self._seen(kind, window)
        if len(ratios) < 3:
            return 1.0, UNKNOWN
        middle = median(ratios)
        off = sorted(abs(one / middle - 1) for one in ratios)
        usual = 1.3 * off[int(0.9 * (len(off) - 1))]  # the tenth that is farthest off may be an accident
        return middle, max(usual, FEW if len(ratios) < ENOUGH else SURE)

    def _seen(self, kind: str, window: int) -> list[float]:
        """Long prompts are off by less than short ones; near a window only the long ones say something."""
        seen = tuple(self._ratios.get(kind, ()))  # in one step: other threads add to it
        long = [ratio for ratio, tokens in seen if tokens >= window / 3]
        return long if len(long) >= ENOUGH else [ratio for ratio, _ in seen]

    def _worth(
        self, request: ChatRequest, kind: str, window: int, estimate: TokenCounter, begun: Begun | None
    ) -> _Worth:
        guess = estimate(request)
        ratio, spread = self.known(kind, window)
        if spread == UNKNOWN:
            worth = _Worth(guess, 1.0, UNKNOWN, NAMED if self._named else BEYOND, UNTOLD)
        else:
            above = min(max(1.5 * spread, LEARNED), max(spread, FEW))
            worth = _Worth(ratio * guess, ratio, max(3 * spread, GROSS), above, 1 - 2 * spread - 0.2)
        if begun is not None and begun.counted is not None:
            before = estimate(replace(request, messages=request.messages[: begun.messages]))
            off = max(SHORT * (1 - before / guess), EXACT)
            if off < worth.above:
                told = begun.counted / before
                worth = worth._replace(tokens=told * guess, ratio=told, below=off, above=off)
        return worth

    def factor(self, request: ChatRequest, window: int) -> float | None:
        """What our estimate of this prompt has to be multiplied by to be hardly ever too low; `None`: not known yet."""
        ratio, spread = self.known(kind_of(request.messages), window)
        return None if spread == UNKNOWN else ratio * (1 + spread)

    def __str__(self) -> str:
        """`words × 1.04, code × 1.11`: what the server counts for one of ours, where that is known."""
        known = {kind: self.known(kind) for kind in tuple(self._ratios)}
        return ", ".join(f"{kind} × {ratio:.2f}" for kind, (ratio, spread) in known.items() if spread < UNKNOWN)

    def _learn(self, request: ChatRequest, counted: int, estimate: TokenCounter) -> None:
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
        known = {kind: round(self.known(kind)[0], 3) for kind in tuple(self._ratios)}
        return f"Counted({known})"


class _Worth(NamedTuple):
    """What we take a prompt for: its tokens, those for one of our estimate, and by which share it may be less or more.

    Below `untold` of it a prompt was cut, though nobody knows the window.
    """

    tokens: float
    ratio: float
    below: float
    above: float
    untold: float


def _surely_cut(counted: int, window: int | None, worth: _Worth, *, whole: bool) -> bool:
    """Whether a cut explains the count, and its absence does not."""
    if window is None:
        return whole and counted < worth.tokens * worth.untold
    if worth.tokens * (1 + worth.above) <= window:
        return False  # it fitted
    return counted in pinned(window) or (whole and counted < worth.tokens * (1 - max(worth.below, GROSS)))


def _perhaps_cut(
    request: ChatRequest, counted: int, window: int | None, worth: _Worth, estimate: TokenCounter
) -> bool:  # fmt: skip
    """Whether it may be what is left after whole messages: so many tokens, and no room for the last that went."""
    if window is None:
        return False
    left = worth.tokens
    for message in _droppable(request.messages):
        if left * (1 + worth.above) <= window:
            return False
        gone = worth.ratio * (estimate(ChatRequest(messages=(message,))) - PRIMING)
        left -= gone
        off = SHORT * (worth.tokens - left)
        least, most = left - worth.tokens * worth.below - off, left + worth.tokens * worth.above + off
        if least <= counted <= most and counted + gone * (1 + worth.above) + ROOM > window:
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
    for name, test in () if text.isascii() else tests:
        if sum(map(test, text)) > 0.3 * len(text):
            return name
    dense = [c for c in text if not c.isspace()]
    marks = sum(not c.isalnum() for c in dense) / max(len(dense), 1)
    return "data" if marks > 0.28 else "code" if marks > 0.1 else "words"
