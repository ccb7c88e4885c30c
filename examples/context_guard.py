"""A prompt is never cut silently: it fits, or is trimmed by your rule, or goes to a larger window, or is refused."""

import asyncio

from resilient_llm import (
    AsyncClient,
    ContextGuard,
    ContextOverflow,
    Message,
    Ollama,
    OpenAICompatible,
    Route,
    drop_oldest,
)

SMALL = Ollama("llama3.2", num_ctx=2048)
HISTORY = [Message("system", "You are terse.")]
for number in range(200):
    HISTORY += [Message("user", f"Remember that fact {number} is true."), Message("assistant", "Noted.")]
HISTORY += [Message("user", "Which fact is the last?")]


async def main() -> None:
    async with AsyncClient(SMALL) as refusing:
        try:
            await refusing.chat(HISTORY)
        except ContextOverflow as error:  # nothing was sent
            print(f"refused: {error.tokens} tokens, and room for {error.limit}")

    async with AsyncClient(Route(SMALL, guard=ContextGuard(reserve=512, overflow=drop_oldest))) as trimming:
        reply = await trimming.chat(HISTORY)
        print(f"trimmed to {reply.usage.input_tokens} tokens: {reply.text}")

    async with AsyncClient(SMALL, OpenAICompatible("gpt-5-mini", context_window=400_000)) as growing:
        reply = await growing.chat(HISTORY)
        print(f"all {reply.usage.input_tokens} tokens went to {reply.route}: {reply.text}")


if __name__ == "__main__":
    asyncio.run(main())
