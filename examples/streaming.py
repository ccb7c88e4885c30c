"""An answer while it comes. After its first piece nothing is replayed: who wants a restart asks for it, and is told."""

import asyncio

from resilient_llm import AsyncClient, Ollama, OpenAICompatible, Restarted, Route, StreamInterrupted, TextDelta


async def plain() -> None:
    async with AsyncClient("ollama:llama3.2", "openai:gpt-5-mini") as llm:
        try:
            async with llm.stream("Tell me a story.") as stream:
                async for text in stream.text():
                    print(text, end="", flush=True)
        except StreamInterrupted as error:
            print(f"\n(broke off after {len(error.partial)} characters: {error})")
        else:
            print(f"\n{stream.reply.usage}")  # known after the last event


async def restarting() -> None:
    local = Route(Ollama("llama3.2"), on_break="restart")
    async with AsyncClient(local, OpenAICompatible("gpt-5-mini")) as llm, llm.stream("Tell me a story.") as stream:
        async for event in stream:
            match event:
                case TextDelta(text=text):
                    print(text, end="", flush=True)
                case Restarted(route=route, error=error):
                    print(f"\n(forget that: {type(error).__name__}; it begins anew from {route})")
    print(f"\n{stream.reply}")


async def main() -> None:
    await plain()
    await restarting()


if __name__ == "__main__":
    asyncio.run(main())
