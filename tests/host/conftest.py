"""The tests of `OllamaModel`: no sockets and no waiting; where a client takes part, both loops in virtual time."""
