"""Fakes for tests: a backend in process, and servers on real sockets that take every fault by script.

    local = FakeBackend(fail(ConnectFailed()), hang(), say("hel", "lo"))      # no network, no sleep
    with FakeOllama(stall("hel")) as server: ...                              # real sockets on the loopback
    host = OllamaModel(Pulled("llama3.2", num_ctx=4096))                      # a whole Ollama, in virtual time

One vocabulary serves all of them; `docs/testing.md` has it in one table. The servers need h11, which
`pip install 'resilient-llm[testing]'` brings; the rest needs nothing.
"""

from resilient_llm.testing._backend import FakeBackend
from resilient_llm.testing._faults import (
    comments,
    cut,
    dribble,
    endless_headers,
    ends,
    error_line,
    fail,
    hang,
    huge_line,
    malformed,
    raw,
    redirect,
    refuse,
    reset,
    say,
    slow_close,
    split_utf8,
    stall,
    status,
)
from resilient_llm.testing._host.facts import Machine, Pulled, Settings
from resilient_llm.testing._host.faults import Fault
from resilient_llm.testing._host.server import OllamaModel
from resilient_llm.testing._host.truth import LoadTruth, Truth
from resilient_llm.testing._ollama import FakeOllama
from resilient_llm.testing._openai import FakeOpenAI
from resilient_llm.testing._script import Action, Answer, Recorded, Step
from resilient_llm.testing._server import FakeServer

__all__ = [
    "Action",
    "Answer",
    "FakeBackend",
    "FakeOllama",
    "FakeOpenAI",
    "FakeServer",
    "Fault",
    "LoadTruth",
    "Machine",
    "OllamaModel",
    "Pulled",
    "Recorded",
    "Settings",
    "Step",
    "Truth",
    "comments",
    "cut",
    "dribble",
    "endless_headers",
    "ends",
    "error_line",
    "fail",
    "hang",
    "huge_line",
    "malformed",
    "raw",
    "redirect",
    "refuse",
    "reset",
    "say",
    "slow_close",
    "split_utf8",
    "stall",
    "status",
]
