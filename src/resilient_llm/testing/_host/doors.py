"""What Ollama answers without a model: what is refused, metadata, and the faults that strike at the door.

Rules of the file: pure, on what it is given; the texts are those of server/routes.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.testing._host import lines, listing
from resilient_llm.testing._host.facts import Pulled
from resilient_llm.testing._host.job import Exchange
from resilient_llm.testing._ollama_checks import refusal, refused_option
from resilient_llm.testing._ollama_wire import tagged
from resilient_llm.testing._script import Call

if TYPE_CHECKING:
    from resilient_llm.testing._host.asked import Asked
    from resilient_llm.testing._host.server import OllamaModel

PLAIN: Final = "text/plain"
KINDS: Final[Mapping[str, Any]] = {"/api/chat": "chat", "/api/generate": "generate", "/api/embed": "embed"}
METADATA: Final = {
    ("GET", "/api/tags"),
    ("GET", "/api/ps"),
    ("GET", "/api/version"),
    ("GET", "/"),
    ("POST", "/api/show"),
    ("POST", "/api/create"),
    ("DELETE", "/api/delete"),
}
LOG: Final = ("GET", "/__fake__/log")  # no real one has it: the truth, for a test that runs elsewhere
CLOUD: Final[Mapping[str, tuple[int, Mapping[str, Any]]]] = {
    "unauthorized": (401, {"error": "unauthorized", "signin_url": "https://ollama.com/connect"}),
    "usage limit": (429, {"error": "you've reached your session usage limit, please wait or upgrade to continue"}),
    "overloaded": (503, {"error": "Server overloaded, please retry shortly"}),
}


def wrong_with(call: Call, host: OllamaModel, kind: str) -> tuple[int, str] | None:
    """Status and text of what is wrong with a request before a model looks at it."""
    wrong = refusal(call)
    if wrong is None and host.pulled(str(call.body["model"])) is None:
        text = host.version.missing if kind != "embed" else 'model "{}" not found, try pulling it first'
        return 404, text.format(call.body["model"])
    wrong = wrong or refused_option(call)
    return None if wrong is None else (wrong.code, str(wrong.body))


def cannot(asked: Asked, body: Mapping[str, Any]) -> str | None:
    """What the model is not able to do; the text of a 400."""
    able = asked.pulled.capabilities
    if asked.kind != "embed" and asked.pulled.embeds_only:
        return f'"{asked.named}" does not support {asked.kind}'
    if asked.thinks and "thinking" not in able:
        return f'"{asked.named}" does not support thinking'
    if body.get("tools") and "tools" not in able:
        return f"{lines_name(asked)} does not support tools"
    return None


def lines_name(asked: Asked) -> str:
    """The whole name, under which the registry knows it."""
    return f"registry.ollama.ai/library/{asked.pulled.name}"


def metadata(host: OllamaModel, call: Call, exchange: Exchange) -> None:
    """Everything that is not a request for a model."""
    now, key = host.now, ("GET" if call.method == "HEAD" else call.method, call.path)
    if key == ("GET", "/"):
        lines.raw(exchange, now, 200, b"Ollama is running", "complete", f"{PLAIN}; charset=utf-8")
    elif key == ("GET", "/api/version"):
        lines.respond(exchange, now, 200, {"version": host.version.number}, "complete")
    elif key == ("GET", "/api/tags"):
        listed = [listing.described(one, host.version) for one in host.models]
        lines.respond(exchange, now, 200, {"models": listed}, "complete")
    elif key == LOG:
        told = {"log": [asdict(one) for one in host.log], "loads": [asdict(one) for one in host.loads]}
        lines.respond(exchange, now, 200, told, "complete")
    elif key in _ABOUT_ONE:
        _about_one(host, call, exchange)
    elif call.path in KINDS or any(path == call.path for _, path in METADATA):
        lines.raw(exchange, now, 405, b"405 method not allowed", "refused", PLAIN)
    else:
        lines.raw(exchange, now, 404, b"404 page not found", "refused", PLAIN)


_ABOUT_ONE: Final = {("POST", "/api/show"), ("POST", "/api/create"), ("DELETE", "/api/delete")}


def _about_one(host: OllamaModel, call: Call, exchange: Exchange) -> None:
    now, body = host.now, call.body
    wrong = refusal(call)
    if wrong is not None:
        lines.refuse(exchange, now, wrong.code, str(wrong.body))
        return
    named = str(body["from"] if call.path == "/api/create" and body.get("from") else body["model"])
    pulled = host.pulled(named)
    if pulled is None:
        lines.refuse(exchange, now, 404, f"model '{named}' not found")
    elif call.path == "/api/show":
        lines.respond(exchange, now, 200, listing.shown(pulled), "complete")
    elif call.path == "/api/delete":
        host.remove(pulled)
        lines.raw(exchange, now, 200, b"", "complete")
    else:
        host.add(_made(pulled, body))
        lines.respond(exchange, now, 200, {"status": "success"}, "complete")


def _made(pulled: Pulled, body: Mapping[str, Any]) -> Pulled:
    """A model from another one, with parameters of its own."""
    parameters = body.get("parameters")
    window = parameters.get("num_ctx") if isinstance(parameters, Mapping) else None
    return replace(pulled, name=tagged(str(body["model"])), num_ctx=window or pulled.num_ctx)
