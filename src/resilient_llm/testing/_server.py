"""A fake server: real sockets on the loopback, served by a thread with an event loop of its own.

The thread is what lets one server serve tests that are sync, on asyncio, on trio and on virtual time alike: nothing of
the test's loop is used. The port is kept over `kill()` and `restart()`, also while nobody listens on it.

Rules of the file: the state of the sockets belongs to the server's thread, other threads ask it; what tests may look at
is guarded by one condition, so that they wait for it instead of polling; `close()` leaves no thread and no socket.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from resilient_llm.testing._failures import Delayed, Refuse
from resilient_llm.testing._script import Call, Plan, Recorded, Script, Step
from resilient_llm.testing._sockets import Sockets
from resilient_llm.testing._steps import Echo
from resilient_llm.testing._thread import LoopThread

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from resilient_llm.testing._http import Connection, Ended

_WANTED = "a server takes say(…), status(…) and every other word but fail(…), which only a FakeBackend can raise"


class Dialect(Protocol):
    """The language of a server: what it makes of a request."""

    def plan(self, call: Call) -> Plan:
        """How to answer it."""
        ...

    def started(self) -> None:
        """The process is a new one: what the last one had in memory is gone."""
        ...


class FakeServer:
    """What every fake server can do. Use `FakeOllama` or `FakeOpenAI`.

    It serves between `start()` and `close()`, or within a `with` block. From asynchronous code the waiting methods
    belong into a thread (`await asyncio.to_thread(server.wait_idle)`); all others take less than a millisecond.
    """

    def __init__(self, script: Iterable[Step], dialect: Dialect, *, base: str = "", delay: float = 0.0) -> None:
        _require_h11()
        self._script: Script[Step] = Script(script, Echo(), _plays, _WANTED)
        self._dialect = dialect
        self._base = base
        self._delay = delay
        self._changed = threading.Condition()
        self._requests: list[Recorded] = []
        self._accepted = 0
        self._crash: BaseException | None = None
        self._sockets = Sockets(self._connection)
        self._thread = LoopThread()

    def __repr__(self) -> str:
        where = self.url if self._sockets.port else "not started"
        return f"{type(self).__name__}({where}, {len(self._requests)} requests)"

    # -- its life

    def start(self) -> Self:
        """Listens on a free port of 127.0.0.1.

        Raises:
            RuntimeError: it is running already.
        """
        self._thread.start(type(self).__name__, self._begin, self._sockets.close)
        return self

    def close(self) -> None:
        """Ends every exchange, closes every socket and ends the thread. Closing twice does nothing.

        Raises:
            RuntimeError: a step of the script raised, which is the cause then, or still blocks the server.
        """
        self._thread.stop()
        crash, self._crash = self._crash, None
        if crash is not None:
            raise RuntimeError("the fake server could not carry out its script") from crash

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where to point a client.

        Raises:
            RuntimeError: the server was never started.
        """
        if not self._sockets.port:
            raise RuntimeError(f"the server has no url before it is started: with {type(self).__name__}(…) as server")
        return f"http://127.0.0.1:{self._sockets.port}{self._base}"

    # -- what it does

    def then(self, *steps: Step) -> None:
        """Adds steps to the script. One that has answered already does not repeat any more.

        Raises:
            ConfigError: one of them is no step of a server.
        """
        if self._thread.running:
            self._thread.ask(lambda: self._extend(steps))
        else:
            self._script.then(steps)

    def stop_listening(self) -> None:
        """Refuses connections. Exchanges go on; their connections close when they are over, idle ones now."""
        self._thread.ask(self._sockets.deafen)

    def listen_again(self) -> None:
        """Takes connections again, on the same port. Ends a `refuse()` that was the next step."""
        self._thread.ask(self._listen_again)

    def kill(self) -> None:
        """What the death of the process looks like: refuses connections and resets those that are open."""
        self._thread.ask(self._kill)

    def restart(self) -> None:
        """Kills the server, unless that was done, and listens again on the same port. The script goes on."""
        self._thread.ask(self._restart)

    # -- what it saw

    @property
    def requests(self) -> list[Recorded]:
        """Every request so far, in the order in which they were complete."""
        with self._changed:
            return list(self._requests)

    @property
    def chats(self) -> list[Recorded]:
        """The requests for an answer of a model: no embeddings, no metadata, no loads, nothing refused as wrong."""
        return [one for one in self.requests if one.kind == "chat"]

    @property
    def connections(self) -> int:
        """The connections accepted so far."""
        with self._changed:
            return self._accepted

    @property
    def active(self) -> int:
        """The requests that are being answered now."""
        with self._changed:
            return sum(one.ended is None for one in self._requests)

    def wait_idle(self, timeout: float = 2.0) -> None:
        """Returns when no request is being answered.

        Raises:
            TimeoutError: one still is after `timeout` seconds.
        """
        self.wait_for(lambda: self.active == 0, timeout)

    def wait_for(self, predicate: Callable[[], object], timeout: float = 2.0) -> None:
        """Returns when the predicate is true. It is asked again whenever something about this server has changed.

        Args:
            predicate: about this server, quick, such as `lambda: len(server.chats) == 2`.
            timeout: seconds.

        Raises:
            TimeoutError: it was not true in time.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                raise TimeoutError(f"not within {timeout:g} s; the server is {self!r} with {self.active} active")

    # -- for its connections, in the server's thread

    @property
    def listening(self) -> bool:
        """It takes new connections now."""
        return self._sockets.listening

    def connected(self, connection: Connection) -> None:
        """Counts a connection."""
        self._sockets.open.add(connection)
        with self.changes():
            self._accepted += 1

    def lost(self, connection: Connection) -> None:
        """Forgets a connection."""
        self._sockets.open.discard(connection)

    def began(self, call: Call) -> tuple[Recorded, Plan, Step]:
        """Records a request and finds the step that answers it."""
        plan = self._dialect.plan(call)
        step = plan.step
        if step is None:
            step = self._script.next if self._refusing else Delayed(self._delay, self._script.take())
        record = Recorded(call.method, call.path, call.headers, call.json, plan.kind, call.began)
        if self._refusing:
            self._sockets.deafen()
        with self.changes():
            self._requests.append(record)
        return record, plan, step

    def finished(self, record: Recorded, how: Ended) -> None:
        """Records the end of an answer."""
        with self.changes():
            record.finished = time.monotonic()
            record.ended = how

    def crashed(self, error: BaseException) -> None:
        """Keeps what a step raised for `close()`."""
        self._crash = self._crash or error

    @contextlib.contextmanager
    def changes(self) -> Iterator[None]:
        """Around each change of what tests wait for."""
        with self._changed:
            yield
            self._changed.notify_all()

    # -- in the server's thread

    @property
    def _refusing(self) -> bool:
        return isinstance(self._script.next, Refuse)

    def _connection(self) -> Connection:
        from resilient_llm.testing._http import Connection  # here, so that the fakes without sockets need no h11

        return Connection(self)

    async def _begin(self) -> None:
        self._dialect.started()
        self._sockets.bind()
        if not self._refusing:
            self._sockets.listen()

    async def _kill(self) -> None:
        await self._sockets.hang_up(reset=True)

    def _listen_again(self) -> None:
        while self._refusing:
            self._script.skip()
        self._sockets.listen()

    async def _restart(self) -> None:
        await self._kill()
        self._dialect.started()
        self._listen_again()

    def _extend(self, steps: Iterable[Step]) -> None:
        self._script.then(steps)
        if self._refusing:
            self._sockets.deafen()


def _plays(step: object) -> bool:
    return callable(getattr(step, "actions", None))


def _require_h11() -> None:
    if importlib.util.find_spec("h11") is None:
        raise ImportError("the fake servers need h11: pip install 'resilient-llm[testing]'", name="h11")
