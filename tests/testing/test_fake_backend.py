"""`FakeBackend` by itself: the contract of a backend to the letter, every word, and nothing held when it is over."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from resilient_llm import (
    AsyncClient,
    ChatRequest,
    Client,
    ConfigError,
    EmbedRequest,
    Message,
    ModelInfo,
    Retry,
    Route,
    ToolCall,
    Usage,
)
from resilient_llm._deadline import Deadline
from resilient_llm._replies import Done, ReasoningDelta, TextDelta, Vectors
from resilient_llm._watch import Watch
from resilient_llm.errors import (
    BadRequest,
    ConnectFailed,
    ContentFiltered,
    EmptyReply,
    LLMError,
    RateLimited,
    ServerError,
    StreamInterrupted,
    Truncated,
)
from resilient_llm.policies.timeouts import Limits
from resilient_llm.testing import (
    FakeBackend,
    comments,
    cut,
    dribble,
    endless_headers,
    ends,
    error_line,
    fail,
    hang,
    huge_line,
    malformed,
    raw,
    redirect,
    refuse,
    reset,
    say,
    slow_close,
    split_utf8,
    stall,
    status,
)

pytestmark = pytest.mark.anyio
HELLO = ChatRequest((Message("user", "hello world"),))
WEATHER = ToolCall("get_weather", {"city": "Paris"}, "call_7")
VIRTUAL = pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["trio-virtual"], indirect=True
)


@pytest.fixture(params=["asyncio", "trio-virtual"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    if isinstance(request.param, tuple):
        return request.param
    return ("asyncio", {}) if request.param == "asyncio" else ("trio", {"clock": MockClock(autojump_threshold=0)})


def watch() -> Watch:
    endless = Limits(math.inf, math.inf, math.inf, math.inf)
    return Watch(Deadline(math.inf, math.inf), endless, anyio.current_time)


async def batches(backend: FakeBackend, request: Any = HELLO, *, stream: bool = True) -> list[list[object]]:
    """What an attempt gives, batch by batch."""
    async with backend.open(request, watch(), stream=stream) as events:
        return [list(batch) async for batch in events]


async def until_broken(
    backend: FakeBackend, request: Any = HELLO, *, stream: bool = True
) -> tuple[list[str], LLMError]:
    """The texts that an attempt gives before it fails, and the failure."""
    texts: list[str] = []
    with pytest.raises(LLMError) as caught:
        async with backend.open(request, watch(), stream=stream) as events:
            async for batch in events:
                texts += [event.text for event in batch if isinstance(event, TextDelta)]
    return texts, caught.value


def client(*routes: Any, **options: Any) -> AsyncClient:
    return AsyncClient(*routes, clock=anyio.current_time, **options)


# -- answers


async def test_each_text_is_an_event_and_a_batch_of_its_own_and_done_comes_last() -> None:
    backend = FakeBackend(say("hel", "lo"), name="local", model="tiny")
    assert await batches(backend) == [
        [TextDelta("hel")],
        [TextDelta("lo")],
        [Done("stop", Usage(3, 2), "stop", "tiny")],  # 11 characters are 3 tokens
    ]


async def test_thoughts_come_before_texts_and_calls_after_them() -> None:
    step = say("ok", reasoning=("h", "m"), tool_calls=(WEATHER, ToolCall("now", {})), usage=Usage(9, 8, 7, 6))
    first, second, text, call, nameless, (done,) = await batches(FakeBackend(step))
    assert (first, second, text) == ([ReasoningDelta("h")], [ReasoningDelta("m")], [TextDelta("ok")])
    assert (call, nameless) == ([WEATHER], [ToolCall("now", {}, "call_1")])
    assert isinstance(done, Done)
    assert (done.finish_reason, done.raw_finish_reason, done.usage) == ("tool_calls", "stop", Usage(9, 8, 7, 6))


@pytest.mark.parametrize(
    ("step", "finish", "degraded"),
    [
        (say("a", finish="length"), "length", ("cut_at_length",)),
        (say(reasoning=("hm",), finish="length"), "length", ("cut_at_length", "thinking_ate_budget")),
        (say("a", finish="content_filter"), "content_filter", ()),
        (say("a", finish="whatever"), "other", ()),
    ],
)
async def test_a_finish_says_what_it_costs(step: Any, finish: str, degraded: tuple[str, ...]) -> None:
    *_, (done,) = await batches(FakeBackend(step))
    assert isinstance(done, Done)
    assert (done.finish_reason, done.degraded) == (finish, degraded)


@pytest.mark.parametrize(("step", "kind"), [(say(), EmptyReply), (say(finish="content_filter"), ContentFiltered)])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_a_word_is_an_error_as_it_is_from_a_server(step: Any, kind: Any, stream: bool) -> None:
    texts, error = await until_broken(FakeBackend(step), stream=stream)
    assert (texts, type(error)) == ([], kind)


async def test_an_empty_text_is_no_event_as_it_is_none_from_a_decoder() -> None:
    text, (done,) = await batches(FakeBackend(say("", "a", "", reasoning=("",))))
    assert text == [TextDelta("a")]
    assert isinstance(done, Done)


async def test_a_joined_answer_is_one_batch() -> None:
    (batch,) = await batches(FakeBackend(say("a", "b", joined=True)))
    assert batch[:2] == [TextDelta("a"), TextDelta("b")]
    assert isinstance(batch[2], Done)


async def test_an_answer_that_is_no_stream_has_its_text_in_one_piece() -> None:
    (batch,) = await batches(FakeBackend(say("a", "b", reasoning=("h", "m"))), stream=False)
    assert batch[:2] == [ReasoningDelta("hm"), TextDelta("ab")]
    assert isinstance(batch[2], Done)
    assert batch[2].usage.output_tokens == 4


async def test_without_a_script_the_prompt_comes_back_within_the_limit() -> None:
    async with client(FakeBackend()) as llm:
        whole = await llm.chat("why not")
        short = await llm.chat("why not", max_tokens=3)
    assert (whole.text, whole.finish_reason) == ("You said: why not", "stop")
    assert (short.text, short.finish_reason) == ("You said: why", "length")


async def test_steps_answer_in_turn_the_last_repeats_and_more_may_be_added() -> None:
    backend = FakeBackend(say("1"), say("2"))
    async with client(backend) as llm:
        heard = [(await llm.chat("?")).text for _ in range(3)]
        backend.then(say("3"), say("4"))
        heard += [(await llm.chat("?")).text for _ in range(3)]
    assert heard == ["1", "2", "2", "3", "4", "4"]


async def test_an_attempt_that_is_never_entered_takes_no_step() -> None:
    backend = FakeBackend(say("1"), say("2"))
    backend.open(HELLO, watch())
    assert (await batches(backend))[0] == [TextDelta("1")]
    assert (backend.requests, backend.opened) == ([HELLO], 1)


async def test_it_keeps_the_requests_as_they_are_and_shows_none() -> None:
    backend = FakeBackend(say("a secret answer"), name="local")
    async with client(backend) as llm:
        await llm.chat("a secret prompt", temperature=0.5, tags=("x",))
        await llm.embed("a secret text")
    chat, embed = backend.requests
    assert isinstance(chat, ChatRequest)
    assert (chat.messages[0].content, chat.temperature, chat.tags) == ("a secret prompt", 0.5, ("x",))
    assert embed == EmbedRequest(("a secret text",))
    assert repr(backend) == "FakeBackend('local', 2 requests, 0 active)"
    assert "secret" not in repr(backend.requests)


# -- faults


@pytest.mark.parametrize(
    ("step", "kind"),
    [(cut("a", "b"), StreamInterrupted), (ends("a", "b"), Truncated), (fail(ServerError(), after="ab"), ServerError)],
)
async def test_what_breaks_does_so_after_its_tokens(step: Any, kind: type[LLMError]) -> None:
    backend = FakeBackend(step)
    texts, error = await until_broken(backend)
    assert (texts, type(error)) == (["a", "b"], kind)
    assert (backend.opened, backend.closed) == (1, 1)


@pytest.mark.parametrize(
    ("step", "kind"),
    [(cut("a"), StreamInterrupted), (ends("a"), Truncated), (fail(ServerError(), after="a"), ServerError)],
)
@pytest.mark.parametrize("request_", [HELLO, EmbedRequest(("x",))], ids=["chat", "embed"])
async def test_what_breaks_without_a_stream_says_nothing(step: Any, kind: type[LLMError], request_: Any) -> None:
    texts, error = await until_broken(FakeBackend(step), request_, stream=False)
    assert (texts, type(error)) == ([], kind)


async def test_an_attempt_that_has_failed_is_over() -> None:
    async with FakeBackend(cut("a")).open(HELLO, watch()) as events:
        await anext(events)
        with pytest.raises(StreamInterrupted):
            await anext(events)
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_fail_raises_a_fresh_copy_with_the_same_facts_before_the_answer_begins() -> None:
    given = RateLimited("slow down", retry_after=7, status=429)
    backend = FakeBackend(fail(given))
    errors = []
    for _ in range(2):
        with pytest.raises(RateLimited) as caught:
            await backend.open(HELLO, watch()).__aenter__()
        errors.append(caught.value)
    first, second = errors
    assert given is not first is not second is not given
    assert (first.message, first.retry_after, first.status) == ("slow down", 7, 429)
    assert given.__traceback__ is None
    assert (backend.opened, backend.closed) == (2, 2)


async def test_errors_hold_no_text_in_the_frames_of_their_traceback() -> None:
    for step in (cut("a secret"), ends("a secret"), fail(ServerError("boom"), after=["a secret"])):
        request = ChatRequest((Message("user", "a secret"),))
        context = FakeBackend(step).open(request, watch())
        with pytest.raises(LLMError) as caught:
            async with context as events:
                await anext(events)
                await anext(events)
        at, shown = caught.value.__traceback__, []
        while at is not None:
            if "testing" in at.tb_frame.f_code.co_filename.partition("resilient_llm")[2]:
                shown.append(repr(at.tb_frame.f_locals))
            at = at.tb_next
        assert shown
        assert "a secret" not in "".join(shown)


# -- silence, and giving back


async def _opens_never(backend: FakeBackend, *, stream: bool = True) -> None:
    async with backend.open(HELLO, watch(), stream=stream):
        raise AssertionError("it opened")


async def _answers_never(backend: FakeBackend) -> None:
    await _opens_never(backend, stream=False)


async def _reads_on(backend: FakeBackend) -> None:
    async with backend.open(HELLO, watch()) as events:
        async for _ in events:
            pass
    raise AssertionError("it ended")


@pytest.mark.parametrize(
    ("step", "until"),
    [
        (hang(), _opens_never),
        (say("a", first=math.inf), _opens_never),
        (hang(after_headers=True), _reads_on),
        (stall("a"), _reads_on),
        (stall(), _reads_on),
        (stall("a"), _answers_never),
        (say("a", "b", gap=math.inf), _reads_on),
        (slow_close("a"), _reads_on),
    ],
)
async def test_who_leaves_a_silence_gives_everything_back(step: Any, until: Callable[[FakeBackend], Any]) -> None:
    backend = FakeBackend(step)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until, backend)
        while backend.active == 0:
            await anyio.lowlevel.checkpoint()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert backend.active == 1
        tasks.cancel_scope.cancel()
    assert (backend.opened, backend.closed, backend.active) == (1, 1, 0)


async def test_leaving_early_and_dropping_give_back_and_leave_nothing_to_read() -> None:
    backend = FakeBackend(say("a", "b"))
    async with backend.open(HELLO, watch()) as events:
        await anext(events)
        assert backend.active == 1
    assert backend.active == 0
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_a_cancelled_scope_ends_entering_and_reading_though_nothing_waits() -> None:
    backend = FakeBackend(say("a", "b"))
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with backend.open(HELLO, watch()):
            raise AssertionError("it opened")
    with anyio.CancelScope() as scope:
        async with backend.open(HELLO, watch()) as events:
            scope.cancel()
            await anext(events)
    assert scope.cancelled_caught
    assert (backend.opened, backend.closed) == (2, 2)


# -- time


@VIRTUAL
async def test_first_is_before_the_opening_and_gap_between_tokens(anyio_backend: Any) -> None:
    began, at = anyio.current_time(), []
    async with FakeBackend(say("a", "b", "c", first=60, gap=5)).open(HELLO, watch()) as events:
        opened = anyio.current_time() - began
        async for _ in events:
            at.append(anyio.current_time() - began)
    assert opened == pytest.approx(60)
    assert at == pytest.approx([60, 65, 70, 70])  # the last is `Done`


@VIRTUAL
@pytest.mark.parametrize("stream", [True, False])
async def test_joined_and_whole_answers_come_when_they_would_be_whole(anyio_backend: Any, stream: bool) -> None:
    began = anyio.current_time()
    await batches(FakeBackend(say("a", "b", "c", first=60, gap=5, joined=stream)), stream=stream)
    assert anyio.current_time() - began == pytest.approx(60 if stream else 70)


@VIRTUAL
async def test_a_read_that_was_cancelled_is_taken_up_where_it_was(anyio_backend: Any) -> None:
    began, impatient = anyio.current_time(), 0
    async with FakeBackend(say("a", "b", gap=10)).open(HELLO, watch()) as events:
        assert await anext(events) == (TextDelta("a"),)
        second: object = None
        while second is None:
            with anyio.move_on_after(4):
                second = await anext(events)
            impatient += second is None
    assert (second, impatient) == ((TextDelta("b"),), 2)
    assert anyio.current_time() - began == pytest.approx(10)


@VIRTUAL
async def test_a_slow_close_is_a_whole_answer_whose_end_is_late(anyio_backend: Any) -> None:
    began = anyio.current_time()
    found = await batches(FakeBackend(slow_close("a", seconds=9)))
    assert [type(batch[0]) for batch in found] == [TextDelta, Done]
    assert anyio.current_time() - began == pytest.approx(9)


@VIRTUAL
async def test_a_hang_is_passed_by_in_no_time_at_all(anyio_backend: Any) -> None:
    local = FakeBackend(fail(ConnectFailed()), hang(), name="local", local=True)
    hosted = FakeBackend(say("hel", "lo"), name="hosted")
    async with client(Route(local, retry=Retry(attempts=2)), hosted) as llm:
        reply = await llm.chat("hi")
    assert (reply.text, reply.route) == ("hello", "hosted")
    failed = [(one.route, type(one.error).__name__) for one in reply.attempts]
    assert failed == [("local", "ConnectFailed"), ("local", "FirstTokenTimeout"), ("hosted", "NoneType")]
    assert reply.timings.failed == pytest.approx(60)
    assert (local.active, hosted.active) == (0, 0)


@VIRTUAL
async def test_a_load_is_waited_for_once_and_survives_who_started_it(anyio_backend: Any) -> None:
    backend = FakeBackend(say("a"), local=True, loads=90, slots=2)
    async with client(backend) as llm:
        began = anyio.current_time()
        with anyio.move_on_after(30):
            await llm.chat("impatient")
        assert backend.requests == []  # nothing is sent before the model is there
        patient = await llm.chat("patient")
        assert anyio.current_time() - began == pytest.approx(90)
        warm = await llm.chat("again")
    assert patient.timings.load == pytest.approx(60)
    assert (warm.timings.load, warm.attempts[0].load) == (0.0, None)


@VIRTUAL
async def test_phases_that_take_too_long_have_their_errors(anyio_backend: Any) -> None:
    async with client(Route(FakeBackend(loads=1e6, local=True), retry=Retry(attempts=1)), timeout=1e9) as llm:
        with pytest.raises(LLMError, match="not in memory") as caught:
            await llm.chat("hi")
    assert type(caught.value).__name__ == "LoadTimeout"
    async with client(Route(FakeBackend(connects=1e6), retry=Retry(attempts=1)), timeout=1e9) as llm:
        with pytest.raises(LLMError, match="no connection") as caught:
            await llm.chat("hi")
    assert type(caught.value).__name__ == "ConnectTimeout"


@VIRTUAL
async def test_connecting_is_accounted_for(anyio_backend: Any) -> None:
    async with client(FakeBackend(say("a", first=2), connects=1.5)) as llm:
        reply = await llm.chat("hi")
    assert reply.timings.connect == pytest.approx(1.5)
    assert reply.timings.first_token == pytest.approx(2)


# -- embeddings


async def test_embeddings_are_unit_vectors_that_depend_on_the_text_alone() -> None:
    async with (
        client(FakeBackend(name="one", dimensions=16)) as one,
        client(FakeBackend(say("x"), dimensions=16)) as other,
    ):
        reply = await one.embed(["a", "bcdef", "a"])
        again = await other.embed("a")
    first, second, third = reply.vectors
    assert list(first) == list(third) == list(again.vectors[0]) != list(second)
    assert math.hypot(*first) == pytest.approx(1)
    assert (reply.space.dimensions, reply.usage.input_tokens, reply.model) == (16, 1 + 2 + 1, "one")


async def test_embeddings_take_steps() -> None:
    backend = FakeBackend(fail(ServerError()), say())
    texts, error = await until_broken(backend, EmbedRequest(("a",)))
    assert (texts, type(error)) == ([], ServerError)
    ((event,),) = await batches(backend, EmbedRequest(("a", "b")))
    assert isinstance(event, Vectors)
    assert len(event.vectors) == 2


# -- what it pretends to be


async def test_it_is_hosted_unless_it_is_local() -> None:
    hosted, local = FakeBackend(), FakeBackend(local=True)
    assert (hosted.zone, local.zone, FakeBackend(local=True, zone="network").zone) == ("internet", "machine", "network")
    async with client(hosted, local, local_only=True) as llm:
        reply = await llm.chat("a secret")
        assert llm.snapshot()[reply.route]["bulkhead"].slots == 1
    assert (hosted.requests, len(local.requests)) == ([], 1)


async def test_its_attributes_are_those_of_a_backend() -> None:
    backend = FakeBackend(say("a"), name="n", model="m", provider="p", origin="o", window=4096, slots=3)
    async with client(backend) as llm:
        served = (await llm.chat("hi")).served_by
        assert await llm.models() == {"n": (ModelInfo("m", window=4096, sources={"window": "backend"}),)}
        assert llm.snapshot()["n"]["bulkhead"].slots == 3
    assert (served.route, served.model, served.provider, served.window) == ("n", "m", "p", 4096)
    assert backend.origin == "o"


async def test_two_fakes_share_a_queue_only_if_they_share_an_origin() -> None:
    apart = AsyncClient(FakeBackend(local=True), FakeBackend(local=True))
    together = AsyncClient(FakeBackend(local=True, origin="box"), FakeBackend(local=True, origin="box"))
    assert len({id(leg.bulkhead) for leg in apart._legs}) == 2
    assert len({id(leg.bulkhead) for leg in together._legs}) == 1


# -- mistakes


@pytest.mark.parametrize(
    "step",
    [
        status(503), reset(), refuse(), malformed(b"x"), error_line("x"), split_utf8("é"), huge_line(9), raw(b"x"),
        redirect("/"), comments(), dribble(0.1), endless_headers(), "hello", ServerError(),
    ],
)  # fmt: skip
def test_a_step_that_needs_a_wire_is_named_with_its_place_and_what_may_stand_there(step: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"step 2, {type(step).__name__}.*FakeBackend.*say\(…\), hang\(\), fail\(…\)"
    ):
        FakeBackend(say("a"), step)
    backend = FakeBackend(say("a"))
    with pytest.raises(ConfigError, match="step 1, "):
        backend.then(step)


@pytest.mark.parametrize("name", ["window", "slots", "dimensions", "connects", "loads"])
def test_a_number_without_meaning_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: -1 is not a (whole |finite )?number"):
        FakeBackend(**{name: -1})


def test_a_zone_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^zone: 'moon' is not one of machine, network, internet"):
        FakeBackend(zone="moon")  # type: ignore[arg-type]


def test_words_refuse_what_they_cannot_mean() -> None:
    with pytest.raises(ConfigError, match="not list"):
        say(["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gap=-1"):
        say("a", gap=-1)
    with pytest.raises(ConfigError, match="not the class ServerError"):
        fail(ServerError)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not ValueError"):
        fail(ValueError("x"))  # type: ignore[arg-type]


# -- the sync client


def test_it_serves_the_sync_client_too() -> None:
    backend = FakeBackend(fail(BadRequest("no")), say("hel", "lo"))
    with Client(backend) as llm:
        with pytest.raises(BadRequest):
            llm.chat("hi")
        with llm.stream("hi") as stream:
            assert list(stream.text()) == ["hel", "lo"]
    assert (len(backend.requests), backend.active) == (2, 0)
