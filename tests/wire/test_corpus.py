"""Every case of the corpus becomes what it says, however its bytes are cut; and no mutant of one becomes anything else
than an answer or a typed error."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from resilient_llm import _errors as e

from .corpus import CASES, WIRES, Case, told
from .test_fuzz import mutated, pieces, rounds

SERVERS = {
    "OpenAI", "Azure", "vLLM", "SGLang", "llama.cpp", "LM Studio", "TGI", "Groq", "Together", "Fireworks", "OpenRouter",
    "Mistral", "DeepSeek", "Gemini", "Anthropic", "LiteLLM", "Ollama",
}  # fmt: skip
STREAMS = [case for case in CASES if case.status == 200]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
each_stream = pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.id)


def same(outcome: dict[str, Any] | e.LLMError) -> object:
    """What has to be the same however the bytes come."""
    return outcome if isinstance(outcome, dict) else (told(outcome), outcome.message, outcome.status, outcome.code)


@each_case
def test_a_case_becomes_what_it_says(case: Case) -> None:
    outcome = case.outcome()
    if case.error is None:
        if isinstance(outcome, e.LLMError):
            raise outcome
        assert {key: outcome[key] for key in case.has} == case.has
        return
    assert isinstance(outcome, e.LLMError)
    assert told(outcome) == case.error
    expected = dict(case.has)
    says, hides = expected.pop("says", ""), expected.pop("hides", "\0")
    found = {key: getattr(outcome, key) for key in expected}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()} == expected
    assert says in outcome.message
    assert hides not in str(outcome) + repr(outcome)


@each_stream
def test_a_body_may_be_cut_anywhere(case: Case) -> None:
    expected = same(case.outcome())
    body = case.body
    for cut in range(len(body)):
        assert same(case.outcome([body[:cut], body[cut:]])) == expected, f"cut at {cut}: {body[:cut][-40:]!r}"
    assert same(case.outcome([body[at : at + 1] for at in range(len(body))])) == expected


@each_stream
@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_line_ends_make_no_difference(case: Case, end: bytes) -> None:
    if b"\r" in case.body or (case.wire == "ollama" and end == b"\r"):
        return  # it has its own; NDJSON knows LF and CRLF
    other = case.body.replace(b"\n", end)
    expected = same(case.outcome())
    assert same(case.outcome([other])) == expected
    assert same(case.outcome([other[at : at + 1] for at in range(len(other))])) == expected


@pytest.mark.parametrize(
    "mark", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b": hello\n\n", b"\n\n", b"id: 7\nretry: 100\n\n"]
)
def test_what_may_stand_before_a_stream_makes_no_difference(mark: bytes) -> None:
    for case in STREAMS:
        if case.wire == "openai" and case.body.startswith(b"data: "):
            assert same(case.outcome([mark + case.body])) == same(case.outcome()), case.id


def test_mutants_end_in_an_answer_or_a_typed_error_however_they_are_cut() -> None:
    bodies = [case.body for case in CASES if case.body]
    seen: set[object] = set()
    for seed, rng in rounds(0.3, least=len(CASES)):
        case = CASES[seed % len(CASES)]
        body = mutated(case.body, bodies, rng)
        try:
            found = _outcomes(case, body, rng)
        except Exception as crash:
            crash.add_note(f"seed {seed}, {case.id}: {body[:2000]!r}")
            raise
        seen |= {type(one) for one in found}
    assert seen >= {dict, e.Malformed, e.Truncated, e.BadRequest}


def _outcomes(case: Case, body: bytes, rng: random.Random) -> list[object]:
    """Of a mutant: as the answer with the status of its case, and as that of a 200, whole and in pieces."""
    refused = WIRES[case.wire].error(rng.choice((case.status, 400, 429, 500)), case.headers, body)
    assert isinstance(refused, e.LLMError)
    assert len(repr(refused)) < 2000
    if case.status != 200:
        return [refused]
    whole, cut = case.outcome([body]), case.outcome(pieces(body, rng))
    if isinstance(whole, e.LLMError):
        assert type(cut) is type(whole)
    else:
        assert cut == whole
    return [refused, whole]


# -- the corpus itself


def test_every_server_has_its_cases() -> None:
    count = Counter(case.server for case in CASES)
    assert set(count) >= SERVERS
    assert len(CASES) >= 150
    assert min(count[server] for server in SERVERS) >= 6
    for server in SERVERS:
        assert any(case.error for case in CASES if case.server == server)
        assert any(case.status == 200 for case in CASES if case.server == server)


def test_no_case_is_there_twice_and_each_has_a_source() -> None:
    assert [name for name, times in Counter(case.id for case in CASES).items() if times > 1] == []
    assert all(case.source.strip() for case in CASES)
    assert {case.server for case in CASES if case.recorded} == {"llama.cpp", "Ollama"}


def test_the_cases_know_every_error_that_a_server_can_cause() -> None:
    kinds = {case.error.partition(":")[0] for case in CASES if case.error}
    assert kinds == {
        "AuthFailed", "BadRequest", "ContentFiltered", "ContextOverflow", "EmptyReply", "Malformed", "ModelNotFound",
        "OutputInvalid", "Overloaded", "QuotaExhausted", "RateLimited", "ServerError", "Truncated",
        "UnsupportedParameter",
    }  # fmt: skip
