"""The language of Ollama's own API.

It exists so that everything above speaks of requests, events and errors. Rules of the file: it only joins the parts:
`_ollama_request` (what Ollama is sent), `_ollama_stream` (what it answers), `_ollama_errors` (what its refusals mean)
and `_ollama_facts` (what it tells of its models).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from resilient_llm._errors import LLMError, UnsupportedParameter
from resilient_llm._needs import Need, need_behind, needs_of, why_not
from resilient_llm._replies import Usage, Vectors
from resilient_llm._types import ChatRequest, EmbedRequest, Request
from resilient_llm.wire import Decoder, HTTPCall
from resilient_llm.wire._checks import checked, counts
from resilient_llm.wire._ollama_errors import classify, in_band
from resilient_llm.wire._ollama_facts import (
    Model,
    Show,
    parse_ps,
    parse_show,
    parse_tags,
    parse_version,
    same_model,
    show_body,
)
from resilient_llm.wire._ollama_request import (
    Think,
    Thinks,
    encode_chat,
    encode_embed,
    encode_load,
    forced,
    settings_from,
    thinking,
)
from resilient_llm.wire._ollama_stream import ChatDecoder, Judge
from resilient_llm.wire._vectors import EmbedDecoder, matrix

__all__ = [
    "Model",
    "OllamaCodec",
    "Show",
    "load_body",
    "parse_ps",
    "parse_show",
    "parse_tags",
    "parse_version",
    "same_model",
    "show_body",
]

_LEVEL = re.compile(r"unmarshal|think value")  # the level is refused, where yes or no may be taken


class OllamaCodec:
    """Speaks to one model of an Ollama; satisfies `wire.Codec`.

    Args:
        model: its name.
        num_ctx: the window in tokens. Default: the server's.
        options: of Ollama, for every request; `num_ctx=` wins over the one in it.
        think: whether the model thinks, where the call does not say.
        shift: whether the server may drop the middle of the context while it writes; `None` sends nothing.
        window: tells the window in tokens as far as it is known now: the output cap of a call without `max_tokens`.

    Raises:
        ConfigError: the options are no mapping.
    """

    __slots__ = ("_lacks", "_settings", "_thinks", "_window")

    def __init__(
        self,
        model: str,
        *,
        num_ctx: int | None = None,
        options: Mapping[str, Any] | None = None,
        think: Think | None = None,
        shift: bool | None = False,
        window: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._settings = settings_from(model, num_ctx, options, think, shift)
        self._window = window
        self._thinks: Thinks = "by level"
        self._lacks: frozenset[Need] = frozenset()

    def encode(self, request: Request, *, stream: bool) -> HTTPCall:
        """The request as Ollama wants it.

        Raises:
            ConfigError: something in it has no JSON form.
            UnsupportedParameter: an image is given by its URL.
        """
        if isinstance(request, EmbedRequest):
            return encode_embed(request, self._settings)
        return encode_chat(request, self._settings, self._window(), stream=stream, thinks=self._thinks)

    def decoder(self, request: Request, *, stream: bool, judge: Judge | None = None) -> Decoder:
        """A decoder for the answer. Many lines or one is all the same to it, whatever was asked for.

        `judge` is told its last event, and says in what else the answer is less than what was asked for.
        """
        if isinstance(request, EmbedRequest):
            return EmbedDecoder(len(request.texts), _embeddings)
        dropped = forced(request) or self._loses(request)
        return ChatDecoder(
            constrained=request.schema is not None,
            degraded=("field_dropped",) if dropped else (),
            limit=request.max_tokens,
            judge=judge,
        )

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """What an answer with this status (not 200) means."""
        error = classify(status, headers, body)
        if isinstance(error, UnsupportedParameter) and need_behind(error.parameter):
            error.falls_back = True  # another model may take what this one lacks
        return error

    def learn(self, request: Request, error: LLMError) -> bool:
        """Writes requests otherwise from now on, if that refusal teaches how; whether this one is then another."""
        if not isinstance(error, UnsupportedParameter) or not isinstance(request, ChatRequest):
            return False
        need = need_behind(error.parameter)
        if need in needs_of(request):
            self._lacks |= {need}
        elif error.parameter == "think" and thinking(request, self._settings):
            before = self._thinks
            by_level = before == "by level" and isinstance(thinking(request, self._settings), str)
            self._thinks = "yes or no" if by_level and _LEVEL.search(error.message) else "never"
            return self._thinks != before
        return False

    def _loses(self, request: ChatRequest) -> bool:
        """The model is not told about thinking what was asked for."""
        asked = thinking(request, self._settings)
        return bool(asked) and (self._thinks == "never" or (self._thinks == "yes or no" and asked is not True))

    def able(self, capabilities: Collection[str]) -> None:
        """Takes in what `/api/show` says of the model; a server that says nothing of it is taken to be able."""
        if capabilities:
            if "thinking" not in capabilities:
                self._thinks = "never"
            needed: dict[Need, str] = {"tools": "tools", "vision": "vision"}
            self._lacks = frozenset(need for need, name in needed.items() if name not in capabilities)

    def lacks(self, request: ChatRequest) -> str | None:
        """Why the model cannot take this, as far as is known."""
        return why_not(request, self._lacks)

    @property
    def dialect(self) -> str | None:
        """What was learned of the model, in words."""
        less: dict[Thinks, list[str]] = {"by level": [], "yes or no": ["levels of thinking"], "never": ["thinking"]}
        lost = [*sorted(self._lacks), *less[self._thinks]]
        return f"ollama; learned: no {' and no '.join(lost)}" if lost else None

    def load(self, *, keep_alive: float | str | None, embed: bool) -> bytes:
        """The body that brings the model into memory as the requests want it."""
        return encode_load(self._settings, keep_alive=keep_alive, embed=embed)


def load_body(codec: OllamaCodec, *, keep_alive: float | str | None = None, embed: bool = False) -> bytes:
    """The body for `/api/chat`, or for `/api/embed` if `embed`, that brings the model of `codec` into memory."""
    return codec.load(keep_alive=keep_alive, embed=embed)


def _embeddings(answer: Any, count: int) -> Vectors:
    checked(answer, dict, "the whole")
    if answer.get("error"):
        raise in_band(answer)
    vectors = matrix(checked(answer.get("embeddings"), list, "embeddings"), count)
    model = answer.get("model")
    usage = Usage(**counts(answer, {"prompt_eval_count": "input_tokens"}))  # type: ignore[arg-type]
    return Vectors(vectors, model if isinstance(model, str) and model else None, usage)
