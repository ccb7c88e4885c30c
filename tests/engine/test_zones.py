"""`local_only`: however it is said, nothing is sent to a route outside, whatever fails."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from resilient_llm import (
    AllRoutesFailed,
    AsyncClient,
    Message,
    Ollama,
    OpenAICompatible,
    Retry,
    Route,
    local_only,
)
from resilient_llm._zones import zone_of
from resilient_llm.errors import ConfigError, ConnectFailed, NoEligibleRoute, ServerError, StreamInterrupted
from resilient_llm.testing import FakeBackend, cut, fail, say

from .kit import REAL, Ask, client, error_of

pytestmark = pytest.mark.anyio
Limit = Literal["machine"] | bool | None


def three() -> list[FakeBackend]:
    """The nearest fails; the others would answer."""
    return [
        FakeBackend(fail(ConnectFailed("no", retryable=False)), name="near", zone="machine"),
        FakeBackend(say("network"), name="network", zone="network"),
        FakeBackend(say("internet"), name="internet", zone="internet"),
    ]


async def asked(
    ask: Ask, backends: list[FakeBackend], *, argument: Limit = None, block: Limit = None, client_: Limit = None,
    private: bool = False, plan: Any = None,
) -> Any:  # fmt: skip
    llm = client(*backends, local_only=client_ or False, plan=plan)
    inside: AbstractContextManager[Any] = local_only(block) if block else nullcontext()  # type: ignore[arg-type]
    with inside:
        return await ask(llm, [Message("user", "a secret", private=private)], local_only=argument)


WAYS = ["argument", "block", "client_"]


@pytest.mark.parametrize("way", WAYS)
async def test_local_only_keeps_a_call_off_the_internet_whatever_fails(ask: Ask, way: str) -> None:
    backends = three()
    assert (await asked(ask, backends, **{way: True})).route == "network"
    backends[1].then(fail(ServerError("no", retryable=False)))
    await error_of(asked(ask, backends, **{way: True}), AllRoutesFailed)
    assert backends[2].requests == []


@pytest.mark.parametrize("way", WAYS)
async def test_machine_keeps_a_call_on_this_machine(ask: Ask, way: str) -> None:
    backends = three()
    await error_of(asked(ask, backends, **{way: "machine"}), ConnectFailed)
    assert [len(one.requests) for one in backends] == [1, 0, 0]


async def test_a_private_message_keeps_its_call_off_the_internet(ask: Ask) -> None:
    backends = three()
    assert (await asked(ask, backends, private=True)).route == "network"
    reply = await client(backends[2]).chat([{"role": "user", "content": "public"}])
    assert reply.route == "internet"
    with pytest.raises(NoEligibleRoute):
        await client(backends[2]).chat([Message("user", "public"), {"role": "user", "content": "x", "private": True}])
    assert len(backends[2].requests) == 1


async def test_what_was_made_of_a_private_message_is_private(ask: Ask) -> None:
    backends = three()
    llm = client(*backends)
    reply = await ask(llm, [Message("user", "a secret", private=True)])
    public = await ask(llm, "no secret")
    assert (reply.message.private, public.message.private) == (True, False)
    assert (await ask(llm, [reply.message, Message("user", "say it in French")])).route == "network"
    assert backends[2].requests == []


@pytest.mark.parametrize("strict", [*WAYS, "private"])
async def test_the_strictest_holds_and_false_never_loosens(ask: Ask, strict: str) -> None:
    for others in (False, True):
        said: dict[str, Limit] = dict.fromkeys(WAYS, others)
        said[strict] = True if strict == "private" else "machine"
        backends = three()
        if strict == "private":
            assert (await asked(ask, backends, **said)).route == "network"  # type: ignore[arg-type]
        else:
            await error_of(asked(ask, backends, **said), ConnectFailed)  # type: ignore[arg-type]
        assert backends[2].requests == []


async def test_inner_blocks_do_not_loosen_outer_ones(ask: Ask) -> None:
    backends = three()
    with local_only("machine"), local_only(True):
        await error_of(ask(client(*backends)), ConnectFailed)
    assert [len(one.requests) for one in backends] == [1, 0, 0]
    assert (await ask(client(backends[2]))).route == "internet"  # outside the block it is over


async def test_without_local_only_every_route_is_open(ask: Ask) -> None:
    assert (await asked(ask, three())).route == "network"
    assert (await asked(ask, three()[2:])).route == "internet"


async def test_no_route_inside_is_told_at_once_with_the_zones_and_nothing_is_sent(ask: Ask) -> None:
    backends = three()[1:]
    error = await error_of(asked(ask, backends, argument="machine"), NoEligibleRoute)
    assert error.message.startswith(
        "local_only allows 'machine', but network is in 'network', internet is in 'internet'"
    )
    assert error.attempts == ()
    assert [one.requests for one in backends] == [[], []]


async def test_a_plan_cannot_send_a_call_outside(ask: Ask) -> None:
    backends = three()
    await error_of(asked(ask, backends, argument=True, plan=lambda request, routes: routes[2:]), NoEligibleRoute)
    assert backends[2].requests == []


async def test_a_conversation_that_stays_outside_comes_home_when_it_turns_private(ask: Ask) -> None:
    near = FakeBackend(fail(ServerError("no", retryable=False)), say("near"), name="near", zone="machine")
    far = FakeBackend(say("far"), name="far")
    llm = client(near, far)
    assert (await ask(llm, conversation="c")).route == "far"
    assert (await ask(llm, conversation="c", local_only=True)).route == "near"


async def test_embeddings_stay_inside_too() -> None:
    backends = three()
    llm = client(*(Route(one, space="s") for one in backends))
    await error_of(llm.embed("text", local_only="machine"), ConnectFailed)
    assert [len(one.requests) for one in backends] == [1, 0, 0]


async def test_restarts_stay_inside_too() -> None:
    near, far = FakeBackend(cut("x"), zone="machine"), FakeBackend(say("far"), name="far")
    llm = client(Route(near, on_break="restart", retry=Retry(attempts=2)), far)
    async with llm.stream("hi", local_only=True) as stream:
        with pytest.raises(StreamInterrupted):
            async for _ in stream:
                pass
    assert (len(near.requests), far.requests) == (2, [])


async def test_local_only_holds_in_the_tasks_that_are_started_in_it(ask: Ask) -> None:
    backends = three()

    async def call() -> None:
        await error_of(ask(client(*backends)), ConnectFailed)

    async with anyio.create_task_group() as group:
        with local_only("machine"):
            group.start_soon(call)
    assert [len(one.requests) for one in backends] == [1, 0, 0]


@REAL
async def test_local_only_holds_in_a_worker_thread(ask: Ask) -> None:
    backends = three()
    llm = client(*backends)
    with local_only("machine"):
        await error_of(anyio.to_thread.run_sync(lambda: anyio.from_thread.run(ask, llm)), ConnectFailed)
    assert [len(one.requests) for one in backends] == [1, 0, 0]


@pytest.mark.parametrize("value", ["internet", "network", 1, "yes"])
async def test_a_limit_that_is_none_is_told(ask: Ask, value: Any) -> None:
    with pytest.raises(ConfigError, match="local_only: "):
        await ask(client(FakeBackend()), local_only=value)
    with pytest.raises(ConfigError, match="local_only: "):
        client(FakeBackend(), local_only=value)


class Plain:
    """A backend that says nothing about itself."""

    name = "plain"
    opened = False

    def open(self, request: Any, watch: Any, *, stream: bool = True) -> Any:
        self.opened = True
        raise ServerError("x")


HOSTED = {"base_url": "http://127.0.0.1:1", "api_key": "k"}
ZONES: list[tuple[Any, str]] = [
    (Plain(), "internet"),  # unknown is outside
    (OpenAICompatible("m", **HOSTED), "internet"),  # it may be a proxy
    (Route(OpenAICompatible("m", **HOSTED), zone="machine"), "machine"),  # unless its user knows better
    (Ollama("m", base_url="http://127.0.0.1:1"), "machine"),
    (Ollama("m", base_url="http://localhost:1"), "machine"),
    (Ollama("m", base_url="http://[::1]:1"), "machine"),
    (Ollama("m", base_url="http://192.168.1.5:1"), "network"),
    (Ollama("m", base_url="http://10.0.0.5:1"), "network"),
    (Ollama("m", base_url="http://100.64.1.5:1"), "network"),
    (Ollama("m", base_url="http://8.8.8.8:1"), "internet"),
    (Ollama("m", base_url="http://[::ffff:8.8.8.8]:1"), "internet"),  # not as local as it looks
    (Ollama("gpt-oss:120b-cloud", base_url="http://127.0.0.1:1"), "internet"),
    (Ollama("gpt-oss:cloud", base_url="http://127.0.0.1:1"), "internet"),
]


@pytest.mark.parametrize(("route", "zone"), ZONES, ids=repr)
async def test_the_zone_of_a_route(route: Any, zone: str) -> None:
    llm = AsyncClient(route)
    assert llm._legs[0].zone == zone
    limits: list[tuple[Limit, list[str]]] = [("machine", ["machine"]), (True, ["machine", "network"])]
    for limit, allowed in limits:
        if zone not in allowed:
            await error_of(llm.chat("hi", local_only=limit), NoEligibleRoute)
    assert not Plain.opened
    await llm.aclose()


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("127.0.0.1", "machine"),
        ("127.8.8.8", "machine"),
        ("::1", "machine"),
        ("0.0.0.0", "machine"),
        ("::ffff:127.0.0.1", "machine"),
        ("10.1.2.3", "network"),
        ("192.168.0.7", "network"),
        ("169.254.169.254", "network"),
        ("100.64.0.1", "network"),
        ("fe80::1%eth0", "network"),
        ("fd00::1", "network"),
        ("::ffff:10.0.0.1", "network"),
        ("8.8.8.8", "internet"),
        ("2606:4700::1111", "internet"),
        ("::ffff:8.8.8.8", "internet"),
        ("2002:0808:0808::1", "internet"),
        ("224.0.0.1", "internet"),
        ("/run/ollama.sock", "internet"),
        ("", "internet"),
    ],
)
def test_the_zone_of_an_address_is_the_farthest_that_it_may_be(address: str, zone: str) -> None:
    assert zone_of(address) == zone
