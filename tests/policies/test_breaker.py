"""The breaker against a slow and simple model of itself, and its promises one by one. Time is an argument."""

import asyncio
import gc
import logging
import math
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient_llm._errors import (
    BadRequest,
    CircuitOpen,
    ConfigError,
    ConnectFailed,
    DeadlineExceeded,
    FirstTokenTimeout,
    RateLimited,
    ServerError,
    StreamStalled,
)
from resilient_llm.policies.breaker import BreakerSnapshot, CircuitBreaker, Permit, Transition

BIG = 10**6


def fail(breaker: CircuitBreaker, times: int, now: float = 0.0, **facts: object) -> None:
    for _ in range(times):
        breaker.admit(now).failure(now, **facts)


def opened(**values: object) -> CircuitBreaker:
    """A breaker that opened at 0 for 5 s."""
    breaker = CircuitBreaker(**values)
    fail(breaker, breaker.failures)
    return breaker


class Model:
    """The rules as one reads them: keeps everything that happened in this state and counts it anew each time."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.given = breaker
        self.mode, self.name, self.era, self.until, self.reopened, self.start = "auto", "closed", 0, math.inf, 0, BIG
        self.past: list[tuple[float, str]] = []
        self.flying: dict[Permit, float] = {}

    def enter(self, name: str) -> None:
        self.name, self.era, self.past, self.flying, self.start = name, self.era + 1, [], {}, 1

    def places(self) -> int:
        return BIG if self.start >= 8 else self.start

    def refuses(self, now: float) -> bool:
        return self.mode == "forced_open" or (self.mode == "auto" and self.is_full(now))

    def is_full(self, now: float) -> bool:
        if self.name == "open":
            return now < self.until
        return len([end for end in self.flying.values() if end > now]) >= self.places()

    def admit(self, permit: Permit, now: float) -> None:
        if self.name == "open":
            self.enter("half-open")
        self.flying[permit] = now + self.given.lease

    def tail(self, words: str) -> int:
        """How many of the last events have been of this kind, passing over those that say nothing about it."""
        count = 0
        for _, what in reversed(self.past):
            if what in words.split():
                count += 1
            elif what == "ok" or words.startswith("slow"):
                break
        return count

    def settle(self, permit: Permit, what: str, now: float, retry_after: float | None) -> None:
        self.flying.pop(permit, None)
        if what == "nothing":
            return
        self.past.append((now, what))
        half = self.name == "half-open"
        if what == "ok":
            run = 0
            for _, one in reversed(self.past):
                if one != "ok":
                    break
                run += 1
            if half and run >= self.given.successes:
                self.enter("closed")
            elif not half:
                self.start += 1
        elif self.opens(what, half=half):
            self.reopened = self.reopened + 1 if half else 0
            wait = min(self.given.cooldown * 2**self.reopened, self.given.max_cooldown)
            self.until = now + max(wait, min(retry_after or 0, 120))
            self.enter("open")

    def counted(self) -> list[str]:
        """The outcomes that the rate is taken over, at the instant of the last one."""
        outcomes = [(at, one) for at, one in self.past if one != "slow"][-self.given.window :]
        return [one for at, one in outcomes if outcomes[-1][0] - at <= 300]

    def opens(self, what: str, *, half: bool) -> bool:
        if self.tail("slow slow-bad") >= 2:
            return True
        if what == "slow":
            return False
        counted = self.counted()
        bad = len([one for one in counted if one != "ok"])
        rate = len(counted) >= self.given.min_calls and bad / len(counted) >= self.given.rate
        return half or rate or self.tail("bad slow-bad") >= self.given.failures


class BreakerMachine(RuleBasedStateMachine):
    @initialize(
        failures=st.integers(1, 5),
        rate=st.sampled_from([0.2, 0.5, 1.0]),
        window=st.integers(2, 8),
        successes=st.integers(1, 3),
        mode=st.sampled_from(["auto", "auto", "observe_only"]),
    )
    def start(self, failures: int, rate: float, window: int, successes: int, mode: str = "auto") -> None:
        self.breaker = CircuitBreaker(failures, rate, window, 2, 5, 18, successes, lease=40)
        self.model = Model(self.breaker)
        self.breaker.mode = self.model.mode = mode
        self.now = 0.0
        self.told: list[Transition] = []
        self.breaker.on_change.append(self.told.append)
        self.live: list[tuple[Permit, int]] = []

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 10.0, 41.0, 150.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(mode=st.sampled_from(["auto", "auto", "forced_open", "observe_only"]))
    def change_mode(self, mode: str) -> None:
        self.breaker.mode = self.model.mode = mode

    @rule()
    def reach_the_end_of_the_opening(self) -> None:
        if self.model.name == "open":
            self.now = max(self.now, self.model.until)

    @rule()
    def admit(self) -> None:
        refused = self.breaker.check(self.now)
        assert (refused is not None) == self.model.refuses(self.now)
        if refused is not None:
            with pytest.raises(CircuitOpen) as caught:
                self.breaker.admit(self.now)
            assert caught.value.retry_after == refused.retry_after
            assert self.model.mode == "forced_open" or (refused.retry_after or 0) > 0
            return
        full = self.model.is_full(self.now)
        permit = self.breaker.admit(self.now)
        if full:  # it only observes, and what it would have refused says nothing
            assert permit.role == "normal"
            self.live.append((permit, -1))
            return
        self.model.admit(permit, self.now)
        assert (permit.role == "probe") == (self.model.name == "half-open")
        self.live.append((permit, self.model.era))

    @rule(pick=st.integers(0, 30))
    def begin_the_answer(self, pick: int) -> None:
        probes = [number for number, (permit, _) in enumerate(self.live) if permit.role == "probe"]
        if not probes:
            return
        number = probes[pick % len(probes)]
        permit, era = self.live[number]
        current = era == self.model.era
        rest = permit.begun(self.now)
        if current:
            self.model.settle(permit, "ok", self.now, None)
        self.live[number] = (rest, self.model.era if current else -1)

    @rule(
        pick=st.integers(0, 30),
        what=st.sampled_from(["ok", "ok", "bad", "slow", "slow-bad", "nothing"]),
        retry_after=st.sampled_from([None, 0.0, 9.0, 500.0]),
        again=st.booleans(),
    )
    def settle(self, pick: int, what: str, retry_after: float | None, again: bool) -> None:
        if not self.live:
            return
        permit, era = self.live.pop(pick % len(self.live))
        verbs = {
            "ok": lambda: permit.success(self.now),
            "bad": lambda: permit.failure(self.now, retry_after=retry_after),
            "slow-bad": lambda: permit.failure(self.now, slow=True, retry_after=retry_after),
            "slow": lambda: permit.slow(self.now),
            "nothing": permit.release,
        }
        verbs[what]()
        if again:
            permit.failure(self.now)
            permit.success(self.now)
        if era == self.model.era and (permit.role, what) != ("rest", "ok"):  # that was counted when it began
            self.model.settle(permit, what, self.now, retry_after if "bad" in what else None)

    @invariant()
    def agrees_with_the_model(self) -> None:
        due = self.model.name == "open" and self.now >= self.model.until
        name = "half-open" if due else self.model.name
        assert self.breaker.state(self.now) == ("open" if self.model.mode == "forced_open" else name)
        seen = self.breaker.snapshot(self.now)
        if seen.state == "closed":
            assert (BIG if seen.limit is None else seen.limit) == self.model.places()
            counted = self.model.counted()
            assert (seen.outcomes, seen.failed) == (len(counted), len(counted) - counted.count("ok"))
            assert (seen.failures, seen.slow) == (self.model.tail("bad slow-bad"), self.model.tail("slow slow-bad"))
        if seen.retry_after is not None:
            assert seen.retry_after == pytest.approx(self.model.until - self.now)

    @invariant()
    def tells_every_change_once_and_in_order(self) -> None:
        names = ["closed", *(change.after for change in self.told)]
        assert [change.before for change in self.told] == names[:-1]
        assert names[-1] == self.model.name
        assert len(self.told) == self.model.era


TestBreakerAgainstItsModel = BreakerMachine.TestCase
TestBreakerAgainstItsModel.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    breaker = CircuitBreaker(rate=1, min_calls=20)
    fail(breaker, 4)
    breaker.admit(0).success(0)
    fail(breaker, 4)
    assert breaker.state(0) == "closed"
    fail(breaker, 1)
    assert breaker.state(0) == "open"


def test_half_of_the_last_outcomes_open_it_once_there_are_enough() -> None:
    breaker = CircuitBreaker(failures=20)
    for _ in range(2):
        breaker.admit(0).failure(0)
        breaker.admit(0).success(0)
    assert breaker.state(0) == "closed"
    breaker.admit(0).failure(0)
    assert breaker.state(0) == "open"


def test_outcomes_older_than_five_minutes_do_not_count() -> None:
    breaker = CircuitBreaker(failures=20)
    fail(breaker, 4, now=0)
    fail(breaker, 4, now=300.5)
    assert breaker.state(300.5) == "closed"
    assert (breaker.snapshot(300.5).outcomes, breaker.snapshot(300.5).failed) == (4, 4)


def test_outcomes_of_exactly_five_minutes_still_count() -> None:
    breaker = CircuitBreaker(failures=20)
    fail(breaker, 4, now=0)
    fail(breaker, 1, now=300)
    assert breaker.state(300) == "open"


def test_what_has_left_the_window_no_longer_counts() -> None:
    breaker = CircuitBreaker(failures=20, window=5, rate=0.8)
    for failed in (True, True, True, False, False, False, False, False):
        permit = breaker.admit(0)
        permit.failure(0) if failed else permit.success(0)
    assert (breaker.snapshot(0).outcomes, breaker.snapshot(0).failed) == (5, 0)


def test_two_slow_in_a_row_open_it_though_no_attempt_failed() -> None:
    breaker = CircuitBreaker()
    breaker.admit(0).slow(0)
    breaker.admit(0).success(0)
    breaker.admit(0).slow(0)
    assert breaker.state(0) == "closed"
    breaker.admit(0).slow(0)
    assert breaker.state(0) == "open"


def test_short_silences_count_once_they_add_up_to_five_seconds() -> None:
    breaker = CircuitBreaker()
    seen: list[int] = []
    for second in range(9):
        breaker.admit(second).slow(second + 1, since=second)
        seen.append(breaker.snapshot(second).slow)
    assert seen == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    breaker.admit(9).slow(10, since=9)
    assert breaker.state(10) == "open"


def test_silences_at_the_same_time_are_one_silence() -> None:
    breaker = CircuitBreaker()
    for permit in [breaker.admit(0) for _ in range(100)]:
        permit.slow(4.9, since=0)
    assert (breaker.state(5), breaker.snapshot(5).slow) == ("closed", 0)


@pytest.mark.parametrize("verb", ["success", "failure"])
def test_what_a_server_says_ends_the_silence(verb: str) -> None:
    breaker = CircuitBreaker(failures=99, min_calls=20)
    for second in range(0, 60, 4):
        breaker.admit(second).slow(second + 4, since=second)
        getattr(breaker.admit(second + 4), verb)(second + 4)
    assert (breaker.state(60), breaker.snapshot(60).slow) == ("closed", 0)


def test_what_opened_it_is_told_as_silence_or_not() -> None:
    for errors, slow in (
        ([FirstTokenTimeout("no"), StreamStalled("no")], True),
        ([ServerError("no")] * 4 + [FirstTokenTimeout("no")], True),
        ([FirstTokenTimeout("no")] + [ConnectFailed("no")] * 4, False),
    ):
        told: list[Transition] = []
        breaker = CircuitBreaker()
        breaker.on_change.append(told.append)
        for error in errors:
            assert not told
            breaker.admit(0).judge(error, 0)
        assert [(one.after, one.slow) for one in told] == [("open", slow)]


def test_a_failure_between_two_slow_attempts_breaks_the_row() -> None:
    breaker = CircuitBreaker()
    breaker.admit(0).slow(0)
    breaker.admit(0).failure(0)
    breaker.admit(0).slow(0)
    assert breaker.state(0) == "closed"


@pytest.mark.invariant(11)
def test_a_slow_attempt_is_no_failure() -> None:
    breaker = CircuitBreaker(failures=2)
    breaker.admit(0).failure(0)
    breaker.admit(0).slow(0)
    assert (breaker.snapshot(0).failures, breaker.snapshot(0).failed) == (1, 1)
    breaker.admit(0).failure(0)
    assert breaker.state(0) == "open"


@pytest.mark.invariant(4, 43)
def test_nothing_passes_while_it_is_open() -> None:
    breaker = opened()
    with pytest.raises(CircuitOpen, match="5 failures in a row") as caught:
        breaker.admit(4.5)
    assert caught.value.retry_after == 0.5
    assert breaker.check(4.9) is not None
    assert breaker.check(5) is None


def test_the_cooldown_doubles_at_each_reopening_and_starts_anew_after_closing() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(4):
        waits.append(breaker.snapshot(now).retry_after)
        now += waits[-1]
        breaker.admit(now).failure(now)
    assert waits == [5, 10, 20, 30]
    now += 30
    for _ in range(2):
        breaker.admit(now).success(now)
    fail(breaker, 5, now)
    assert breaker.snapshot(now).retry_after == 5


@pytest.mark.parametrize(("hint", "wait"), [(None, 5), (1.0, 5), (60.0, 60), (1e9, 120), (math.nan, 5)])
def test_retry_after_makes_the_opening_longer_up_to_two_minutes(hint: float | None, wait: float) -> None:
    breaker = CircuitBreaker(failures=1)
    fail(breaker, 1, retry_after=hint)
    assert breaker.snapshot(0).retry_after == wait


@pytest.mark.invariant(5)
def test_one_probe_at_a_time() -> None:
    breaker = opened()
    assert breaker.admit(5).role == "probe"
    with pytest.raises(CircuitOpen, match="probe is under way"):
        breaker.admit(5)


@pytest.mark.invariant(7)
@pytest.mark.parametrize("verb", ["release", "slow"])
def test_a_probe_without_a_verdict_frees_its_place_at_once(verb: str) -> None:
    breaker = opened()
    probe = breaker.admit(5)
    probe.release() if verb == "release" else probe.slow(5)
    assert breaker.state(5) == "half-open"
    assert breaker.admit(5).role == "probe"


def test_the_first_token_of_a_probe_is_its_success_and_frees_its_place() -> None:
    breaker = opened()
    rest = breaker.admit(5).begun(5)
    second = breaker.admit(5)
    assert (rest.role, second.role) == ("rest", "probe")
    rest.success(6)  # the whole answer is no second success
    assert breaker.state(6) == "half-open"
    told: list[Transition] = []
    breaker.on_change.append(told.append)
    second.begun(6)
    assert [(change.after, change.at) for change in told] == [("closed", 6)]


def test_what_breaks_off_after_its_first_token_failed_as_a_probe() -> None:
    breaker = opened()
    rest, second = breaker.admit(5).begun(5), breaker.admit(5)
    rest.failure(6, retry_after=40)
    assert breaker.snapshot(6).retry_after == 40
    second.begun(7).failure(7)  # it belongs to the half-open time that is over
    assert breaker.snapshot(7).retry_after == 39


def test_what_breaks_off_after_the_breaker_has_closed_is_one_failure() -> None:
    breaker = opened(successes=1)
    rest = breaker.admit(5).begun(5)
    assert breaker.snapshot(5).limit == 1
    rest.failure(6)
    rest.failure(6)
    seen = breaker.snapshot(6)
    assert (seen.state, seen.failures, seen.failed, seen.outcomes) == ("closed", 1, 1, 1)


def test_what_is_left_after_its_first_token_says_nothing_more() -> None:
    breaker = opened()
    breaker.admit(5).begun(5).release()
    assert breaker.state(5) == "half-open"
    breaker.admit(5).success(5)
    assert breaker.state(5) == "closed"


def test_the_place_of_a_probe_can_be_kept_for_longer_but_never_for_less() -> None:
    breaker = opened(lease=120)
    probe = breaker.admit(5)
    probe.keep(50)
    assert breaker.check(124.9) is not None
    probe.keep(200)
    assert breaker.check(199.9) is not None
    assert breaker.admit(200).role == "probe"


def test_a_slow_probe_breaks_the_row_of_successes() -> None:
    breaker = opened()
    breaker.admit(5).success(5)
    breaker.admit(5).slow(5)
    breaker.admit(5).success(5)
    assert breaker.state(5) == "half-open"
    breaker.admit(5).success(5)
    assert breaker.state(5) == "closed"


def test_two_slow_probes_open_it_again() -> None:
    breaker = opened()
    for _ in range(2):
        breaker.admit(5).slow(5)
    assert breaker.snapshot(5).retry_after == 10


@pytest.mark.invariant(8)
def test_a_lost_probe_frees_its_place_when_its_lease_ends() -> None:
    breaker = opened(lease=120)
    breaker.admit(5)
    assert breaker.check(124.9) is not None
    assert breaker.admit(125).role == "probe"


@pytest.mark.invariant(8)
def test_a_lost_permit_of_the_slow_start_frees_its_place_too() -> None:
    breaker = opened()
    for _ in range(2):
        breaker.admit(5).success(5)
    breaker.admit(5)
    assert breaker.check(5) is not None
    assert breaker.check(125) is None


def test_after_closing_it_starts_slowly_and_ends_without_a_limit() -> None:
    breaker = opened()
    for _ in range(2):
        breaker.admit(5).success(5)
    limits = []
    for _ in range(8):
        limits.append(breaker.snapshot(5).limit)
        breaker.admit(5).success(5)
    assert limits == [1, 2, 3, 4, 5, 6, 7, None]


@pytest.mark.invariant(6)
def test_a_result_of_an_older_generation_changes_nothing() -> None:
    breaker = CircuitBreaker()
    late = [breaker.admit(0) for _ in range(10)]
    fail(breaker, 5)
    breaker.admit(5)
    before = breaker.snapshot(5)
    late[0].success(5)
    late[1].failure(5, slow=True)
    late[2].slow(5)
    late[3].release()
    assert breaker.snapshot(5) == before


def test_only_the_first_verb_counts() -> None:
    breaker = CircuitBreaker(failures=1)
    permit = breaker.admit(0)
    permit.release()
    permit.failure(0)
    assert breaker.state(0) == "closed"


@pytest.mark.invariant(9)
def test_forced_open_beats_the_timers_and_ends_when_it_is_taken_back() -> None:
    breaker = CircuitBreaker()
    breaker.mode = "forced_open"
    with pytest.raises(CircuitOpen, match="forced open"):
        breaker.admit(1e9)
    assert breaker.state(1e9) == "open"
    breaker.mode = "auto"
    assert breaker.admit(1e9).role == "normal"


def test_observe_only_refuses_nothing_and_shows_what_it_would_do() -> None:
    breaker = CircuitBreaker(mode="observe_only")
    fail(breaker, 5)
    assert breaker.state(0) == "open"
    for _ in range(2):
        breaker.admit(1).slow(1)  # would have been refused, so it says nothing
    assert breaker.snapshot(1).retry_after == 4
    probe = breaker.admit(5)
    assert probe.role == "probe"
    assert breaker.admit(5).role == "normal"


@pytest.mark.invariant(38)
def test_a_listener_that_raises_changes_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker(failures=1)
    told: list[Transition] = []

    def broken(change: Transition) -> None:
        raise ValueError("a listener's own mistake")

    breaker.on_change += [broken, told.append]
    with caplog.at_level(logging.ERROR, logger="resilient_llm"):
        fail(breaker, 1)
    assert told == [Transition("closed", "open", 0, "1 failure in a row")]
    assert "a listener of a circuit breaker failed" in caplog.text


@pytest.mark.invariant(13)
def test_a_listener_may_use_the_breaker_and_hears_changes_in_order() -> None:
    breaker = CircuitBreaker(failures=1, successes=1)
    told: list[str] = []

    def curious(change: Transition) -> None:
        if change.after == "open":
            breaker.admit(change.at + 5).success(change.at + 5)
        told.append(change.after)

    breaker.on_change.append(curious)
    fail(breaker, 1)
    assert told == ["open", "half-open", "closed"]


def test_a_verdict_given_by_a_finaliser_inside_a_step_of_the_breaker_is_heard() -> None:
    breaker = CircuitBreaker(failures=1)
    permit = breaker.admit(0)
    with breaker._lock:  # what a finaliser meets that the garbage collector runs inside the step
        permit.failure(0)
        assert breaker.state(0) == "closed"
    with pytest.raises(CircuitOpen):
        breaker.admit(0)
        breaker.admit(0)


@pytest.mark.invariant(13)
def test_threads_lose_no_verdict_and_tell_each_change_once() -> None:
    breaker = CircuitBreaker(failures=10**6, rate=1, window=10**6, min_calls=10**6)
    start = threading.Barrier(4)

    def work(failed: bool) -> None:
        start.wait()
        for _ in range(2000):
            permit = breaker.admit(0)
            permit.failure(0) if failed else permit.success(0)

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    seen = breaker.snapshot(0)
    assert (seen.outcomes, seen.failed) == (8000, 4000)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ServerError("500"), "open"),
        (ValueError("any other"), "open"),
        (BadRequest("400"), "closed"),
        (RateLimited("429"), "closed"),
        (DeadlineExceeded("late"), "closed"),
        (asyncio.CancelledError(), "closed"),
        (KeyboardInterrupt(), "closed"),
    ],
)
def test_used_alone_only_the_backends_fault_counts(error: BaseException, state: str) -> None:
    breaker = CircuitBreaker(failures=1)
    with pytest.raises(type(error)), breaker.permit(clock=lambda: 0.0):
        raise error
    assert breaker.state(0) == state


@pytest.mark.invariant(12)
def test_used_alone_a_callers_mistake_shows_that_the_server_answers() -> None:
    breaker = opened(successes=1)
    with pytest.raises(BadRequest), breaker.permit(clock=lambda: 5.0):
        raise BadRequest("400")
    assert breaker.state(5) == "closed"


def test_used_alone_a_throttled_probe_gives_no_verdict() -> None:
    breaker = opened(successes=1)
    with pytest.raises(RateLimited), breaker.permit(clock=lambda: 5.0):
        raise RateLimited("429")
    assert (breaker.state(5), breaker.check(5)) == ("half-open", None)


def test_used_alone_two_first_token_timeouts_open_it() -> None:
    breaker = CircuitBreaker()
    for _ in range(2):
        with pytest.raises(FirstTokenTimeout), breaker.permit(clock=lambda: 0.0):
            raise FirstTokenTimeout("nothing came")
    assert breaker.state(0) == "open"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_used_alone_around_an_awaited_call(anyio_backend: str) -> None:
    breaker = CircuitBreaker(failures=1)
    async with breaker.permit(clock=lambda: 0.0) as permit:
        assert permit.role == "normal"
    assert breaker.snapshot(0).outcomes == 1
    with pytest.raises(ServerError):
        async with breaker.permit(clock=lambda: 0.0):
            raise ServerError("500", retry_after=50.0)
    assert breaker.snapshot(0).retry_after == 50


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"failures": 0}, "failures: 0"),
        ({"rate": math.nan}, "rate: nan"),
        ({"rate": 1.5}, "rate: 1.5"),
        ({"rate": 0}, "rate: 0"),
        ({"cooldown": -1}, "cooldown: -1"),
        ({"cooldown": math.inf}, "cooldown: inf"),
        ({"cooldown": 60}, "cooldown: 60 is more than max_cooldown, 30"),
        ({"min_calls": 6, "window": 5}, "min_calls: 6 is more than the window of 5"),
        ({"successes": 1.5}, "successes: 1.5"),
        ({"mode": "shut"}, "mode: 'shut'"),
        ({"lease": 0}, "lease: 0"),
    ],
)
def test_impossible_values_are_refused_and_shown(values: dict[str, object], shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CircuitBreaker(**values)
    assert shown in str(caught.value)


def test_its_repr_says_what_state_it_is_in_and_why() -> None:
    assert repr(opened()).startswith("CircuitBreaker(open: 5 failures in a row")
    assert repr(CircuitBreaker()).startswith("CircuitBreaker(closed, 0 of 5 failures in a row, 0 of 0 failed, opens at")
    assert repr(CircuitBreaker(mode="forced_open")).startswith("CircuitBreaker(closed, forced_open, 0 of 5 failures")
    probe = opened().admit(5)
    assert repr(probe) == "Permit(probe, generation 2)"
    probe.release()
    assert repr(probe) == "Permit(probe, generation 2, settled)"


def test_a_permit_that_is_dropped_leaves_no_cycle_behind() -> None:
    breaker = CircuitBreaker()
    gc.collect()
    breaker.admit(0).success(0)
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Permit)]


def test_in_a_child_of_fork_no_probe_is_under_way_and_no_lock_is_held() -> None:
    breaker = opened()
    breaker.admit(5)
    breaker._lock.acquire()
    breaker._telling.acquire()
    breaker.after_fork()
    told: list[Transition] = []
    breaker.on_change.append(told.append)
    breaker.admit(5).failure(5)
    assert [one.after for one in told] == ["open"]


def test_the_defaults_are_those_that_the_page_shows() -> None:
    breaker = CircuitBreaker()
    counts = (breaker.failures, breaker.window, breaker.min_calls, breaker.successes)
    assert counts == (5, 20, 5, 2)
    assert (breaker.rate, breaker.cooldown, breaker.max_cooldown, breaker.lease) == (0.5, 5, 30, 120)
    assert breaker.mode == "auto"


def test_a_whole_round_in_the_words_of_its_transitions() -> None:
    breaker, told = CircuitBreaker(failures=2), []
    breaker.on_change.append(told.append)
    fail(breaker, 2)
    breaker.admit(5).failure(6)
    for now in (16, 17):
        breaker.admit(now).success(now)
    assert [(one.before, one.after, one.at, one.reason) for one in told] == [
        ("closed", "open", 0, "2 failures in a row"),
        ("open", "half-open", 5, "the cooldown is over"),
        ("half-open", "open", 6, "the probe failed"),
        ("open", "half-open", 16, "the cooldown is over"),
        ("half-open", "closed", 17, "2 probes in a row succeeded"),
    ]
    assert not any(one.slow for one in told)


def test_why_a_call_is_refused_and_when_it_is_worth_trying_again() -> None:
    def refusal(breaker: CircuitBreaker, now: float) -> tuple[str, float | None]:
        error = breaker.check(now)
        assert error is not None
        return str(error), error.retry_after

    assert refusal(CircuitBreaker(mode="forced_open"), 0) == ("the breaker is forced open", None)
    breaker = opened(failures=1, successes=1, lease=3)
    assert refusal(breaker, 2) == ("open for 3 s more: 1 failure in a row", 3)
    breaker.admit(5)
    assert refusal(breaker, 6) == ("half-open: a probe is under way", 2)
    breaker = opened(failures=1, successes=1)
    breaker.admit(5).success(5)
    first = breaker.admit(6)
    assert refusal(breaker, 6) == ("closed: slow start, one call at once", 5)
    first.success(6)
    breaker.admit(6)
    breaker.admit(6)
    assert refusal(breaker, 6) == ("closed: slow start, 2 calls at once", 5)


def test_what_it_tells_of_itself_in_each_state() -> None:
    breaker = opened(failures=1)
    assert breaker.snapshot(2) == BreakerSnapshot("open", "auto", 0, 0, 0, 0, 1, 3)
    assert breaker.snapshot(5) == BreakerSnapshot("half-open", "auto", 0, 0, 0, 0, 1, None)
    breaker.mode = "forced_open"
    assert breaker.snapshot(5).retry_after is None
    closed = CircuitBreaker(mode="forced_open")
    assert closed.snapshot(5) == BreakerSnapshot("open", "forced_open", 0, 0, 0, 0, None, None)
    assert CircuitBreaker().snapshot(0) == BreakerSnapshot("closed", "auto", 0, 0, 0, 0, None, None)


def test_while_it_is_closed_a_permit_has_no_end() -> None:
    assert CircuitBreaker().admit(0).lease == math.inf


def test_a_silence_of_exactly_five_seconds_is_slow() -> None:
    breaker = CircuitBreaker()
    for now in (5, 10):
        breaker.admit(now).slow(now, since=now - 5)
    assert breaker.state(10) == "open"


def test_without_a_hint_it_is_open_for_its_cooldown_however_short_that_is() -> None:
    breaker = opened(failures=1, cooldown=0.25)
    assert breaker.check(0.24) is not None
    assert breaker.check(0.25) is None


def test_one_failure_among_enough_outcomes_does_not_open_it() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.admit(0).success(0)
    fail(breaker, 1)
    assert breaker.state(0) == "closed"
    breaker.admit(0).success(0)
    fail(breaker, 1)
    assert breaker.state(0) == "closed"  # two of seven
    fail(breaker, 3)
    assert breaker.state(0) == "open"  # five of ten


def test_a_failure_begins_the_count_of_short_silences_anew() -> None:
    breaker = CircuitBreaker()
    breaker.admit(0).slow(3, since=0)
    breaker.admit(3).failure(3)
    breaker.admit(3).slow(7.5, since=3)
    assert breaker.snapshot(7.5).slow == 0
    breaker.admit(7.5).slow(8, since=7.5)
    assert breaker.snapshot(8).slow == 1
