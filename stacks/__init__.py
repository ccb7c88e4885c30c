"""Real observability stacks, on loopback, that are given traces and metrics and then asked what they got.

`make stacks` installs and starts them, one after the other. It is no part of `make test`: they take a gigabyte and
minutes. What cannot be installed where it runs is skipped, and said.
"""
