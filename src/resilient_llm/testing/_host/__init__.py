"""Ollama as a state machine: see `server`, where the parts meet."""
