"""Detectors, scored against the truth log of `OllamaModel`: all in virtual time, through the public client."""
