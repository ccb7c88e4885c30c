"""How near the estimate comes to real tokenizers, its bounds and overheads."""

import json
import time
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm._types import ChatRequest, Image, Message, Tool, ToolCall
from resilient_llm.policies import tokens
from resilient_llm.policies._weights import FAMILIES, WEIGHTS, Family, family_of, measure
from resilient_llm.policies.tokens import Extent, estimate, estimate_request

HELD_OUT = Path(__file__).parent.parent / "data" / "tokens"  # see its README.md
COUNTS: dict[str, dict[Family, int]] = json.loads((HELD_OUT / "counts.json").read_text())
KINDS = ("english", "code", "json", "chinese", "russian")
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


def errors(kind: str, family: Family) -> list[float]:
    """How far the estimate is off for each text of this kind, as a share of what the real tokenizer counted."""
    return [
        abs(estimate((HELD_OUT / name).read_text(encoding="utf-8"), family) / counts[family] - 1)
        for name, counts in COUNTS.items()
        if name.startswith(kind)
    ]


def test_every_text_of_the_five_kinds_is_judged_by_every_vocabulary() -> None:
    texts = {path.name for path in HELD_OUT.iterdir()} - {"README.md", "counts.json", "count.py"}
    assert set(COUNTS) == texts
    assert all(set(counts) == set(FAMILIES) for counts in COUNTS.values())
    assert all(sum(name.startswith(f"{kind}_") for name in texts) >= 4 for kind in KINDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_texts_that_were_not_used_for_fitting_the_error_is_small(family: Family) -> None:
    off = {kind: errors(kind, family) for kind in KINDS}
    assert mean(one for each in off.values() for one in each) <= 0.05
    assert max(one for each in off.values() for one in each) <= 0.12
    assert max(map(mean, off.values())) <= 0.06  # of the four or five texts of one kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_as_small_in_each_script(kind: str) -> None:
    assert mean(one for family in FAMILIES for one in errors(kind, family)) <= 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_takes_a_third_of_a_second_at_the_most(kind: str) -> None:
    text = "".join((HELD_OUT / name).read_text(encoding="utf-8") for name in COUNTS if name.startswith(kind))
    long = text * (300_000 // len(text.encode()) + 1)
    spent = []
    for _ in range(3):
        began = time.process_time()  # of this process alone, however busy the machine is
        estimate(long)
        spent.append(time.process_time() - began)
    assert len(long.encode()) / 1e6 / min(spent) >= 3.0


def test_the_error_over_all_families_is_what_the_module_says() -> None:
    every = [one for kind in KINDS for family in FAMILIES for one in errors(kind, family)]
    assert round(mean(every), 2) == 0.03
    assert round(max(every), 2) <= 0.11


def test_the_wrong_family_would_be_far_off() -> None:
    """So that the columns of the table are not the same in disguise."""
    text = (HELD_OUT / "russian_story.txt").read_text(encoding="utf-8")
    assert estimate(text, "cl100k") > 1.4 * estimate(text, "o200k")


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini", "o200k"), ("gpt-5-mini", "o200k"), ("gpt-oss:20b", "o200k"), ("o3", "o200k"),
        ("gpt-4.1", "o200k"), ("gpt-4-turbo", "cl100k"), ("gpt-3.5-turbo", "cl100k"),
        ("llama3.2", "llama3"), ("meta-llama/Llama-3.3-70B-Instruct", "llama3"),
        ("deepseek-r1-distill-llama-3-8b", "llama3"),
        ("qwen3:8b", "qwen"), ("Qwen/Qwen2.5-7B", "qwen"), ("deepseek-r1-distill-qwen-7b", "qwen"),
        ("gemma3:27b", "gemma"), ("gemini-2.5-flash", "gemma"), ("deepseek-chat", "deepseek"),
        ("claude-sonnet-5", "o200k"), ("my-own", "o200k"),
    ],
)  # fmt: skip
def test_the_family_is_known_by_the_name_of_the_model(model: str, family: Family) -> None:
    assert family_of(model) == family


