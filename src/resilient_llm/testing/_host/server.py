"""An Ollama as a state machine: requests in, actions out, in virtual time.

It is what a fake that plays a script cannot be: a machine with so much memory, on which models are loaded, queued for,
cut to their window and thrown out again, as ollama/ollama does it in a given version, and that writes down what really
happened to every request.

Rules of the file: no socket, no clock, no thread. Time comes in through `advance` alone; everything else happens at the
present instant. The same seed and the same calls at the same times give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from resilient_llm._errors import ConfigError
from resilient_llm.testing._host import doors, lines, listing
from resilient_llm.testing._host.agenda import Agenda
from resilient_llm.testing._host.asked import default_window, read
from resilient_llm.testing._host.facts import Machine, Pulled, Settings, Version, version_of
from resilient_llm.testing._host.faults import Fault, Faults
from resilient_llm.testing._host.job import Exchange, Job
from resilient_llm.testing._host.runner import Runner
from resilient_llm.testing._host.scheduler import Scheduler
from resilient_llm.testing._host.truth import LoadTruth, Truth
from resilient_llm.testing._host.world import World
from resilient_llm.testing._model import encode
from resilient_llm.testing._ollama_wire import tagged
from resilient_llm.testing._script import Call

if TYPE_CHECKING:
    from resilient_llm.testing._host.transport import InProcess

CURRENT = "0.32.15"


class OllamaModel:
    """Ollama on a machine, simulated: its scheduler, its memory, its slots, its cuts and its faults.

    Serve it in virtual time to a client of yours (`transport`), or over a socket (`FakeOllama(host=…)`); or drive it
    by hand: `send`, then `advance` to the time of `next`, and look at what came `out`.

    Args:
        models: that are pulled: names, or `Pulled` where the defaults do not fit.
        machine: under it.
        settings: of it, as Ollama's environment variables.
        version: that it behaves as; see `docs/ollama-versions.md` for what that was seen on.
        faults: that strike; the first that fits a request is the one.
        seed: of all that is left to chance: overheads, the time until a GPU's memory is free again, faults.

    Attributes:
        log: what really happened to each request for a model, in the order in which they came.

    Raises:
        ConfigError: there are no models, two of one name, or no such version.
    """

    def __init__(
        self,
        *models: Pulled | str,
        machine: Machine | None = None,
        settings: Settings | None = None,
        version: str = CURRENT,
        faults: Iterable[Fault] = (),
        seed: int = 0,
    ) -> None:
        chance = Random(seed)
        self._agenda = Agenda()
        struck = Faults(tuple(faults), chance)
        told = version_of(version)
        self._world = World(self._agenda, chance, machine or Machine(), settings or Settings(), told, struck)
        self._scheduler = Scheduler(self._world)
        self._models: dict[str, Pulled] = {}
        for one in models or ("llama3.2",):
            self.add(one)
        if len(self._models) < len(models):
            raise ConfigError("models: two of them have the same name")
        self.log: list[Truth] = []

    # -- its time

    @property
    def now(self) -> float:
        """The present, in seconds."""
        return self._agenda.now

    @property
    def next(self) -> float | None:
        """When something will happen by itself, if anything will."""
        return self._agenda.next

    def advance(self, now: float) -> None:
        """Lets everything happen that is due by then."""
        self._agenda.advance(now)

    # -- its requests

    def send(self, method: str, path: str, content: bytes | Mapping[str, Any] = b"") -> Exchange:
        """A request comes in, whole.

        Args:
            method: of HTTP.
            path: of the URL.
            content: the body, or what it is the JSON of.
        """
        data = content if isinstance(content, bytes) else encode(content)
        return self.receive(Call(method, path, {}, _json(data), self.now, not data))

    def receive(self, call: Call) -> Exchange:
        """The same, of a request that was read already."""
        kind = doors.KINDS.get(call.path)
        exchange = Exchange(Truth(len(self.log) + 1, call.path, "", self.now))
        if call.method == "POST" and kind is not None:
            self.log.append(exchange.truth)
            self._generate(call, exchange, kind)
        elif (call.method, call.path) == ("GET", "/api/ps"):
            self._list(exchange)
        else:
            doors.metadata(self, call, exchange)
        return exchange

    def hang_up(self, exchange: Exchange) -> None:
        """The client of this exchange leaves."""
        if not exchange.over:
            exchange.left = True
            exchange.end(self.now, "disconnected")

    def also(self, at: float, path: str, body: Mapping[str, Any], method: str = "POST") -> None:
        """Another program on the machine sends a request, and reads the answer to its end.

        Args:
            at: when, in seconds on the host's clock.
            path: such as `/api/chat`.
            body: of the request, before it becomes JSON.
            method: of HTTP.
        """
        self._agenda.after(max(at - self.now, 0.0), lambda: self._tenant(method, path, body))

    def _tenant(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        self.send(method, path, body).truth.tenant = True

    def _generate(self, call: Call, exchange: Exchange, kind: Any) -> None:
        wrong = doors.wrong_with(call, self, kind)
        if wrong is not None:
            lines.refuse(exchange, self.now, *wrong)
            return
        pulled = self._models[tagged(str(call.body["model"]))]
        world, truth = self._world, exchange.truth
        truth.model = pulled.name
        window = default_window(pulled, world.settings, world.machine, world.version)
        asked = read(kind, call.body, pulled, world.version, window)
        unable = doors.cannot(asked, call.body)
        if unable is not None:
            lines.refuse(exchange, self.now, 400, unable)
            return
        fault = world.fault("door", truth)
        if fault is not None:
            self._at_the_door(exchange, fault)
        elif not asked.texts and asked.keep_alive == 0 and kind != "embed":
            self._scheduler.expire(pulled.name)
            lines.respond(exchange, self.now, 200, lines.loaded(asked, self.now, "unload"), "complete")
        else:
            self._scheduler.submit(Job(exchange, asked, self.now))

    def _at_the_door(self, exchange: Exchange, fault: Fault) -> None:
        exchange.truth.fault = fault.name
        if fault.name in ("refused", "reset"):
            exchange.end(self.now, "failed", fault.name, drop=True)
        elif fault.name in doors.CLOUD:
            status, body = doors.CLOUD[fault.name]
            exchange.truth.error = str(body["error"])
            lines.respond(exchange, self.now, status, body, "failed")

    def _list(self, exchange: Exchange) -> None:
        """`/api/ps` waits while a GPU's memory is given back."""
        if exchange.over:
            return
        if any(one.vram for one in self._scheduler.leaving):
            self._agenda.after(0.05, lambda: self._list(exchange))
            return
        found = list(self._scheduler.loaded.values())
        if not self.version.hidden:
            found += [one.runner for one in self._scheduler.loading.values()]
        listed = [listing.running(one, self.now, self.version) for one in found]
        lines.respond(exchange, self.now, 200, {"models": listed}, "complete")

    # -- what can be done to it

    def inject(self, fault: Fault) -> None:
        """From here on this fault may strike, too."""
        self._world.faults.add(fault)

    def kill(self, model: str) -> None:
        """The runner of a model dies, as by SIGKILL. Nothing happens if it has none."""
        self._with_runner(model, self._killed)

    def _killed(self, runner: Runner) -> None:
        load = self._scheduler.loading.get(runner.pulled.name)
        if load is not None:
            load.die()
        else:
            runner.die()

    def stop(self, model: str) -> None:
        """The runner of a model stands still, as by SIGSTOP."""

        def stopped(runner: Runner) -> None:
            runner.stopped = True

        self._with_runner(model, stopped)

    def resume(self, model: str) -> None:
        """It goes on, as by SIGCONT."""
        self._with_runner(model, Runner.resume)

    def restart(self) -> None:
        """The server itself starts anew: nothing is in memory, and nobody waits. Its clients are cut off elsewhere."""
        self._scheduler = Scheduler(self._world, self._scheduler.loads)

    def _with_runner(self, model: str, act: Callable[[Runner], None]) -> None:
        pulled = self.pulled(model)
        runner = None if pulled is None else self._scheduler.find(pulled)
        if runner is not None and not runner.dead:
            act(runner)

    # -- what is known of it

    @property
    def version(self) -> Version:
        """What it behaves as."""
        return self._world.version

    @property
    def loads(self) -> Sequence[LoadTruth]:
        """Every load that was begun."""
        return tuple(self._scheduler.loads)

    @property
    def loaded(self) -> Sequence[str]:
        """The models in memory."""
        return tuple(self._scheduler.loaded)

    @property
    def active(self) -> int:
        """The slots that are in use."""
        return self._world.active()

    @property
    def models(self) -> Sequence[Pulled]:
        """The models that are pulled."""
        return tuple(self._models.values())

    def pulled(self, name: str) -> Pulled | None:
        """The model of this name, if there is one."""
        return self._models.get(tagged(name))

    def add(self, model: Pulled | str) -> None:
        """Another model is pulled, or one is pulled anew."""
        pulled = Pulled(model) if isinstance(model, str) else model
        name = tagged(pulled.name)
        self._models[name] = replace(pulled, name=name)

    def remove(self, pulled: Pulled) -> None:
        """The model is deleted."""
        self._scheduler.expire(pulled.name)
        del self._models[pulled.name]

    def transport(self, *, grain: float = 0.0) -> InProcess:
        """A way to it for `httpx2.AsyncClient(transport=…)`, on the clock of the event loop that runs, real or virtual.

        Give that client to `Ollama(…, http_client=…)`: its answers go through everything that a real one's would.

        Args:
            grain: seconds by which its answers may come late, so that several tokens come at once, which makes long
                simulations fast. What the log says is exact all the same.
        """
        from resilient_llm.testing._host.transport import InProcess  # here: importing the fakes imports no HTTP

        return InProcess(self, grain)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None
