"""The main job: a local server, a hosted one, and what happens on an ordinary bad day. Run it with `make demo`.

Each scene is a function: what is done to the local server, the call, and what is claimed of its outcome. The exit code
is 0 only if every claim held.
"""

from __future__ import annotations

import asyncio
import sys
import time

from examples import _show as show
from examples._stage import FIRST_TOKEN, HOSTED_SAYS, WINDOW, Stage, stage
from resilient_llm import AsyncClient, DeadlineExceeded, LLMError, StreamInterrupted
from resilient_llm.errors import FirstTokenTimeout

QUESTION = "Why is the sky blue? Answer in three sentences."
MINUTES = "Summarise these minutes. " + "The council met and decided to meet again. " * 400
LENGTH = 64  # tokens of an answer, so that a real model on a slow machine is done in a few seconds
DEADLINE = 1.5  # seconds
SLACK = 0.25  # seconds that a busy machine may add to a time that is kept


async def an_answer_streams_in(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """An answer streams in."""
    await llm.warm_up()
    async with llm.stream(QUESTION, max_tokens=LENGTH) as stream:
        pieces = await show.as_it_comes(stream)
    reply = stream.reply
    show.account(reply.attempts, reply.timings.total)
    claims.check(f"the local server answers, in {pieces} pieces", reply.route == "local" and pieces > 5, reply)


async def the_server_is_killed(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """The local server is killed in mid-answer."""
    on.relay.cut_after(1200)  # bytes: some ten tokens
    reply = await llm.chat(QUESTION, max_tokens=LENGTH)
    show.line(reply.text)
    show.account(reply.attempts, reply.timings.total)
    broke = reply.attempts[0].error
    claims.check("the local server dies after its answer has begun", isinstance(broke, StreamInterrupted), repr(broke))
    claims.check("the hosted one gives the whole answer", reply.text == HOSTED_SAYS, reply)


async def the_server_hangs(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """The local server takes the request and says nothing."""
    on.relay.block()
    reply = await llm.chat(QUESTION, max_tokens=LENGTH)
    show.line(reply.text)
    show.account(reply.attempts, reply.timings.total)
    hung = reply.attempts[0]
    silent = hung.total - (hung.load or 0)  # it had just died: it was asked first, for 0.5 s, what it has in memory
    cut = isinstance(hung.error, FirstTokenTimeout) and FIRST_TOKEN <= silent < FIRST_TOKEN + SLACK
    claims.check(f"the first-token limit of {FIRST_TOKEN} s ends it, after {silent:.3f} s", cut, repr(hung.error))
    claims.check("the hosted one answers", reply.text == HOSTED_SAYS, reply)


async def the_prompt_is_too_long(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """The prompt is too long for the local model."""
    before = on.relay.sent
    reply = await llm.chat(MINUTES, max_tokens=LENGTH)
    show.line(reply.text)
    show.account(reply.attempts, reply.timings.total)
    asked = [chat.json["messages"][-1]["content"] for chat in on.hosted_server.chats]
    claims.check(f"all of its {len(MINUTES):,} characters go to the larger window", MINUTES in asked, reply)
    sent = on.relay.sent - before
    claims.check(f"none to the window of {WINDOW:,} tokens, where they would be cut without a word", sent == 0, sent)


async def the_deadline_is_kept(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """The local server dribbles, there is no other, and the call has a deadline."""
    on.relay.slow(600)  # bytes a second: some five tokens, so that no limit on a single read ever ends it
    began = time.monotonic()
    async with AsyncClient(on.local) as alone:
        try:
            reply = await alone.chat(QUESTION, max_tokens=LENGTH, timeout=DEADLINE)
        except DeadlineExceeded as error:
            took = time.monotonic() - began
            show.line(repr(error))
            show.account(error.attempts, took)
            kept = DEADLINE <= took < DEADLINE + SLACK and error.phase == "stream"
            claims.check(f"the deadline of {DEADLINE} s ends it in mid-answer, after {took:.3f} s", kept)
        else:
            claims.check("the deadline ends it", False, reply)


SCENES = (an_answer_streams_in, the_server_is_killed, the_server_hangs, the_prompt_is_too_long, the_deadline_is_kept)


async def play() -> int:
    claims = show.Claims()
    async with stage() as on, AsyncClient(on.local, on.hosted) as llm:
        show.line(on.cast)
        for number, scene in enumerate(SCENES, 1):
            show.heading(number, str(scene.__doc__).rstrip("."))
            await on.relay.mend()
            try:
                await scene(on, llm, claims)
            except LLMError as error:
                claims.check("no error", False, repr(error))
    print("\nAll of it happened as said." if not claims.broken else f"\n{claims.broken} of these claims did not hold.")
    return 1 if claims.broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(play()))
