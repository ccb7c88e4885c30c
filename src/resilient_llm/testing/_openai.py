"""A fake of OpenAI's API, as hosted and compatible servers speak it.

Rules of the file: events in OpenAI's order (role, reasoning, text, tool calls in pieces, finish, usage if asked,
`[DONE]`), errors in OpenAI's envelope; a request that is refused as wrong takes no step of the script.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from resilient_llm._errors import ConfigError
from resilient_llm.testing._openai_rules import RULES, envelope_of, refusal_of, rules_of
from resilient_llm.testing._openai_wire import OpenAIAnswer, envelope
from resilient_llm.testing._script import Call, Plan, Step
from resilient_llm.testing._server import FakeServer
from resilient_llm.testing._steps import Status


class FakeOpenAI(FakeServer):
    """An OpenAI-compatible server for tests, on a port of its own. Its `url` ends in `/v1`.

    Without a script it repeats the prompt, word by word. It counts a quarter of the characters of a prompt as its
    tokens, rounded up, and each text of a script as one token of the answer.

    Args:
        script: the steps that answer chats and embeddings in turn; the last one repeats. Metadata and requests that
            are refused as wrong take none.
        models: the models it has; `None` answers to any name.
        delay: seconds before every scripted answer.
        window: tokens that a prompt may have.
        api_key: the key that requests must carry; `None` asks for none.
        dimensions: of a vector.
        strict: the server whose refusals it has, such as `"mistral"` or `"deepseek"`. Default: it takes everything.

    Raises:
        ConfigError: nothing is known of such a server.
        ImportError: h11 is missing, which `pip install 'resilient-llm[testing]'` brings.
    """

    def __init__(
        self,
        *script: Step,
        models: Sequence[str] | None = None,
        delay: float = 0.0,
        window: int = 128_000,
        api_key: str | None = None,
        dimensions: int = 8,
        strict: str | None = None,
    ) -> None:
        super().__init__(script, OpenAI(models, window, api_key, dimensions, strict), base="/v1", delay=delay)


class OpenAI:
    """Decides what a request gets."""

    def __init__(
        self, models: Sequence[str] | None, window: int, api_key: str | None, dimensions: int, strict: str | None = None
    ) -> None:
        if strict is not None and rules_of(strict, "") is None:
            known = sorted({one for servers, _, _ in RULES for one in servers.split("|")})
            raise ConfigError(f"strict: {strict!r:.40} is not one of {', '.join(known)}")
        self._strict = strict
        self._models = None if models is None else tuple(models)
        self._window = window
        self._key = api_key
        self._dimensions = dimensions
        self._count = 0

    def started(self) -> None:
        """It has nothing in memory that a new process would lose."""

    def plan(self, call: Call) -> Plan:
        """The answer to a request."""
        self._count += 1
        answer = OpenAIAnswer(call, self._count, self._dimensions)
        refusal = self._unauthorised(call)
        handler = _ROUTES.get((call.method, call.path))
        if refusal is None and handler is not None:
            return handler(self, call, answer)
        if refusal is not None:
            return Plan("other", answer, Status(401, refusal))
        return Plan("other", answer, Status(404, envelope(404, f"Invalid URL ({call.method} {call.path})")))

    def _unauthorised(self, call: Call) -> dict[str, Any] | None:
        given = call.headers.get("authorization", "")
        if self._key is None or hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            return None
        if not given:
            return envelope(401, "You didn't provide an API key.", code=None)
        return envelope(401, "Incorrect API key provided.", code="invalid_api_key")

    def _generated(self, call: Call, answer: OpenAIAnswer) -> Plan:
        if not isinstance(call.json, Mapping):
            return Plan(
                "other", answer, Status(400, envelope(400, "We could not parse the JSON body of your request."))
            )
        model = str(call.body.get("model") or "")
        if not model:
            return Plan("other", answer, Status(400, envelope(400, "you must provide a model parameter")))
        if self._models is not None and model not in self._models:
            text = f"The model `{model}` does not exist or you do not have access to it."
            error = envelope(404, text, code="model_not_found")
            return Plan("other", answer, Status(404, error))
        rules = rules_of(self._strict, model) if self._strict is not None and not answer.embeds else None
        refusal = refusal_of(call.body, rules) if rules is not None else None
        if rules is not None and refusal is not None:
            return Plan("other", answer, Status(*envelope_of(refusal, rules)))
        if answer.count > self._window:
            return Plan("other", answer, Status(400, _overflow(self._window, answer)))
        return Plan("embed" if answer.embeds else "chat", answer)

    def _list(self, call: Call, answer: OpenAIAnswer) -> Plan:
        del call
        names = ("gpt-5-mini",) if self._models is None else self._models
        data = [{"id": name, "object": "model", "created": 1767225600, "owned_by": "openai"} for name in names]
        return Plan("other", answer, Status(200, {"object": "list", "data": data}))


_ROUTES: Final[Mapping[tuple[str, str], Callable[[OpenAI, Call, OpenAIAnswer], Plan]]] = {
    ("POST", "/v1/chat/completions"): OpenAI._generated,
    ("POST", "/v1/embeddings"): OpenAI._generated,
    ("GET", "/v1/models"): OpenAI._list,
}


def _overflow(window: int, answer: OpenAIAnswer) -> dict[str, Any]:
    name = "input" if answer.embeds else "messages"
    text = (
        f"This model's maximum context length is {window} tokens. However, your {name} resulted in {answer.count} "
        f"tokens. Please reduce the length of the {name}."
    )
    return envelope(400, text, code="context_length_exceeded", param=name)
