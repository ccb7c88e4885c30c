"""The second half of the contract: loads, queues, and what dies; see `test_contract`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from .helpers import LOST
from .subjects import LONG, Hands, Subject

HI = ("user", "hi")


@pytest.fixture(autouse=True)
def no_slot_stays_lost(subject: Subject) -> Iterator[None]:
    yield
    if subject.hands is not None and subject.endless in subject.in_memory():
        try:
            subject.post("/api/chat", subject.asked(HI, model=subject.endless), timeout=3)
        except httpx2.TimeoutException:
            subject.hands.kill(str(subject.endless))


def load_seconds(subject: Subject, **more: Any) -> float:
    return float(subject.chat(HI, **more).json()["load_duration"] / 1e9)


def reloads(subject: Subject, **more: Any) -> bool:
    """Whether a request with this makes a load: it takes several times as long as what is warm."""
    warm = min(load_seconds(subject) for _ in range(3))
    return load_seconds(subject, **more) > max(4 * warm, 0.1)


def test_another_window_loads_the_model_again_and_the_same_does_not(subject: Subject) -> None:
    assert reloads(subject, options={"num_ctx": 300})
    warm = [load_seconds(subject, options={"num_ctx": 300}) for _ in range(3)]
    assert load_seconds(subject, options={"num_ctx": 301}) > 2 * min(warm)


@pytest.mark.parametrize(
    "more", [{"options": {"temperature": 1, "seed": 5}}, {"keep_alive": 200}, {"think": False}, {"format": "json"}]
)
def test_what_the_runner_does_not_care_for_loads_nothing(subject: Subject, more: dict[str, Any]) -> None:
    assert not reloads(subject, **more)


def test_another_shift_loads_the_model_again_since_0_12_6(subject: Subject) -> None:
    assert reloads(subject, shift=False) is subject.version.flags


def test_load_and_unload_have_a_reason_and_no_figures(subject: Subject) -> None:
    empty = {"model": subject.model, "messages": []}
    loaded, gone = subject.post("/api/chat", empty).json(), subject.post("/api/chat", {**empty, "keep_alive": 0}).json()
    assert list(loaded) == list(gone) == ["model", "created_at", "message", "done_reason", "done"]
    assert (loaded["done_reason"], gone["done_reason"]) == ("load", "unload")
    subject.wait(lambda: subject.model not in subject.in_memory())


@pytest.mark.parametrize("keep_alive", [0, "300ms"])
def test_a_keep_alive_ends_by_itself(subject: Subject, keep_alive: object) -> None:
    subject.chat(HI).raise_for_status()
    assert subject.model in subject.in_memory()
    subject.chat(HI, keep_alive=keep_alive).raise_for_status()
    subject.wait(lambda: subject.model not in subject.in_memory())


def test_a_negative_keep_alive_is_for_ever(subject: Subject) -> None:
    subject.chat(HI, keep_alive=-1).raise_for_status()
    (one,) = [one for one in subject.get("/api/ps")["models"] if one["name"].startswith(subject.model)]
    assert int(one["expires_at"][:4]) > 2200
    subject.chat(HI, keep_alive=300).raise_for_status()


# -- a load, and who waits for it


class Held:
    """A load that stands still, and who asked since."""

    def __init__(self, subject: Subject, hands: Hands, pool: ThreadPoolExecutor) -> None:
        self._subject, self._hands, self._pool = subject, hands, pool

    def ask(self, **more: Any) -> Future[httpx2.Response]:
        asked = self._pool.submit(lambda: self._subject.chat(HI, **more))
        time.sleep(0.1)  # so that they come in this order
        return asked

    def begin(self, send: Callable[[], Any]) -> Any:
        """Sends the first request, and stops the process that it starts before it has loaded anything."""
        before = self._hands.runner(self._subject.model)
        sent = send()
        self._subject.wait(lambda: self._hands.runner(self._subject.model) != before)
        self._hands.stop(self._subject.model)
        return sent


@pytest.fixture
def held(subject: Subject, hands: Hands) -> Iterator[Held]:
    for model in subject.in_memory():
        subject.unload(model)
    with ThreadPoolExecutor(10) as pool:
        try:
            yield Held(subject, hands, pool)
        finally:
            hands.resume(subject.model)


def test_who_waits_for_a_load_waits_in_a_queue_that_has_an_end(subject: Subject, held: Held, hands: Hands) -> None:
    """`OLLAMA_MAX_QUEUE` is 2: one loads, two wait, and all others are refused at once.

    Before 0.30 one more waits: it has been taken out of the queue, and looks whether the model that loads will do.
    """
    many = 2 if subject.version.apart else 3
    asked = [held.begin(held.ask), *(held.ask() for _ in range(5))]
    subject.wait(lambda: sum(one.done() for one in asked) >= many)
    refused = [one.result() for one in asked if one.done()]
    hands.resume(subject.model)
    busy = {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert [(one.status_code, one.json()) for one in refused] == [(503, busy)] * many
    assert "retry-after" not in refused[0].headers
    assert sorted(one.result().status_code for one in asked) == [200] * (6 - many) + [503] * many


def test_who_waits_for_a_loaded_model_waits_without_bound(subject: Subject, hands: Hands) -> None:
    del hands
    subject.chat(HI, model=subject.endless)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(lambda: subject.chat(HI, model=subject.endless, options={"num_predict": 1500}))]
        for _ in range(6):
            time.sleep(0.05)
            asked.append(pool.submit(lambda: subject.chat(HI, model=subject.endless)))
        assert [one.result().status_code for one in asked] == [200] * 7


def test_a_model_that_is_loading_is_listed_in_old_versions_alone(subject: Subject, held: Held, hands: Hands) -> None:
    asked = held.begin(held.ask)
    assert (subject.model in subject.in_memory()) is not subject.version.hidden
    hands.resume(subject.model)
    assert asked.result().status_code == 200


def test_a_load_ends_with_the_request_that_began_it(subject: Subject, held: Held, hands: Hands) -> None:
    def leave() -> None:
        with pytest.raises(httpx2.ReadTimeout):
            subject.post("/api/chat", subject.asked(HI), timeout=1.0)

    left = held.begin(lambda: held._pool.submit(leave))
    first = hands.runner(subject.model)
    left.result()
    answer = held.ask()
    hands.resume(subject.model)
    subject.wait(lambda: hands.runner(subject.model) != first)  # begun anew
    hands.resume(subject.model)
    assert answer.result().status_code == 200


# -- what breaks


def lines(answer: httpx2.Response) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in answer.iter_lines())


def endless(subject: Subject, **more: Any) -> dict[str, Any]:
    options = {"num_predict": 20_000, **more.pop("options", {})}
    return subject.asked(HI, model=subject.endless, options=options, **{"stream": True, **more})


def test_who_leaves_in_mid_answer_frees_the_slot(
    subject: Subject, hands: Hands, request: pytest.FixtureRequest
) -> None:
    with subject.http.stream("POST", f"{subject.url}/api/chat", json=endless(subject), timeout=LONG) as answer:
        next(lines(answer))
    try:
        after = subject.post("/api/chat", subject.asked(HI, model=subject.endless), timeout=5)
    except httpx2.TimeoutException:
        hands.kill(str(subject.endless))
        if "real" in request.node.name:
            pytest.xfail(LOST)
        raise
    assert after.status_code == 200


def test_a_runner_that_is_killed_is_told_of_in_a_line_and_the_next_request_loads_again(
    subject: Subject, hands: Hands
) -> None:
    subject.chat(HI, model=subject.endless)
    with subject.http.stream("POST", f"{subject.url}/api/chat", json=endless(subject), timeout=LONG) as answer:
        received = lines(answer)
        next(received)
        before = hands.runner(str(subject.endless))
        hands.kill(str(subject.endless))
        *_, last = received
    assert (answer.status_code, last) == (
        200, {"error": "an error was encountered while running the model: unexpected EOF"},
    )  # fmt: skip
    assert subject.chat(HI, model=subject.endless).status_code == 200
    assert hands.runner(str(subject.endless)) != before


def test_a_runner_that_is_killed_is_a_500_where_nothing_was_sent(subject: Subject, hands: Hands) -> None:
    subject.chat(HI, model=subject.endless)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: subject.post("/api/chat", endless(subject, stream=False)))
        time.sleep(0.4)
        hands.kill(str(subject.endless))
        answer = asked.result()
    assert (answer.status_code, answer.json()) == (
        500, {"error": "an error was encountered while running the model: unexpected EOF"},
    )  # fmt: skip


def test_a_runner_that_is_stopped_is_silent_and_goes_on_where_it_was(subject: Subject, hands: Hands) -> None:
    body = endless(subject, options={"num_predict": 3000})
    subject.chat(HI, model=subject.endless)
    with subject.http.stream("POST", f"{subject.url}/api/chat", json=body, timeout=LONG) as answer:
        received = lines(answer)
        next(received)
        hands.stop(str(subject.endless))
        stopped = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(lambda: list(received))
            time.sleep(0.6)
            assert not rest.done()
            assert subject.get("/api/tags")["models"]  # metadata are green
            hands.resume(str(subject.endless))
            assert rest.result()[-1]["eval_count"] == 3000
    assert time.monotonic() - stopped > 0.6


def test_a_schema_that_is_none_is_an_error_that_comes_after_a_200_or_with_a_400(subject: Subject) -> None:
    answer = subject.chat(HI, stream=True, format={"type": "wat"})
    if subject.version.fast:
        assert answer.status_code == 400
    else:
        assert (answer.status_code, answer.json()) == (200, {"error": "invalid JSON schema in format"})
