"""What importing costs: CPU time of fresh interpreters, in turns, less that of one that imports nothing.

"Its dependencies" are the modules that `import resilient_llm` really loads and that are not its own, in the order in
which they come: what remains is our own code. Since a library may put its work off until a client is made, that is
measured too. Bytecode is compiled beforehand, into a folder of this run, whatever the environment says about it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec

from benchmarks._measure import Costs

OURS, DEPENDENCIES = "resilient_llm", "its dependencies"
CLIENTS = {
    "resilient_llm, a client": "import resilient_llm as r; r.AsyncClient(r.OpenAICompatible('m', api_key='key'))",
    "openai, a client": "import openai; openai.AsyncOpenAI(api_key='key')",
    "ollama, a client": "import ollama; ollama.AsyncClient()",
}
PEERS = ("httpx2", "openai", "ollama", "litellm", "pydantic_ai")
_LIST = "import sys, resilient_llm, json; print(json.dumps(list(sys.modules)))"


def _dependencies() -> list[str]:
    """The modules that come with us and are not ours, in the order in which they come."""
    listed = subprocess.run([sys.executable, "-c", _LIST], capture_output=True, text=True, check=True).stdout
    own = ("resilient_llm", "__main__", "__mp_main__")
    return [name for name in json.loads(listed) if name.partition(".")[0] not in own and _importable(name)]


def _importable(name: str) -> bool:
    """Not what an editable install puts there."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _cpu_seconds(code: str, environment: Mapping[str, str]) -> float:
    child = subprocess.Popen([sys.executable, "-c", code], env=environment)
    _, status, spent = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, code
    return spent.ru_utime + spent.ru_stime


def measure(rounds: int) -> Costs:
    """CPU seconds of each import."""
    code = {
        OURS: "import resilient_llm",
        DEPENDENCIES: f"for name in {_dependencies()}: __import__(name)",
        **{name: f"import {name}" for name in PEERS if find_spec(name) is not None},
        **{name: source for name, source in CLIENTS.items() if find_spec(name.partition(",")[0]) is not None},
    }
    spent: dict[str, list[float]] = {name: [] for name in code}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(rounds + 1):
            nothing = _cpu_seconds("pass", environment)
            for name, source in code.items():
                took = _cpu_seconds(source, environment) - nothing
                if number:  # the first round compiles
                    spent[name].append(took)
    return Costs(spent)
