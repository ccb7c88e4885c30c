"""Where requests go, and the headers that each of them carries: checked once, when a backend is made.

Rules of the file: no header is ever shown, a key stands in one; nothing of a URL is shown that may hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from resilient_llm._errors import ConfigError

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, a token
_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]+(%\w+)?", re.ASCII)  # a name, or an IPv6 address
_SECRET = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)  # names of headers
_FRAMING = ("content-length", "transfer-encoding", "connection")  # ours: a wrong one smuggles a second request


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """Where requests go and what stands at their head. Its `repr` shows no header."""

    scheme: str
    host: str
    port: int
    prefix: str
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def origin(self) -> str:
        """`scheme://host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be told again, should a server echo it: keys, and what other headers hold that is like one."""
        values = [value.decode().rpartition(" ")[2] for name, value in self.headers if _SECRET.search(name.decode())]
        return tuple(value for value in values if len(value) >= 4)

    @property
    def url(self) -> str:
        """The origin and the path that all requests begin with."""
        return self.origin + self.prefix

    def __repr__(self) -> str:
        return f"Endpoint({self.url})"


def checked_names(model: object, name: object, example: str) -> None:
    """Checks what a backend's model is called there, and here.

    Raises:
        ConfigError: the model has no name, or a name is no string.
    """
    if not isinstance(model, str) or not model.strip() or not model.isprintable():
        raise ConfigError(f"model: give the name of a model, such as {example!r}")
    if not isinstance(name, str | None):
        raise ConfigError(f"name: a string is needed, not {type(name).__name__}")


def endpoint(base_url: str, headers: Mapping[str, str], key: str | None) -> Endpoint:
    """Checks an address and the headers to be sent with each request.

    Raises:
        ConfigError: the URL is none, or a header has characters that HTTP does not allow.
    """
    if not isinstance(base_url, str) or not base_url.isprintable() or " " in base_url:
        # urlsplit would leave them out without a word, and the key would go to another host than the one that is read
        raise ConfigError(f"base_url: {_without_secrets(base_url)} holds a space or a control character")
    try:
        parts = urlsplit(base_url)
        port = parts.port or _PORTS[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except (ValueError, KeyError, AttributeError, UnicodeError):
        raise ConfigError(f"base_url: {_without_secrets(base_url)} is not an http:// or https:// address") from None
    if not parts.path.isascii():
        raise ConfigError(f"base_url: {_without_secrets(base_url)} has a path that is not ASCII")
    if not _HOST.fullmatch(host) or parts.query or parts.fragment or parts.username:
        raise ConfigError(f"base_url: {_without_secrets(base_url)} needs a host, and no user, query or fragment")
    usual = port == _PORTS[parts.scheme]
    lines = {
        "Host": host if usual else f"{host}:{port}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": "resilient-llm",
    }
    if key is not None:
        if not isinstance(key, str) or not key.isascii() or not key.isprintable():
            raise ConfigError("api_key: it must be printable ASCII, without line ends")
        lines["Authorization"] = f"Bearer {key}"
    if not isinstance(headers, Mapping):
        raise ConfigError(f"headers: a mapping is needed, not {type(headers).__name__}")
    raw = {str(name).lower(): _header(name, value) for name, value in (*lines.items(), *headers.items())}
    return Endpoint(parts.scheme, host, port, parts.path.rstrip("/"), tuple(raw.values()))


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() in _FRAMING:
        raise ConfigError(f"headers: {name!r:.40} is not the name of a header that may be given")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ConfigError(f"headers: the value of {name[:40]!r} must be printable ASCII, without line ends")
    return name.encode("ascii"), value.strip().encode("ascii")


def _without_secrets(url: object) -> str:
    return repr((str(url).split() or [""])[0].split("?")[0].split("@")[-1][:80])
