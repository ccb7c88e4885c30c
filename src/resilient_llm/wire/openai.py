"""The language of OpenAI-compatible servers: OpenAI, Azure, vLLM, llama.cpp, Groq, OpenRouter and their kin.

It exists so that everything above speaks of requests, events and errors. Rules of the file: it only joins the parts;
what differs between servers is data in `_openai_profiles` (what they take) and `_openai_rows` (what they mean).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from resilient_llm._errors import LLMError, UnsupportedParameter
from resilient_llm._needs import Need, need_behind, needs_of, why_not
from resilient_llm._types import ChatRequest, EmbedRequest, Request
from resilient_llm.wire import Decoder, HTTPCall
from resilient_llm.wire._openai_embed import read_embeddings
from resilient_llm.wire._openai_errors import error_from
from resilient_llm.wire._openai_learn import learned, told
from resilient_llm.wire._openai_profiles import Profile, profile_for
from resilient_llm.wire._openai_request import drops, encode_chat, encode_embed
from resilient_llm.wire._openai_stream import ChatDecoder
from resilient_llm.wire._vectors import EmbedDecoder

__all__ = ["OpenAICodec", "Profile", "profile_for"]


class OpenAICodec:
    """Speaks to one model of an OpenAI-compatible server; satisfies `wire.Codec`.

    Args:
        model: the name that the server knows it by.
        profile: the server's dialect; `profile_for` knows some.
    """

    __slots__ = ("_learned", "_model", "profile")

    def __init__(self, model: str, *, profile: Profile | None = None) -> None:
        self._model = model
        self.profile = profile or Profile()
        self._learned: list[str] = []

    def encode(self, request: Request, *, stream: bool) -> HTTPCall:
        """The request as this server wants it.

        Raises:
            ConfigError: something in it has no JSON form.
        """
        if isinstance(request, EmbedRequest):
            return encode_embed(request, self._model)
        return encode_chat(request, self._model, self.profile, stream=stream)

    def decoder(self, request: Request, *, stream: bool) -> Decoder:
        """A decoder for the answer. `stream` says what was asked for; the answer's own bytes say what came."""
        if isinstance(request, EmbedRequest):
            return EmbedDecoder(len(request.texts), read_embeddings)
        dropped = drops(request, self.profile)
        return ChatDecoder(degraded=("field_dropped",) if dropped else (), limit=request.max_tokens)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """What an answer with this status (not 200) means."""
        error = error_from(status, headers, body)
        if isinstance(error, UnsupportedParameter) and need_behind(error.parameter):
            error.falls_back = True  # another model may take what this one lacks
        return error

    def learn(self, request: Request, error: LLMError) -> bool:
        """Writes requests otherwise from now on, if that refusal teaches how; whether this one is then another."""
        if not isinstance(error, UnsupportedParameter) or not isinstance(request, ChatRequest):
            return False
        need = need_behind(error.parameter)
        after = learned(self.profile, error.parameter, request)
        if need in needs_of(request):
            after = replace(self.profile, lacks=self.profile.lacks | {need})
        if after is None or after == self.profile:
            return False
        self._learned.append(told(self.profile, after))
        self.profile = after
        return need is None

    def lacking(self, needs: Collection[Need]) -> None:
        """Takes in what the server's list of models says that this one does not take."""
        if needs:
            self.profile = replace(self.profile, lacks=self.profile.lacks | frozenset(needs))

    def lacks(self, request: ChatRequest) -> str | None:
        """Why it cannot take this, as far as is known."""
        return why_not(request, self.profile.lacks)

    @property
    def dialect(self) -> str | None:
        """What it speaks, in words; `None` if that is the common dialect."""
        known = [self.profile.name, *(f"learned: {one}" for one in self._learned)]
        return "; ".join(known) if known != ["compatible"] else None
