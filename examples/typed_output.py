"""An answer of a type of yours: asked for as a JSON schema, checked by pydantic, known to your type checker."""

import asyncio

from pydantic import BaseModel, Field

from resilient_llm import AsyncClient, OutputInvalid


class City(BaseModel):
    name: str
    country: str
    population: int = Field(ge=0)


async def main() -> None:
    async with AsyncClient("ollama:llama3.2", "openai:gpt-5-mini") as llm:
        try:
            reply = await llm.parse("In which city is the Eiffel tower?", City)
        except OutputInvalid as error:  # what was said instead is in error.reply
            print(error)
        else:
            city = reply.output  # a City
            print(f"{city.name}, {city.country}: {city.population:,} people, says {reply.route}")


if __name__ == "__main__":
    asyncio.run(main())
