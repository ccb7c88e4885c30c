"""The LiteLLM proxy, from the package index, in front of a real llama.cpp server: one more real dialect.

It has an environment of its own (`make peers` makes it), because it brings a hundred packages. It listens on loopback,
keeps nothing, and ends with the block that started it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

BIN = Path(__file__).parents[2] / ".real" / "litellm" / "bin" / "litellm"
KEY = "sk-proxy-tests-only"
READY = 300  # seconds; it imports for ten on a machine with nothing else to do, and for two minutes on a busy one
END = 10
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches its prices
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MASTER_KEY": KEY,
    "NO_PROXY": "*",
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is; its `url` ends in `/v1`."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def litellm_proxy(upstreams: Mapping[str, str], key: str, folder: Path) -> Iterator[Proxy]:
    """Runs the proxy until the block ends.

    Args:
        upstreams: the models that it offers, and the base URL of the server that has each.
        key: theirs.
        folder: for its configuration and its log.

    Raises:
        RuntimeError: it did not start.
    """
    served = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": url, "api_key": key}}
        for name, url in upstreams.items()
    ]
    config = folder / "config.yaml"
    config.write_text(json.dumps({"model_list": served, "litellm_settings": {"num_retries": 0}}))  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [str(BIN), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, env={**os.environ, **OFFLINE}, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}/health/liveliness", process, folder / "log")
            yield Proxy(f"http://127.0.0.1:{port}/v1", process)
        finally:
            process.terminate()
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx2.get(url, timeout=2).is_success:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the LiteLLM proxy did not start: {log.read_text()[-2000:]}")
