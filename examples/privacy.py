"""What may not leave stays: a `local_only` call sends nothing to the internet, even if that means that it fails."""

import asyncio

from resilient_llm import AsyncClient, LLMError, Message, local_only

RECORD = "Patient 4711, 53 years, complains of headaches."


async def main() -> None:
    async with AsyncClient("ollama:llama3.2", "openai:gpt-5-mini") as llm:
        try:
            # Four ways to say it; the strictest holds, and nothing loosens it.
            print(await llm.chat(f"Summarise: {RECORD}", local_only=True))  # this call
            with local_only("machine"):  # all calls in this block; not even to the local network
                print(await llm.chat(f"Summarise: {RECORD}"))
            private = Message("user", f"Summarise: {RECORD}", private=True)  # every call that carries this message
            print(await llm.chat([private]))
        except LLMError as error:
            print(f"failed rather than told anyone: {type(error).__name__}")

    async with AsyncClient("openai:gpt-5-mini", local_only=True) as llm:  # all calls of this client
        try:
            await llm.chat(f"Summarise: {RECORD}")
        except LLMError as error:
            print(error)


if __name__ == "__main__":
    asyncio.run(main())
