"""An `OllamaModel` behind a real socket: its time runs with that of the server's event loop, as fast as it is told to.

Rules of the file: it belongs to the server's thread; one timer, for the model's next event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from resilient_llm.testing._host.doors import KINDS
from resilient_llm.testing._host.job import Exchange
from resilient_llm.testing._host.server import OllamaModel
from resilient_llm.testing._ollama_wire import Facts, OllamaAnswer
from resilient_llm.testing._script import Action, Answer, Call, Kind, Plan, Ready

# For an answer that only says when there is more of it: its words are the model's, and come as they are.
_FACTS = Facts((), window=4096, trained=4096, gpu=1.0, cloud=False, dimensions=1, version="")


class Live:
    """The dialect of a server whose answers a model gives."""

    def __init__(self, model: OllamaModel, speed: float) -> None:
        self.model = model
        self.changes: Callable[[], AbstractContextManager[None]] = nullcontext
        self._speed = speed
        self._began: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[Exchange, asyncio.Event] = {}

    def plan(self, call: Call) -> Plan:
        """The request goes to the model; what comes of it is played as it comes."""
        self.tick()
        exchange = self.model.receive(call)
        self.tick()
        answer = OllamaAnswer(call, _FACTS, lambda model, window: self.news(exchange))
        return Plan(_kind(call, exchange), answer, Relay(exchange), lambda: self._left(exchange))

    def started(self) -> None:
        """A new process, and a new loop."""
        self._began = None
        self._waiting.clear()
        self.model.restart()

    def tick(self) -> None:
        """Brings the model up to the present, tells those whose answer has come on, and sets the timer anew."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time() - self.model.now / self._speed
        self.model.advance((loop.time() - self._began) * self._speed)
        with self.changes():
            for exchange, event in self._waiting.items():
                if exchange.out or exchange.over:
                    event.set()
        if self._timer is not None:
            self._timer.cancel()
        due = self.model.next
        self._timer = None if due is None else loop.call_at(self._began + due / self._speed, self.tick)

    async def news(self, exchange: Exchange) -> None:
        """Returns when there is more of this answer."""
        event = self._waiting[exchange] = asyncio.Event()
        try:
            if not exchange.out and not exchange.over:
                await event.wait()
        finally:
            del self._waiting[exchange]

    def _left(self, exchange: Exchange) -> None:
        """Nobody reads it any more; if it is not over, its client has hung up."""
        if not exchange.over:
            self.model.hang_up(exchange)
            self.tick()


class Relay:
    """The one step of such an answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def actions(self, answer: Answer) -> Iterator[Action]:
        """What the model sends, when it does."""
        del answer
        exchange = self._exchange
        while exchange.out or not exchange.over:
            yield Ready()
            while exchange.out:
                yield exchange.out.popleft()


def _kind(call: Call, exchange: Exchange) -> Kind:
    kind = KINDS.get(call.path)
    if call.method != "POST" or kind is None or exchange.truth.outcome == "refused":
        return "other"
    given: object = call.body.get({"chat": "messages", "generate": "prompt", "embed": "input"}[kind])
    asks = isinstance(given, str | Sequence) and bool(given)
    return ("embed" if kind == "embed" else "chat") if asks else "load"
