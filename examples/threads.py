"""Without `await`: `Client` has the same arguments, replies and errors, and may be used from many threads at once."""

from concurrent.futures import ThreadPoolExecutor

from resilient_llm import Client, bind, deadline

QUESTIONS = ["Why is the sky blue?", "Why is the sea salt?", "Why is snow white?"]


def main() -> None:
    with Client("ollama:llama3.2", "openai:gpt-5-mini") as llm:
        with llm.stream("Tell me a story.") as stream:
            for text in stream.text():
                print(text, end="", flush=True)
        print()

        def ask(question: str) -> str:
            return llm.chat(question).text

        with deadline(30), ThreadPoolExecutor(max_workers=3) as pool:
            # A deadline does not cross into an executor's threads by itself; `bind` carries it there.
            for question, answer in zip(QUESTIONS, pool.map(bind(ask), QUESTIONS), strict=True):
                print(f"{question} {answer}")


if __name__ == "__main__":
    main()
