"""An alarm rings when it was last told to, on either kind of loop, and takes one timer however often it is put off."""

import asyncio
import gc
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_llm._loops import Alarm

pytestmark = pytest.mark.anyio
LATE = 0.25  # seconds that a busy machine may add


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


async def rings_after(alarm: Alarm) -> float:
    """Seconds until what waits in its scope is cancelled."""
    began = anyio.current_time()
    with anyio.fail_after(5), alarm.scope:
        await anyio.sleep_forever()
    return anyio.current_time() - began


def put(alarm: Alarm, seconds: float) -> None:
    alarm.put(anyio.current_time() + seconds)


@pytest.mark.parametrize("told", [[0.1], [0.05, 0.2], [60, 0.1]], ids=["once", "put off", "put forward"])
async def test_it_rings_at_the_instant_that_it_was_told_last(told: list[float]) -> None:
    alarm = Alarm()
    for seconds in told:
        put(alarm, seconds)
    assert told[-1] <= await rings_after(alarm) < told[-1] + LATE


async def test_put_off_while_somebody_waits_it_rings_at_the_later_instant() -> None:
    alarm, began = Alarm(), anyio.current_time()
    put(alarm, 0.1)
    with anyio.fail_after(5), alarm.scope:
        await anyio.sleep(0.05)
        alarm.put(began + 0.3)
        await anyio.sleep_forever()
    assert 0.3 <= anyio.current_time() - began < 0.3 + LATE


async def test_put_off_for_good_it_does_not_ring() -> None:
    alarm = Alarm()
    put(alarm, 0.05)
    alarm.put(float("inf"))
    with anyio.move_on_after(0.15), alarm.scope:
        await anyio.sleep_forever()
    assert not alarm.scope.cancel_called


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_an_instant_that_has_passed_ends_the_first_wait(seconds: float) -> None:
    alarm, went_on = Alarm(), False
    put(alarm, seconds)
    with alarm.scope:
        await anyio.lowlevel.checkpoint()
        went_on = True
    assert alarm.scope.cancelled_caught
    assert not went_on


async def test_it_cancels_the_scope_that_is_new_and_leaves_the_old_alone() -> None:
    alarm = Alarm()
    put(alarm, 0.1)
    old = alarm.scope
    with old:
        await anyio.lowlevel.checkpoint()
    assert alarm.again() is alarm.scope is not old
    put(alarm, 0.15)
    assert 0.15 <= await rings_after(alarm) < 0.15 + LATE
    assert not old.cancel_called


async def test_switched_off_it_is_silent_and_can_be_put_anew() -> None:
    alarm = Alarm()
    put(alarm, 0.05)
    alarm.off()
    await anyio.sleep(0.1)
    alarm.again()
    put(alarm, 0.1)
    assert 0.1 <= await rings_after(alarm) < 0.1 + LATE


class Counting(asyncio.SelectorEventLoop):
    timers = 0

    def call_at(self, *args: Any, **facts: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(*args, **facts)


def test_however_often_it_is_put_off_it_takes_one_timer() -> None:
    async def main() -> int:
        alarm = Alarm()
        for _ in range(1000):
            put(alarm, 60)
            with alarm.again():
                await anyio.lowlevel.checkpoint()
        alarm.off()
        return loop.timers

    with asyncio.Runner(loop_factory=Counting) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Counting)
        assert runner.run(main()) == 1


def test_switched_off_it_is_held_by_nobody() -> None:
    class Held(Alarm):
        pass

    async def main() -> None:
        alarm = Held()
        put(alarm, 60)
        alarm.off()
        gone = weakref.ref(alarm)
        del alarm
        gc.collect()
        assert gone() is None

    asyncio.run(main())


async def test_its_repr_says_whether_it_will_ring() -> None:
    alarm = Alarm()
    alarm.put(float("inf"))
    assert repr(alarm) == "Alarm(at inf)"
    alarm.put(1e9)
    assert repr(alarm) == "Alarm(at 1e+09)"
