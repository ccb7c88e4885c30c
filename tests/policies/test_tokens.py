"""The estimator's bounds and overheads. Figures of real tokenizers are named with their source."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm._types import ChatRequest, Image, Message, Tool, ToolCall
from resilient_llm.policies import tokens
from resilient_llm.policies.tokens import estimate, estimate_request, fits_surely

CLASSES = [
    "word ",
    "1234 ",
    "x = {a: [1, 2]};\n",
    "漢字",
    "かな",
    "한글",
    "слово ",
    "سلام ",
    "ไทย",
    "🙂",
    "é",
    "\n",
    " ",
    "+/9aZ",
]
texts = st.lists(st.sampled_from(CLASSES) | st.text(max_size=20), max_size=30).map("".join)


@given(texts)
def test_no_estimate_is_above_the_bytes_or_below_one(text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    assert min(1, size) <= estimate(text) <= size


@given(texts, texts)
def test_a_text_has_about_the_tokens_of_its_parts(one: str, other: str) -> None:
    whole, parts = estimate(f"{one}\n\n{other}"), estimate(one) + estimate(other)
    assert whole <= parts + 4
    assert whole >= min(parts - 2, 1)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2 + 2 = 4", 6, 8),  # 7 in o200k and cl100k (OpenAI cookbook, how to count tokens with tiktoken)
        ("お誕生日おめでとう", 7, 9),  # 8 in o200k, 9 in cl100k (same source)
        ("The quick brown fox jumps over the lazy dog.", 9, 11),  # 10 in cl100k and o200k
    ],
)
def test_known_counts_of_real_tokenizers(text: str, low: int, high: int) -> None:
    assert low <= estimate(text) <= high


@pytest.mark.parametrize(
    ("text", "each"),
    [
        ("the house was very old and ", 0.88 * 6),
        ("123456,", 0.85 * 2 + 0.67),
        ("漢字", 0.68 * 2),
        ("한글", 0.77 * 2),
        ("слово", 0.21 * 5),
        ("🙂", 1.75),
        ("internationalisation ", 0.88 + 0.21 * 13),
        ("getUserName ", 0.88 * 3),
        ("== a ", 0.67 + 0.37 + 0.88),
    ],
)
def test_each_class_of_characters_has_its_weight(text: str, each: float) -> None:
    assert estimate(text * 100) == pytest.approx(100 * each, abs=1.01)


def test_base64_counts_by_its_characters_and_not_as_words() -> None:
    blob = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk" * 20
    assert estimate(blob) == pytest.approx(0.65 * len(blob), abs=1)


@pytest.mark.parametrize("piece", ["a", "Aa", "aaaaaaa/", "1 ", " \n", "ab1/", "+", "é", "a" * 40 + "/"])
def test_no_text_makes_a_pattern_run_away(piece: str) -> None:
    # With a pattern that looks ahead without a bound, one of these takes minutes, not a fraction of a second.
    assert estimate(piece * (300_000 // len(piece))) > 1000


def test_a_request_counts_everything_that_is_sent() -> None:
    def size(**facts: object) -> int:
        return estimate_request(ChatRequest(messages=(Message("user", "hi", **facts),)))

    plain = size()
    assert plain == tokens.MESSAGE + tokens.PRIMING + estimate("hi")
    assert size(images=(Image(data="A" * 100_000), Image(url="https://example.org/a.png"))) == plain + 2 * tokens.IMAGE
    assert size(name="searcher") > plain
    assert size(reasoning="because " * 50) >= plain + 40
    assert size(tool_calls=(ToolCall("search", {"query": "word " * 50}),)) >= plain + 40


def test_tools_and_schema_count() -> None:
    messages = (Message("user", "hi"),)
    schema = {"type": "object", "properties": {f"field_{number}": {"type": "string"} for number in range(20)}}
    plain = estimate_request(ChatRequest(messages))
    tool = Tool("search", "Searches the web.", schema)
    assert estimate_request(ChatRequest(messages, tools=(tool,))) >= plain + estimate(json.dumps(schema)) + tokens.TOOL
    assert estimate_request(ChatRequest(messages, schema=schema)) == plain + estimate(json.dumps(schema))


@given(texts, st.integers(1, 5), st.integers(0, 4000))
def test_what_fits_surely_fits(text: str, messages: int, window: int) -> None:
    request = ChatRequest(tuple(Message("user", text) for _ in range(messages)), tools=(Tool("t", text, {}),))
    if fits_surely(request, window):
        assert estimate_request(request) <= window
        assert sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages) <= window


def test_a_short_prompt_fits_surely_and_a_long_one_is_not_encoded() -> None:
    class Unencodable(str):
        __slots__ = ()

        def encode(self, *args: object) -> bytes:
            raise AssertionError("a text longer than the window was encoded")

    assert fits_surely(ChatRequest((Message("user", "Why is the sky blue?"),)), 4096)
    long = Message.model_construct(role="user", content=Unencodable("é" * 100_000))
    assert not fits_surely(ChatRequest((long,)), 8192)


def test_what_fits_surely_is_reckoned_in_bytes_and_with_images() -> None:
    assert fits_surely(ChatRequest((Message("user", "a" * 1000),)), 2000)
    assert not fits_surely(ChatRequest((Message("user", "é" * 1000),)), 2000)
    assert not fits_surely(ChatRequest((Message("user", "a", images=(Image(data="AAAA"),)),)), 1000)
