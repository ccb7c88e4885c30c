"""How long a caller will wait, as it says so in the headers of a request: what carries a deadline between processes.

Rules of the file: only what is left crosses, never a point in time, because clocks differ; what cannot be read is not
there (`None`), never zero and never an exception; header names are in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

HEADER = "x-request-timeout-ms"
# Positive whole milliseconds of at most ten digits, as the Connect protocol has them.
_MILLISECONDS = (
    HEADER,
    "connect-timeout-ms",  # connectrpc.com/docs/protocol, Timeout
    "x-envoy-expected-rq-timeout-ms",  # Envoy tells it to who is behind it: its docs, HTTP filters, Router
)
_GRPC = "grpc-timeout"  # grpc.io, PROTOCOL-HTTP2.md: at most eight digits and a unit
_NUMBER = re.compile(r"\d{1,10}", re.ASCII)
_GRPC_VALUE = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}  # seconds; m is not M


def seconds_left(headers: Mapping[str, str]) -> float | None:
    """Seconds that whoever sent these headers will wait; the least, if several say it.

    Args:
        headers: with names in lower case.
    """
    found = [int(value) / 1000 for name in _MILLISECONDS if _NUMBER.fullmatch(value := headers.get(name, "").strip())]
    grpc = _GRPC_VALUE.fullmatch(headers.get(_GRPC, "").strip())
    if grpc:
        found.append(int(grpc[1]) * _UNITS[grpc[2]])
    return min((seconds for seconds in found if seconds > 0), default=None)


def say_left(seconds: float) -> dict[str, str]:
    """The header that tells a server how long we will wait; none if there is no end. Rounded down, at least 1 ms."""
    milliseconds = seconds * 1000
    return {HEADER: str(max(1, int(milliseconds)))} if milliseconds < 1e10 else {}
