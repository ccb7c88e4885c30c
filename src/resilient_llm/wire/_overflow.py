"""Recognises, in a server's words, that a prompt does not fit the window, and takes the two numbers out of them.

It exists because most servers have no code for it, and a prompt that does not fit must go to a larger window and not
be sent again. Rules of the file: the words are the server's message alone, never a body that may echo the prompt;
throttling talks of tokens and limits too, so a veto goes before every match; "too many tokens" alone proves nothing.
The wordings are those of sixteen servers, from their sources and their users' reports. The patterns are strings, which
`re` compiles when a server first refuses: importing the package need not wait for that.
"""

from __future__ import annotations

import re

LOOKED_AT = 4096  # characters: every known wording is in the first 300; it also bounds the time of the patterns

# A limit on requests per time, on one string, on one field: waiting or another value helps, a larger window does not.
_VETO = (
    r"rate.?limit|per min|per day|per hour|\btp[md]\b|throttl|quota|too many requests|try again in|please wait"
    r"|temporarily|string too long|must be less than or equal to|maximum value for"
)
_WORDS = r"""
      maximum\ (?:context|prompt|input)\ length\ (?:is|of)                     # OpenAI, vLLM, DeepSeek, OpenRouter, xAI
    | model'?s?,?\ (?:maximum\ |max\ )?context\ (?:length|window|limit)        # SGLang, Fireworks, Ollama (MLX)
    | (?:exceeds?|exceeding|exceeded|larger\ than|longer\ than|greater\ than|too\ large\ for)\b.{0,60}
      \bcontext\ (?:length|window|size|limit)                                  # OpenAI, llama.cpp, LM Studio, Ollama
    | context\ (?:length|window|size)(?:\ has\ been)?\ exceed(?:s|ed)          # LM Studio
    | exceed(?:s|ed)?\ context\ limit                                          # Anthropic
    | context\ window\ (?:is\ full|exceeds\ limit)                             # MiniMax
    | prompt\ is\ too\ long                                                    # Anthropic, Fireworks
    | input\ is\ too\ long\ for\ requested\ model                              # Bedrock behind a proxy
    | prompt\ is\ longer\ than\ the\ context\ length                           # Ollama
    | input\ token\ count.{0,40}exceeds\ the\ maximum                          # Gemini
    | input\ tokens\ exceed\ the\ configured\ limit                            # OpenAI
    | maximum\ number\ of\ tokens\ allowed
    | reduce\ the\ length\ of\ the\ (?:messages|input|prompt)                  # Groq, OpenAI
    | prompt\ token\ count\ of\ \d+\ exceeds\ the\ limit                       # Copilot
    | exceeded\ model\ token\ limit                                            # Moonshot
    | current\ length\ is\ \d+\ while\ limit\ is\ \d+                          # Cerebras
    | too\ large\ for\ model\ with\ \d+\ maximum\ context\ length              # Mistral
    | longer\ than\ the\ maximum\ model\ length                                # vLLM
    | `inputs`\ tokens\ \+\ `max_new_tokens`\ must\ be                         # TGI, Together
    | `inputs`\ must\ have\ less\ than\ \d+\ tokens                            # TGI
    | input\ length\ \(?\d+(?:\ tokens)?\)?\ exceeds                           # SGLang, Ollama
    | input\ \(\d+\ tokens\)\ is\ (?:larger|longer)\ than                      # SGLang
    | tokens\ to\ keep\ from\ the\ initial\ prompt                             # LM Studio
    | keep\ the\ first\ \d+\ tokens\ when\ context                             # LM Studio
    | cannot\ truncate\ prompt\ with\ n_keep                                    # LM Studio, since 0.4
    | range\ of\ input\ length\ should\ be\ \[1,                                  # Alibaba
    | requested\ tokens\ \(?\d+\)?\ exceed\ context\ window                    # llama-cpp-python
    | exceeds\ the\ KV\ memory\ budget                                         # SGLang
    | is\ too\ large\ to\ process.{0,40}physical\ batch\ size                  # llama.cpp, embeddings, as a 500
    """

_N = r"(\d[\d,]{0,14})"  # "128,000" as well
# The first that is found counts. The prompt's own share goes before a sum with the answer's.
_LIMITS = (
    rf"{_N} tokens > {_N} maximum",  # the last group of a pattern is the number
    rf"{_N} \+ {_N} > {_N}",
    rf"while limit is {_N}",
    rf"n_ctx:? \(?{_N}",
    rf"with {_N} maximum context length",
    rf"exceeds the available context size \({_N}",
    rf"tokens allowed[ (]{{1,2}}{_N}",
    rf"token limit: {_N}",
    rf"current batch size: {_N}",
    rf"must be <= {_N}",
    rf"have less than {_N} tokens",
    rf"max {_N} tokens per request",
    rf"exceeds the limit of {_N}",
    rf"configured limit of {_N}",
    rf"context length (?:of|is) only {_N}",
    rf"maximum (?:allowed )?(?:context|input|prompt) length(?: is| of)?[ (]{{1,2}}{_N}",
    rf"should be \[1, {_N}",
    rf"context length of \S{{1,100}} is {_N}",
    rf"context length \({_N} tokens",
    rf"(?:context|prompt|input|model) (?:length|window|size|limit)(?! by )[^.(\d]{{0,60}}{_N}",
    rf"maximum allowed length[^.\d]{{0,20}}{_N}",
)
_TOKENS = (
    rf"\({_N} (?:in (?:the|your) (?:messages|prompt)|of text input)",
    rf"parameter=input_tokens, value={_N}",
    rf"messages resulted in {_N}",
    rf"{_N} input tokens",
    rf"{_N} tokens > ",
    rf"{_N} \+ \d+ > ",
    rf"prompt contains {_N} tokens",
    rf"prompt (?:is )?too long: {_N}",
    rf"(?:request|input|prompt)(?: length)? \((?:length )?{_N}(?: tokens)?\)",
    rf"token count of {_N}",
    rf"input token count \({_N}\)",
    rf"current length is {_N}",
    rf"n_keep:? \(?{_N}",
    rf"request contains {_N}",
    rf"given: {_N}",
    rf"input_len={_N}",
    rf"keep the first {_N} tokens",
    rf"{_N} tokens from the input",
    rf"requested:? (?:about |tokens \(?)?{_N}\b(?! output)",
    rf"input length {_N}",
)


def is_overflow(message: str) -> bool:
    """The message says that the prompt, or the prompt with its answer, is larger than the window."""
    text = message[:LOOKED_AT]
    said = re.search(_WORDS, text, re.IGNORECASE | re.VERBOSE | re.DOTALL)
    return said is not None and re.search(_VETO, text, re.IGNORECASE) is None


def sizes(message: str) -> tuple[int | None, int | None]:
    """The tokens of the prompt and those that the window has, as far as the message states them."""
    text = message[:LOOKED_AT]
    return _first(_TOKENS, text), _first(_LIMITS, text)


def _first(patterns: tuple[str, ...], text: str) -> int | None:
    for pattern in patterns:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            return int(match.groups()[-1].replace(",", ""))
    return None
