"""The rate limit against a slow and simple model of itself, and its promises one by one. Time is an argument."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient_llm._errors import ConfigError, DeadlineUnattainable, RateLimited
from resilient_llm.policies.rate import MINUTE, RateLimit, Reservation

SIZES = [0, 1, 30, 99, 100, 101]


def taken(limit: RateLimit, tokens: int, now: float) -> Reservation:
    """A reservation that is known to have room."""
    reservation = limit.reserve(tokens, now)
    assert isinstance(reservation, Reservation), f"no room before {reservation}"
    return reservation


class Record:
    """A request as the model remembers it."""

    def __init__(self, at: float, tokens: int) -> None:
        self.at, self.counts, self.reserved, self.sent = at, [(at, tokens)], tokens, True


class Model:
    """Keeps every request that ever had room, and counts anew each time it is asked."""

    def __init__(self, gap: float, tokens_per_minute: float) -> None:
        self.gap, self.limit = gap, tokens_per_minute
        self.records: list[Record] = []

    def tokens(self, now: float) -> int:
        return sum(tokens for one in self.records for at, tokens in one.counts if at + MINUTE > now)

    def room(self, tokens: int, now: float) -> float:
        """The first of all instants at which anything changes that is good enough."""
        starts = [one.at for one in self.records if one.sent]
        ends = [at + MINUTE for one in self.records for at, _ in one.counts]
        for instant in sorted({now, *(at + self.gap for at in starts), *ends}):
            spread = all(at + self.gap <= instant for at in starts)
            if instant >= now and spread and self.tokens(instant) + tokens <= self.limit:
                return instant
        return math.inf


class RateMachine(RuleBasedStateMachine):
    @initialize(
        requests=st.sampled_from([None, 1.5, 60, 240]),
        tokens=st.sampled_from([None, 100]),
    )
    def start(self, requests: float | None, tokens: int | None) -> None:
        tokens = 100 if requests is None else tokens
        self.limit = RateLimit(requests, tokens)
        self.model = Model(MINUTE / requests if requests else 0.0, tokens or math.inf)
        self.counts_tokens = tokens is not None
        self.now = 0.0
        self.open: list[tuple[Reservation, Record]] = []

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 7.0, 30.0, 59.75, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(tokens=st.sampled_from(SIZES))
    def reserve(self, tokens: int) -> None:
        expected = self.model.room(tokens, self.now)
        given = self.limit.reserve(tokens, self.now)
        if isinstance(given, Reservation):
            assert expected == self.now == given.at
            record = Record(self.now, tokens if self.counts_tokens else 0)
            self.model.records.append(record)
            self.open.append((given, record))
        else:
            assert given == expected > self.now

    @rule(tokens=st.sampled_from(SIZES))
    def wait_for_room(self, tokens: int) -> None:
        room = self.limit.room(tokens, self.now)
        if room < math.inf:
            self.now = room
            self.reserve(tokens)

    @rule(pick=st.integers(0, 30), used=st.sampled_from([None, *SIZES, 250]), again=st.booleans())
    def settle(self, pick: int, used: int | None, again: bool) -> None:
        if not self.open:
            return
        reservation, record = self.open.pop(pick % len(self.open))
        reservation.settle(used, self.now)
        if again:
            reservation.release()
        if used is None or not self.counts_tokens:
            return
        record.counts = [(record.at, min(used, record.reserved))]
        if used > record.reserved:
            record.counts.append((self.now, used - record.reserved))

    @rule(pick=st.integers(0, 30), again=st.booleans())
    def release(self, pick: int, again: bool) -> None:
        if not self.open:
            return
        reservation, record = self.open.pop(pick % len(self.open))
        reservation.release()
        if again:
            reservation.settle(50, self.now)
        record.sent, record.counts = False, []

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.limit.snapshot(self.now).tokens == self.model.tokens(self.now)
        for tokens in SIZES:
            assert self.limit.room(tokens, self.now) == self.model.room(tokens, self.now)

    def teardown(self) -> None:
        starts = [one.at for one in self.model.records if one.sent] if hasattr(self, "model") else []
        assert all(after - before >= self.model.gap for before, after in pairwise(starts))


TestRateAgainstItsModel = RateMachine.TestCase
TestRateAgainstItsModel.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


@pytest.mark.invariant(34)
def test_requests_are_spread_evenly_over_the_minute() -> None:
    limit, now, starts = RateLimit(requests_per_minute=10), 0.0, []
    for _ in range(11):
        now = limit.room(0, now)
        starts.append(taken(limit, 0, now).at)
    assert starts == [0, 6, 12, 18, 24, 30, 36, 42, 48, 54, 60]


def test_after_a_quiet_hour_there_is_no_burst() -> None:
    limit = RateLimit(requests_per_minute=60)
    taken(limit, 0, 0)
    taken(limit, 0, 3600)
    assert limit.reserve(0, 3600.5) == 3601


@pytest.mark.invariant(34)
def test_in_no_minute_are_more_tokens_reserved_than_the_limit() -> None:
    limit = RateLimit(tokens_per_minute=1000)
    for at, tokens in [(0, 400), (20, 500), (40, 100)]:
        taken(limit, tokens, at)
    assert limit.reserve(1, 59) == 60  # the 400 leave
    assert limit.reserve(401, 59) == 80  # and the 500
    taken(limit, 400, 60)
    assert limit.snapshot(60).tokens == 1000


def test_a_request_waits_for_whichever_of_both_limits_comes_last() -> None:
    limit = RateLimit(requests_per_minute=2, tokens_per_minute=100)
    taken(limit, 60, 0)
    assert limit.room(40, 1) == 30
    assert limit.room(41, 1) == 60


def test_what_a_request_did_not_use_is_free_as_soon_as_it_has_ended() -> None:
    limit = RateLimit(tokens_per_minute=1000)
    long = taken(limit, 1000, 0)
    assert limit.room(300, 5) == 60
    long.settle(700, 5)
    assert limit.room(300, 5) == 5
    assert limit.room(301, 5) == 60


def test_what_a_request_used_beyond_its_reservation_counts_for_a_minute_from_its_end() -> None:
    limit = RateLimit(tokens_per_minute=1000)
    taken(limit, 100, 0).settle(900, 50)
    assert limit.snapshot(59).tokens == 900
    assert limit.room(201, 70) == 110
    assert limit.snapshot(70).tokens == 800


def test_a_debt_is_paid_before_anyone_has_room() -> None:
    limit = RateLimit(tokens_per_minute=1000)
    taken(limit, 100, 0).settle(5000, 10)
    assert limit.room(0, 10) == 70


def test_a_request_whose_usage_nobody_knows_keeps_its_reservation() -> None:
    limit = RateLimit(tokens_per_minute=1000)
    taken(limit, 600, 0).settle(None, 1)
    assert limit.snapshot(1).tokens == 600


def test_a_request_that_failed_on_the_server_still_was_one() -> None:
    limit = RateLimit(requests_per_minute=60, tokens_per_minute=1000)
    taken(limit, 1000, 0).settle(0, 0.5)
    assert limit.room(1000, 0.5) == 1


@pytest.mark.invariant(34)
def test_a_request_that_was_never_sent_leaves_no_trace() -> None:
    limit = RateLimit(requests_per_minute=1, tokens_per_minute=1000)
    before = repr(limit)
    taken(limit, 1000, 0).release()
    assert limit.room(1000, 0.25) == 0.25
    assert repr(limit) == before


def test_giving_back_an_older_request_does_not_bring_the_next_one_closer_to_the_last() -> None:
    limit = RateLimit(requests_per_minute=60)
    older = taken(limit, 0, 0)
    taken(limit, 0, 1)
    older.release()
    assert limit.room(0, 1.25) == 2


def test_a_request_larger_than_the_limit_is_told_so_and_never_waits() -> None:
    limit = RateLimit(requests_per_minute=1, tokens_per_minute=1000)
    assert limit.reserve(1001, 0) == math.inf
    error = limit.check(1001, 0, deadline=math.inf)
    assert isinstance(error, RateLimited)
    assert (error.oversize, error.retryable, error.falls_back) == (True, False, True)
    assert error.message == "the request alone has 1,001 tokens, the limit is 1,000 a minute"
    assert limit.check(1000, 0, deadline=0) is None


@pytest.mark.parametrize(("deadline", "told"), [(29.5, True), (30, False), (31, False), (math.inf, False), (4, True)])
def test_waiting_that_would_end_after_the_deadline_is_refused_with_the_reckoning(deadline: float, told: bool) -> None:
    limit = RateLimit(requests_per_minute=2)
    taken(limit, 0, 0)
    error = limit.check(10, 5, deadline)
    assert (error is not None) is told
    if error is not None:
        assert isinstance(error, DeadlineUnattainable)
        assert error.retry_after == 25
        left = f"{deadline - 5:.3g}"
        assert error.message == f"the rate limit has room in 25 s, but {left} s are left"


def test_a_deadline_that_is_over_leaves_no_time_to_wait_in() -> None:
    limit = RateLimit(requests_per_minute=60)
    assert limit.check(0, 5, deadline=4) is None  # whoever has room need not wait
    taken(limit, 0, 5)
    error = limit.check(0, 5.5, deadline=4)
    assert error is not None
    assert error.retry_after == 0.5


def test_asking_takes_nothing() -> None:
    limit = RateLimit(requests_per_minute=1, tokens_per_minute=10)
    for _ in range(5):
        assert limit.room(10, 3) == 3
        assert limit.check(10, 3, 3) is None
        assert limit.snapshot(3).wait == 0
    assert isinstance(limit.reserve(10, 3), Reservation)


def test_threads_that_ask_at_once_get_no_more_than_there_is() -> None:
    limit, got, start = RateLimit(tokens_per_minute=1000), [], threading.Barrier(4)

    def work() -> None:
        start.wait()
        for _ in range(500):
            reservation = limit.reserve(1, 0)
            if isinstance(reservation, Reservation):
                got.append(reservation)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(got) == 1000
    assert limit.snapshot(0).tokens == 1000


def test_threads_that_give_back_at_once_give_back_once() -> None:
    limit, start = RateLimit(tokens_per_minute=1000), threading.Barrier(4)
    reservations = [taken(limit, 2, 0) for _ in range(500)]

    def work(sent: bool) -> None:
        start.wait()
        for reservation in reservations:
            reservation.settle(1, 0) if sent else reservation.release()

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert 0 <= limit.snapshot(0).tokens <= 500
    assert limit.snapshot(60).tokens == 0


def test_a_finaliser_inside_the_step_neither_waits_nor_takes_what_the_step_is_counting() -> None:
    limit = RateLimit(requests_per_minute=60, tokens_per_minute=100)
    spare = taken(limit, 60, 0)
    seen: list[object] = []

    class Log(type(limit._log)):  # type: ignore[misc]
        def __iter__(self) -> Any:
            spare.release()  # never waits for the lock that this thread holds
            seen.append(limit.reserve(10, 30.0))  # what a waiter does whom the released slot is given to
            seen.append(limit.room(10, 30.0))
            return super().__iter__()

    limit._log = Log(limit._log)
    finished = threading.Event()

    def ask() -> None:
        seen.append(limit.reserve(50, 30.0))
        finished.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert finished.wait(5), "it waits for a lock that its own thread holds"
    thread.join(5)
    assert seen == [30.0, 30.0, 60.0]  # told to ask again at once; who was inside heard of the release only afterwards
    assert limit.room(50, 30.0) == 30.0


FORK = """
import os, signal, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12 Python warns of every fork beside threads
from resilient_llm.policies.rate import RateLimit
limit, held = RateLimit(tokens_per_minute=100), threading.Event()
limit.reserve(40, 0.0)
def hold():
    with limit._lock:
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
if os.fork() == 0:
    signal.alarm(15)
    print(limit.room(60, 0.0), limit.room(61, 0.0), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_of_fork_waits_for_no_thread_of_its_parents_and_knows_what_was_used() -> None:
    child = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=20, check=True)
    assert (child.stdout, child.stderr) == ("0.0 60.0\n", "")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, "give requests_per_minute, tokens_per_minute or both"),
        ({"requests_per_minute": 0}, "requests_per_minute: 0"),
        ({"requests_per_minute": -1}, "requests_per_minute: -1"),
        ({"tokens_per_minute": math.nan}, "tokens_per_minute: nan"),
        ({"tokens_per_minute": math.inf}, "tokens_per_minute: inf"),
        ({"tokens_per_minute": "90k"}, "tokens_per_minute: '90k'"),
        ({"requests_per_minute": True}, "requests_per_minute: True"),
    ],
)
def test_impossible_values_are_refused_and_shown(values: dict[str, Any], shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RateLimit(**values)
    assert shown in str(caught.value)


def test_fewer_than_no_tokens_cannot_be_reserved() -> None:
    with pytest.raises(ConfigError, match="tokens: -1"):
        RateLimit(tokens_per_minute=10).reserve(-1, 0)


def test_its_repr_and_its_snapshot_say_what_is_taken() -> None:
    limit = RateLimit(500, 200_000)
    one = taken(limit, 1234, 0)
    assert repr(limit) == "RateLimit(500 requests and 200,000 tokens a minute, 1,234 tokens taken)"
    assert repr(RateLimit(requests_per_minute=0.5)) == "RateLimit(0.5 requests a minute)"
    assert repr(one) == "Reservation(1234 tokens, open)"
    one.release()
    assert repr(one) == "Reservation(1234 tokens, over)"
    assert limit.snapshot(0.12).wait == 0
    taken(limit, 10, 1)
    snapshot = limit.snapshot(1.02)
    assert full_but_for_one() == 0
    assert (snapshot.requests_per_minute, snapshot.tokens_per_minute, snapshot.tokens) == (500, 200_000, 10)
    assert snapshot.wait == pytest.approx(0.1)


def test_a_snapshot_of_a_full_minute_says_when_it_is_over() -> None:
    limit = RateLimit(tokens_per_minute=100)
    taken(limit, 100, 0)
    assert limit.snapshot(20).wait == 40


def full_but_for_one() -> float:
    """Seconds until a small request has room, where one token is left."""
    limit = RateLimit(tokens_per_minute=10)
    taken(limit, 9, 0)
    return limit.snapshot(0).wait


def test_a_child_of_fork_finds_the_step_of_its_parent_over() -> None:
    limit = RateLimit(tokens_per_minute=10)
    limit._inside = True
    holder = threading.Thread(target=limit._lock.acquire)
    holder.start()
    holder.join()
    limit.after_fork()
    taken(limit, 9, 0)
    assert limit.room(2, 0) == 60
