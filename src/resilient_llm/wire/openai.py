"""The language of OpenAI-compatible servers: OpenAI, Azure, vLLM, llama.cpp, Groq, OpenRouter and their kin.

It exists so that everything above speaks of requests, events and errors. Rules of the file: it only joins the parts;
what differs between servers is data in `_openai_request` (what they take) and `_openai_errors` (what they mean).
"""

from __future__ import annotations

from collections.abc import Mapping

from resilient_llm._errors import LLMError
from resilient_llm._replies import Degraded
from resilient_llm._types import ChatRequest, EmbedRequest, Request
from resilient_llm.wire import Decoder, HTTPCall
from resilient_llm.wire._openai_embed import read_embeddings
from resilient_llm.wire._openai_errors import error_from
from resilient_llm.wire._openai_request import Profile, encode_chat, encode_embed, profile_for
from resilient_llm.wire._openai_stream import ChatDecoder
from resilient_llm.wire._vectors import EmbedDecoder

__all__ = ["OpenAICodec", "Profile", "profile_for"]


class OpenAICodec:
    """Speaks to one model of an OpenAI-compatible server; satisfies `wire.Codec`.

    Args:
        model: the name that the server knows it by.
        profile: the server's dialect; `profile_for` knows some.
    """

    __slots__ = ("_model", "_profile")

    def __init__(self, model: str, *, profile: Profile | None = None) -> None:
        self._model = model
        self._profile = profile or Profile()

    def encode(self, request: Request, *, stream: bool) -> HTTPCall:
        """The request as this server wants it.

        Raises:
            ConfigError: something in it has no JSON form.
        """
        if isinstance(request, EmbedRequest):
            return encode_embed(request, self._model)
        return encode_chat(request, self._model, self._profile, stream=stream)

    def decoder(self, request: Request, *, stream: bool) -> Decoder:
        """A decoder for the answer. `stream` says what was asked for; the answer's own bytes say what came."""
        if isinstance(request, EmbedRequest):
            return EmbedDecoder(len(request.texts), read_embeddings)
        return ChatDecoder(degraded=self._dropped(request), limit=request.max_tokens)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """What an answer with this status (not 200) means."""
        return error_from(status, headers, body)

    def _dropped(self, request: ChatRequest) -> tuple[Degraded, ...]:
        silent = request.temperature is not None and not self._profile.samples(request)
        return ("field_dropped",) if silent and "temperature" not in request.extra else ()
