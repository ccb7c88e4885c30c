"""The main job: two servers, one list of routes, and five things that go wrong every day. Run it with `make demo`.

Each scene is a function: what happens to the local server, the call, and what is claimed of its outcome. The exit code
is 0 only if every claim held.
"""

from __future__ import annotations

import asyncio
import sys
import time

from examples import _show as show
from examples._stage import HOSTED_SAYS, WINDOW, Stage, stage
from resilient_llm import AsyncClient, DeadlineExceeded, LLMError, StreamInterrupted
from resilient_llm.errors import FirstTokenTimeout

QUESTION = "Why is the sky blue? Answer in three sentences."
MINUTES = "Summarise these minutes. " + "The council met and decided to meet again. " * 400
LENGTH = 64  # tokens of an answer: a real model on a slow machine should be done in a few seconds
DEADLINE = 1.5  # seconds
SLACK = 0.1  # seconds that a busy machine may add; the promise is 0.05


async def an_answer_streams_in(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """An answer streams in."""
    pieces = 0
    async with llm.stream(QUESTION, max_tokens=LENGTH) as stream:
        async for text in stream.text():
            show.piece(text, first=pieces == 0)
            pieces += 1
    show.line()
    reply = stream.reply
    show.account(reply.attempts, reply.timings.total)
    claims.check(f"the local server answers, in pieces: {pieces}", reply.route == "local" and pieces > 5)


async def the_server_is_killed(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """The local server is killed in mid-answer."""
    on.relay.cut_after(1200)  # bytes: some ten tokens
    reply = await llm.chat(QUESTION, max_tokens=LENGTH)
    show.answer(reply)
    show.account(reply.attempts, reply.timings.total)
    broke = reply.attempts[0].error
    begun = len(broke.partial) if isinstance(broke, StreamInterrupted) else 0
    claims.check(f"the local server dies after {begun} characters of its answer", begun > 0, repr(broke))
    claims.check("the hosted one gives the whole answer", reply.route == "hosted" and reply.text == HOSTED_SAYS, reply)


async def the_server_hangs(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """The local server accepts the request and says nothing."""
    on.relay.block()
    reply = await llm.chat(QUESTION, max_tokens=LENGTH)
    show.answer(reply)
    show.account(reply.attempts, reply.timings.total)
    hung = reply.attempts[0]
    cut = isinstance(hung.error, FirstTokenTimeout) and 2 <= hung.total < 2 + SLACK
    claims.check(f"the hang is cut at the first-token limit of 2 s: after {hung.total:.3f} s", cut, repr(hung.error))
    claims.check("the hosted one answers", reply.route == "hosted" and reply.text == HOSTED_SAYS, reply)


async def the_prompt_is_too_long(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """A prompt is too long for the local model."""
    before = on.relay.sent
    reply = await llm.chat(MINUTES, max_tokens=LENGTH)
    show.answer(reply)
    show.account(reply.attempts, reply.timings.total)
    tokens = reply.usage.input_tokens or 0
    claims.check(f"the whole prompt goes to the larger window: {tokens:,} tokens", tokens > WINDOW < len(MINUTES) / 4)
    claims.check(f"nothing of it to the local one of {WINDOW:,}, which would cut it silently", on.relay.sent == before)


async def the_deadline_is_kept(on: Stage, llm: AsyncClient, claims: show.Claims) -> None:
    """The local server dribbles for ever, and the call has a deadline."""
    on.relay.slow(600)  # bytes a second: some five tokens, so that no timeout between two reads ever fires
    began = time.monotonic()
    async with AsyncClient(on.local) as alone:
        try:
            reply = await alone.chat(QUESTION, max_tokens=LENGTH, timeout=DEADLINE)
        except DeadlineExceeded as error:
            took = time.monotonic() - began
            show.piece(f"DeadlineExceeded: {error}\n", first=True)
            show.account(error.attempts, took)
            kept = DEADLINE <= took < DEADLINE + SLACK
            claims.check(f"{DEADLINE} s were given, {took:.3f} s were taken", kept)
            claims.check(f"what had come is kept: {len(error.partial)} characters", error.partial)
        else:
            claims.check("the deadline ends the call", False, reply)


SCENES = (an_answer_streams_in, the_server_is_killed, the_server_hangs, the_prompt_is_too_long, the_deadline_is_kept)


async def play() -> int:
    claims = show.Claims()
    async with stage() as on, AsyncClient(on.local, on.hosted) as llm:
        for row in on.cast:
            show.line(row)
        await llm.warm_up()
        for number, scene in enumerate(SCENES, 1):
            show.heading(number, (scene.__doc__ or "").rstrip("."))
            await on.relay.mend()
            try:
                await scene(on, llm, claims)
            except LLMError as error:
                claims.check("the call succeeds", False, repr(error))
    show.line()
    if claims.broken:
        show.line(f"{claims.broken} of the claims did not hold.")
    else:
        show.line("All of it happened as said.")
    return 1 if claims.broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(play()))
