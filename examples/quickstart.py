"""Ask the local model; where it cannot answer, the hosted one does. The list is the fallback policy.

Needs a key in OPENAI_API_KEY, and better also an Ollama with llama3.2 (`ollama pull llama3.2`).
"""

import asyncio

from resilient_llm import AsyncClient


async def main() -> None:
    async with AsyncClient("ollama:llama3.2", "openai:gpt-5-mini") as llm:
        reply = await llm.chat("Why is the sky blue?")
    print(reply.text)
    print(reply)  # who gave it, after which attempts, in what time; never the text itself


if __name__ == "__main__":
    asyncio.run(main())
