"""Three ways to say until when: for a call, for a block of calls, and the scope that is there already."""

import asyncio

import anyio

from resilient_llm import AsyncClient, DeadlineExceeded, deadline


async def main() -> None:
    async with AsyncClient("ollama:llama3.2", "openai:gpt-5-mini") as llm:
        try:
            reply = await llm.chat("Why is the sky blue?", timeout=6)
            print("in time:", reply)

            with deadline(20):  # one deadline for both calls, and for whatever they call
                notes = await llm.chat("Give me three facts about whales.")
                answer = await llm.chat(f"Make a poem of these facts: {notes.text}")
            print("in time:", answer)
        except DeadlineExceeded as error:  # also a TimeoutError
            print(f"late while in {error.phase}; {len(error.partial)} characters had come")

        with anyio.move_on_after(20):  # a deadline of your own is respected, not fought: routes are planned with it
            print("in time:", await llm.chat("And why is it red in the evening?"))


if __name__ == "__main__":
    asyncio.run(main())
