"""The same two routes in full, each with its own limits, and what can be caught when neither answers."""

import asyncio

from resilient_llm import (
    AllRoutesFailed,
    AsyncClient,
    CircuitBreaker,
    LLMError,
    Ollama,
    OpenAICompatible,
    Retry,
    Route,
    Timeouts,
)

ROUTES = (
    Route(
        Ollama("llama3.2", num_ctx=8192),
        timeouts=Timeouts(load=90, first_token=8),  # the 8 s count from when the model is in memory
        retry=Retry(attempts=1),  # one try on this box, then elsewhere
    ),
    Route(
        OpenAICompatible("gpt-5-mini", context_window=400_000),
        breaker=CircuitBreaker(failures=5, cooldown=30),
    ),
)


async def main() -> None:
    async with AsyncClient(*ROUTES) as llm:
        print(llm.explain())  # what is in force, with every number
        try:
            reply = await llm.chat("Why is the sky blue?")
        except AllRoutesFailed as error:
            for failure in error.failures:  # the last word of each route, in order
                print(repr(failure))
        except LLMError as error:  # a mistake of the caller's, say, which falls back nowhere: it would fail there too
            print(repr(error))
        else:
            print(f"{reply.route} answered: {reply.text}")


if __name__ == "__main__":
    asyncio.run(main())