@pytest.mark.parametrize(
    ("text", "row", "times"),
    [
        ("the old ", "word", 2),
        ("漢", "rare Han", 1),
        ("中国", "common Han", 2),
        ("かな", "kana", 2),
        ("слово ", "Cyrillic word", 1),
        ("λόγος", "Greek", 5),
        ("سلام ", "Hebrew or Arabic", 4),
        ("ไทย", "India, Thai, Lao", 3),
        ("🙂", "emoji", 1),
        ("。", "East Asian mark", 1),
    ],
)
def test_each_class_of_characters_has_its_weight(text: str, row: str, times: int) -> None:
    for column, family in enumerate(FAMILIES):
        assert estimate(text * 100, family) == pytest.approx(100 * times * WEIGHTS[row][column], abs=1.01)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("internationalisation ", {"word": 1, "letter beyond the seventh": 13}),
        ("getUserName ", {"word": 1, "hump": 2}),
        ("a == ", {"word": 1, "punctuation": 1, "mark": 2}),
        ("12345,", {"three digits": 2, "digit": 5, "punctuation": 1, "mark": 1}),
        (
            "a 7\n\n",
            {"word": 1, "three digits": 1, "digit": 1, "space before a digit": 1, "line ends": 1, "line end": 2},
        ),
        ("a    \t", {"word": 1, "spaces": 1}),
        ("한글 ", {"Hangul": 1, "Hangul syllable": 2}),
        ("їжа ", {"Cyrillic word": 1, "Cyrillic, not Russian": 1}),
        ("deadbeef01 ", {"hexadecimal": 10}),
        ("x3fa85f64 ", {"word": 3, "three digits": 3, "digit": 5}),
    ],
)
def test_what_a_text_is_made_of(text: str, rows: dict[str, int]) -> None:
    found = {row: count for row, count in measure(text * 50).items() if count}
    assert found == {row: 50 * count for row, count in rows.items()}


def test_base64_counts_by_its_characters_and_not_as_words() -> None:
    blob = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk" * 20
    assert measure(blob) | {"base64": len(blob)} == measure(blob)
    assert estimate(blob) == pytest.approx(0.61 * len(blob), abs=1)


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
    if Extent(request).fits(window):
        assert estimate_request(request) <= window
        assert sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages) <= window


def test_a_short_prompt_fits_surely_and_a_long_one_is_not_encoded() -> None:
    class Unencodable(str):
        __slots__ = ()

        def encode(self, *args: object) -> bytes:
            raise AssertionError("a text longer than the window was encoded")

    assert Extent(ChatRequest((Message("user", "Why is the sky blue?"),))).fits(4096)
    long = Message.model_construct(role="user", content=Unencodable("é" * 100_000))
    assert not Extent(ChatRequest((long,))).fits(8192)


LONG = "word " * 600
HI = Message("user", "hi")


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest((Message("user", LONG),)),
        ChatRequest((Message("assistant", "hi", reasoning=LONG), HI)),
        ChatRequest((Message("assistant", "", tool_calls=(ToolCall("f", {"text": LONG}),)), HI)),
        ChatRequest((HI,), tools=(Tool("f", LONG, {}),)),
        ChatRequest((HI,), tools=(Tool("f", "", {"description": LONG}),)),
        ChatRequest((HI,), schema={"description": LONG}),
        ChatRequest((HI,) * 100),  # what stands around each message
    ],
)
def test_what_fits_surely_has_every_part_in_it(request_: ChatRequest) -> None:
    assert not Extent(request_).fits(2000)
    assert Extent(request_).fits(4000)


def test_what_fits_surely_is_reckoned_in_bytes_and_with_images() -> None:
    assert Extent(ChatRequest((Message("user", "a" * 1000),))).fits(2000)
    assert not Extent(ChatRequest((Message("user", "é" * 1000),))).fits(2000)
    assert not Extent(ChatRequest((Message("user", "a", images=(Image(data="AAAA"),)),))).fits(1000)
