"""A real llama.cpp server, from the wheel `xllamacpp`, in a process that cannot outlive the test run.

The child ends when its stdin closes, and the kernel closes that also when the test run is killed. Run as a program,
this file is that child.
"""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "hostnames": ["127.0.0.1"],
    "port": 0,  # a free one
    "n_ctx": 4096,  # shared out evenly over the slots
    "n_parallel": 2,
    "cpuparams.n_threads": 1,  # more is slower here: on two busy cores, 2 threads took 20 times as long
    "cpuparams_batch.n_threads": 1,
    "n_threads_http": 8,
    "cache_ram_mib": 64,
    "warmup": False,
    "ui": False,
    "offline": True,
}
READY = 60  # seconds; it takes 0.1 on a machine with nothing else to do
END = 10  # seconds that it has to end by itself


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is, and who it is, for a test that wants to kill it."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def llama_server(model: Path, **settings: Any) -> Iterator[Server]:
    """Runs the server until the block ends.

    Args:
        model: a GGUF.
        **settings: any attribute of `xllamacpp.CommonParams`; `__` reaches inside (`cpuparams__n_threads=2`), an enum
            is given by its name.

    Raises:
        RuntimeError: it did not start.
    """
    chosen = json.dumps({name.replace("__", "."): value for name, value in settings.items()})
    with subprocess.Popen(
        [sys.executable, __file__, str(model), chosen],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"llama.cpp did not start, exit code {process.wait(READY)}")
            yield Server(json.loads(line)["url"], process)
        finally:
            process.stdin.close()
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()


def _serve(model: str, settings: dict[str, Any]) -> None:
    """Serves until stdin closes; one line on stdout says that it listens, and where."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    for dotted, value in settings.items():
        *path, name = dotted.split(".")
        target = params
        for part in path:
            target = getattr(target, part)
        setattr(target, name, _as(type(getattr(target, name)), value))
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address}), flush=True)  # noqa: T201
    sys.stdin.buffer.read()


def _as(kind: type[Any], value: Any) -> Any:
    """JSON knows no sets and no enums."""
    if issubclass(kind, set):
        return set(value)
    return kind[value].value if issubclass(kind, enum.Enum) else value


if __name__ == "__main__":
    _serve(sys.argv[1], DEFAULTS | json.loads(sys.argv[2]))
