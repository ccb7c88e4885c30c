"""A function that the model may ask for: its signature becomes the schema, its docstring the description."""

import asyncio

from resilient_llm import AsyncClient, Message


def get_weather(city: str, days: int = 1) -> str:
    """The weather forecast for a city."""
    return f"{days} days of sun in {city}"


TOOLS = {"get_weather": get_weather}


async def main() -> None:
    async with AsyncClient("ollama:llama3.2", "openai:gpt-5-mini") as llm:
        history = [Message("user", "What will the weather be in Paris?")]
        # The same conversation stays on one route while that is healthy.
        reply = await llm.chat(history, tools=list(TOOLS.values()), conversation="weather")
        history.append(reply.message)
        for call in reply.tool_calls:  # whole: the arguments are parsed, never a piece of JSON
            print(f"the model asks for {call.name}({call.arguments})")
            result = TOOLS[call.name](**call.arguments)
            history.append(Message("tool", result, tool_call_id=call.id, name=call.name))
        if reply.tool_calls:
            reply = await llm.chat(history, tools=list(TOOLS.values()), conversation="weather")
        print(reply.text)


if __name__ == "__main__":
    asyncio.run(main())
