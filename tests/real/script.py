"""What the tiny models say, known without the packages that write them."""

from __future__ import annotations

from typing import Literal

Kind = Literal["scripted", "endless", "random", "tools", "toolcall", "think", "broken"]

SCRIPT = (  # no token comes twice, so that "token -> successor" is a function
    "Hello! This is the scripted reply of a tiny test model:"
    " it counts one two three four five six seven eight nine ten café-語🙂, goodbye."
)
THOUGHT, ANSWER = SCRIPT[: SCRIPT.index(" five")], SCRIPT[SCRIPT.index(" five") :]
CONTEXT = 2048  # tokens; what the models claim to be trained for
CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'  # a token of its own
