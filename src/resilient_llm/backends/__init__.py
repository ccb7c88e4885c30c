"""What can answer: Ollama, OpenAI-compatible servers, and whatever has the one verb of `base.Backend`."""
