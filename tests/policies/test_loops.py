"""A callback finds the loop that it was made for, from any thread, and a loop that is over is no error."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio

from resilient_llm._loops import Alarm, here

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


async def test_a_callback_runs_on_the_loop_that_asked_for_it() -> None:
    soon, done, ran_in = here(), anyio.Event(), []

    def callback() -> None:
        ran_in.append(threading.get_ident())
        done.set()

    thread = threading.Thread(target=soon, args=(callback,))
    thread.start()
    with anyio.fail_after(5):
        await done.wait()
    thread.join(5)
    assert ran_in == [threading.get_ident()]


async def test_on_its_own_loop_a_callback_runs_soon_but_not_at_once() -> None:
    soon, done = here(), anyio.Event()
    soon(done.set)
    assert not done.is_set()
    with anyio.fail_after(5):
        await done.wait()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_callback_for_a_loop_that_is_over_is_dropped(backend: str) -> None:
    ran: list[int] = []

    async def main() -> Callable[[Callable[[], object]], None]:
        return here()

    anyio.run(main, backend=backend)(lambda: ran.append(1))
    assert ran == []


def test_any_other_error_of_the_loop_is_shown() -> None:
    class Odd(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: object, **facts: object) -> asyncio.Handle:
            raise RuntimeError("something else")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="something else"):
            here()(print)

    loop = Odd()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_without_a_loop_there_is_nothing_to_come_back_to() -> None:
    with pytest.raises(RuntimeError):
        here()


def as_anyio_says() -> bool:
    before = anyio.current_time()
    alarm = Alarm()
    assert before <= alarm.born <= anyio.current_time()
    return type(alarm.scope) is type(alarm.again()) is type(anyio.CancelScope())


async def test_scopes_and_clock_are_those_of_the_loop_that_runs() -> None:
    assert as_anyio_says()


def test_a_trio_that_is_a_guest_of_an_asyncio_has_its_own() -> None:
    async def host() -> None:
        assert as_anyio_says()
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Any] = loop.create_future()

        async def guest() -> None:
            assert as_anyio_says()

        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=over.set_result
        )
        (await over).unwrap()
        assert as_anyio_says()

    asyncio.run(host())
