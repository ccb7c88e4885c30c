"""A real Ollama 0.9.3, from wheels, on the CPU, offline, in processes that cannot outlive the test run.

The wheel's build is meant for Intel's GPUs and aborts where there is none, because its GPU plug-in throws while it is
loaded. So it runs from a folder of its own in which that plug-in is a stand-in of three functions that says "0
devices"; the wheel's CPU plug-ins do the work. The stand-in needs a C compiler, once a session.

`ollama-lib` is the program. The file `ollama` beside it starts it through `sh` and would survive a kill of its pid.
The server runs under this file as a small keeper whose stdin is a pipe from the test run: when that closes, also
because the run was killed, the keeper ends the server, which ends its runners.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

INSTALLED = Path(__file__).parents[2] / ".real" / "ollama"  # where `make real` puts the wheels
PLUGIN = "libggml-sycl.so"
STAND_IN = """
int ggml_backend_sycl_get_device_count(void) { return 0; }
void *ggml_backend_sycl_buffer_type(int d) { (void)d; return 0; }
void *ggml_backend_sycl_init(int d) { (void)d; return 0; }
"""
READY = 60  # seconds; it takes 0.1 on a machine with nothing else to do
END = 10  # seconds that it has to end by itself
# Of a model of a few kilobytes one thread is enough; two wait for each other, on a busy machine for most of the time.
PLAIN = {"num_gpu": 0, "num_thread": 1, "temperature": 0}

# ChatML with tools and thinking, in Go's template language: Ollama reads the abilities of a model from its template.
TEMPLATE = """{{- if or .System .Tools }}<|im_start|>system
{{ .System }}
{{- if .Tools }}
<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>
Answer a call with <tool_call>{"name": <function-name>, "arguments": <args-json-object>}</tool_call>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}
{{- if .ToolCalls }}<tool_call>
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end -}}
</tool_call>{{ end }}
{{- if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is, and the process id of the server, for a test that looks for its runners."""

    url: str
    pid: int

    def runners(self) -> list[int]:
        """The process ids of the runners, one for each model in memory."""
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(pid) for found in children for pid in found.read_text().split()]

    def create(self, name: str, how: Mapping[str, Any]) -> None:
        """Makes a model from another one or from uploaded files: `POST /api/create`."""
        _post(f"{self.url}/api/create", json.dumps({"model": name, **how, "stream": False}).encode())


def missing() -> str | None:
    """Why it cannot run here, or `None`."""
    if _library() is None:
        return f"Ollama is not installed in {INSTALLED.parent.name}/: `make real` tries to"
    if shutil.which("cc") is None:
        return "there is no C compiler (cc) to build the stand-in for Ollama's GPU plug-in"
    return None


def _library() -> Path | None:
    return next(INSTALLED.glob("lib/python3*/site-packages/bigdl/cpp/libs/ollama"), None)


@contextmanager
def ollama_server(
    models: Mapping[str, Path], folder: Path, *, parameters: Mapping[str, Any] | None = None, **environment: Any
) -> Iterator[Server]:
    """Runs Ollama with these models until the block ends.

    Args:
        models: GGUFs by the name that they get.
        folder: an empty one that it may fill.
        parameters: of every model, as in a Modelfile, beside `PLAIN`.
        **environment: Ollama's variables, such as `OLLAMA_NUM_PARALLEL=1`.

    Raises:
        RuntimeError: it did not start.
    """
    program = _prepare(folder / "run")  # not "lib": Ollama would look for lib/ollama in it
    host = f"127.0.0.1:{_free_port()}"
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LD_LIBRARY_PATH": f"{program.parent}:{INSTALLED / 'lib'}",
        "OLLAMA_HOST": host,
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_NOPRUNE": "1",
        "GIN_MODE": "release",
        **{name: str(value) for name, value in environment.items()},
    }
    with subprocess.Popen(
        [sys.executable, __file__, str(program), "serve"],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            server = Server(f"http://{host}", int(keeper.stdout.readline()))
            _await_ready(server.url, keeper)
            for name, path in models.items():
                _create(server, name, path, PLAIN | (parameters or {}))
            yield server
        finally:
            keeper.stdin.close()
            try:
                keeper.wait(2 * END)
            except subprocess.TimeoutExpired:
                keeper.kill()


def _prepare(folder: Path) -> Path:
    """A folder with the wheel's library in which the GPU plug-in is replaced; the program in it."""
    library = _library()
    assert library is not None, missing()
    folder.mkdir(parents=True)
    for source in library.iterdir():
        if source.name not in (PLUGIN, "ollama-lib", "ollama"):
            (folder / source.name).symlink_to(source)
    program = Path(shutil.copy(library / "ollama-lib", folder))  # a copy: it looks for its plug-ins beside itself
    program.chmod(0o755)
    code = folder / "stand_in.c"
    code.write_text(STAND_IN)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / PLUGIN, code], check=True)
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _await_ready(url: str, keeper: subprocess.Popen[str]) -> None:
    end = time.monotonic() + READY
    while True:
        try:
            urlopen(f"{url}/api/version", timeout=2).close()
        except OSError:
            if keeper.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Ollama did not start, exit code {keeper.poll()}") from None
            time.sleep(0.02)  # there is nothing to wait on: the port answers or it does not
        else:
            return


def _create(server: Server, name: str, path: Path, parameters: Mapping[str, Any]) -> None:
    """What `ollama create` does: uploads the file, then names it."""
    blob = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    _post(f"{server.url}/api/blobs/{digest}", blob)
    server.create(name, {"files": {path.name: digest}, "template": TEMPLATE, "parameters": parameters})


def _post(url: str, body: bytes) -> None:
    with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=READY) as answer:
        answer.read()


def _keep(command: list[str]) -> None:
    """Runs the server until stdin closes; one line on stdout gives its process id."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        print(server.pid, flush=True)  # noqa: T201
        sys.stdin.buffer.read()
        server.terminate()  # it ends its runners first
        try:
            server.wait(END)
        except subprocess.TimeoutExpired:
            server.kill()


if __name__ == "__main__":
    _keep(sys.argv[1:])
