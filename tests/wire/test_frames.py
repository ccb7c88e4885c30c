"""Bytes into frames: any split of the bytes gives the same frames, in linear time and bounded memory."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_llm._errors import Malformed
from resilient_llm.wire._frames import ErrorFrame, Lines, ServerSentEvents

Framer = Callable[[], Lines | ServerSentEvents]


def frames(framer: Lines | ServerSentEvents, pieces: Iterable[bytes]) -> list[tuple[type, bytes]]:
    found: list[bytes] = []
    for piece in pieces:
        found += framer.feed(piece)
    found += framer.close()
    return [(type(frame), bytes(frame)) for frame in found]


def data(body: bytes) -> list[bytes]:
    return [frame for _, frame in frames(ServerSentEvents(), [body])]


def pieces_of(body: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(at)]


# Every token that means something to a framer, so that short random bodies are dense with corner cases.
sse_bodies = st.lists(
    st.sampled_from(
        [
            b"data: ",
            b"data:",
            b"data",
            b"event: error",
            b"event: x",
            b": hi",
            b"id: 1",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"{}",
            b" ",
            b"\xef\xbb\xbf",
            b"\xc3\xa9",
            b"\xff",
            b"data: {}\n\n",
            b"data: a\n\ndata: b\n\n",
        ]
    ),
    max_size=24,
).map(b"".join)
line_bodies = st.lists(st.sampled_from([b"{}", b"\n", b"\r\n", b"\r", b"\xc3\xa9", b" "]), max_size=24).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=8)


@given(sse_bodies, cuts)
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 10])
def test_any_split_gives_the_same_events(body: bytes, cuts: list[int]) -> None:
    assert frames(ServerSentEvents(), pieces_of(body, cuts)) == frames(ServerSentEvents(), [body])


@given(sse_bodies)
def test_one_byte_at_a_time_gives_the_same_events(body: bytes) -> None:
    assert frames(ServerSentEvents(), [bytes([one]) for one in body]) == frames(ServerSentEvents(), [body])


@given(sse_bodies)
def test_the_short_way_and_the_long_way_agree(body: bytes) -> None:
    held_back = ServerSentEvents()
    held_back.feed(b": a comment puts it off the short way")
    assert frames(held_back, [b"\n", body]) == frames(ServerSentEvents(), [b":\n", body])


@given(line_bodies, cuts)
def test_any_split_gives_the_same_lines(body: bytes, cuts: list[int]) -> None:
    assert frames(Lines(), pieces_of(body, cuts)) == frames(Lines(), [body])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\rdata: b\r\r", [b"a\nb"]),
        (b"data: a\r\n\r\n", [b"a"]),
        (b"data: a\ndata\ndata: b\n\n", [b"a\n\nb"]),
        (b": OPENROUTER PROCESSING\n\n:\n\ndata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"event: message\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data: a", [b"a"]),
        (b"data: a\n", [b"a"]),
        (b"data: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"datum: a\n\n dat: b\n\n", []),
        (b"", []),
    ],
)
def test_events(body: bytes, expected: list[bytes]) -> None:
    assert data(body) == expected


def test_only_an_event_named_error_is_an_error_frame() -> None:
    body = b"event: error\ndata: no\n\ndata: a\n\nevent: errors\ndata: b\n\n"
    assert frames(ServerSentEvents(), [body]) == [(ErrorFrame, b"no"), (bytes, b"a"), (bytes, b"b")]


def test_an_event_name_without_data_does_not_name_the_next_event() -> None:
    assert frames(ServerSentEvents(), [b"event: error\n\n", b"data: a\n\n"]) == [(bytes, b"a")]


def test_lines_end_with_lf_or_crlf_and_empty_ones_are_left_out() -> None:
    assert frames(Lines(), [b"a\r", b"\n\n\r\nb\rc\nd"]) == [(bytes, b"a"), (bytes, b"b\rc"), (bytes, b"d")]


@pytest.mark.parametrize("framer", [lambda: Lines(100), lambda: ServerSentEvents(100)])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_line_over_the_limit_is_malformed_however_it_comes(framer: Framer, size: int) -> None:
    def feed(line: bytes) -> None:
        one = framer()
        for start in range(0, len(line), size):
            one.feed(line[start : start + size])

    feed(b"data: " + b"x" * 94 + b"\n")
    with pytest.raises(Malformed):
        feed(b"data: " + b"x" * 95 + b"\n")
    with pytest.raises(Malformed):
        feed(b"data: " + b"x" * 95)


def test_an_event_over_the_limit_is_malformed_though_its_lines_are_short() -> None:
    events = ServerSentEvents(100)
    with pytest.raises(Malformed):
        for _ in range(100):
            events.feed(b"data: short\n")


def test_many_events_in_one_read_are_not_one_long_line() -> None:
    assert ServerSentEvents(100).feed(b"data: abc\n\n" * 1000) == [b"abc"] * 1000


@pytest.mark.parametrize("framer", [Lines, ServerSentEvents])
def test_a_dribbled_line_takes_memory_of_its_own_order(framer: Framer) -> None:
    one = framer()
    tracemalloc.start()
    try:
        for _ in range(200_000):
            one.feed(b"xy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 400_000


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"data: a\n", b"data: b\n\n"], [(bytes, b"a\nb")]),
        ([b"x", b"data: a\n\n"], []),
        ([b"event: error\n", b"data: a\n\n"], [(ErrorFrame, b"a")]),
        ([b"data: a\r", b"\ndata: b\n\n"], [(bytes, b"a\nb")]),
    ],
)
def test_a_whole_event_is_not_taken_by_itself_while_something_is_held_back(
    pieces: list[bytes], expected: list[tuple[type, bytes]]
) -> None:
    assert frames(ServerSentEvents(), pieces) == expected
