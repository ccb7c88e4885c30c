"""Where a request may go: the three zones, and the four ways to say `local_only`.

A zone is a property of the address that we are really connected to, never of a URL's text. `machine` is the
loopback; `network` is whatever is not globally routable; all else, and all that is unknown, is `internet`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from resilient_llm._errors import ConfigError
from resilient_llm._types import ZONES, Zone

LocalOnly = bool | Literal["machine"] | None
_AMBIENT: ContextVar[Zone | None] = ContextVar("resilient_llm.local_only", default=None)


def zone_of(address: str) -> Zone:
    """The zone of an IP address; `internet` if it is none.

    IPv4 addresses inside IPv6 ones (mapped, 6to4) are taken out first, so that `::ffff:8.8.8.8` is not taken for a
    local address.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "internet"
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    if ip.is_loopback or ip.is_unspecified:
        return "machine"
    return "internet" if ip.is_global or ip.is_multicast else "network"


def beyond(zone: Zone, limit: Zone | None) -> bool:
    """`zone` is farther away than `limit` allows; no limit allows everything."""
    return limit is not None and ZONES.index(zone) > ZONES.index(limit)


def limit_of(value: LocalOnly) -> Zone | None:
    """`True` means not the internet, `"machine"` means this machine; `False` and `None` say nothing.

    Raises:
        ConfigError: it is none of these.
    """
    if value is None or value is False:
        return None
    if value is True:
        return "network"
    if value == "machine":
        return "machine"
    raise ConfigError(f"local_only: {value!r} is not one of True, False, 'machine', None")


def strictest(*limits: Zone | None) -> Zone | None:
    """The nearest of the limits. `False` anywhere never loosens what another one says."""
    return min(filter(None, limits), key=ZONES.index, default=None)


def ambient_limit() -> Zone | None:
    """What the surrounding `with local_only():` blocks say."""
    return _AMBIENT.get()


@contextmanager
def local_only(value: Literal[True, "machine"] = True) -> Iterator[None]:
    """Calls inside this block send nothing to a route outside, whatever fails.

    Args:
        value: `True`: not to the internet; `"machine"`: not off this machine. Nested blocks: the strictest holds.

    It crosses tasks, `anyio.to_thread` and `Client`, but not plain threads and executors (see `bind`); for code that
    starts those, the client's own `local_only=` is the safe place.
    """
    token = _AMBIENT.set(strictest(_AMBIENT.get(), limit_of(value)))
    try:
        yield
    finally:
        _AMBIENT.reset(token)
