"""The prefixes of route strings: where each server is found and which environment variable holds its key.

`"groq:llama-3.3-70b"` is `OpenAICompatible("llama-3.3-70b")` at Groq's address with Groq's key. A server without a key
variable needs none. Addresses: each provider's own documentation of its OpenAI-compatible endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenAI-compatible server.

    Attributes:
        name: the prefix.
        base_url: its address, up to and including `/v1` or what it has instead.
        key: the environment variable of its key, or `None` if it needs no key.
    """

    name: str
    base_url: str
    key: str | None = None


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        Provider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        Provider("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
        Provider("deepseek", "https://api.deepseek.com", "DEEPSEEK_API_KEY"),
        Provider("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        Provider("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        Provider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        Provider("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        Provider("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        Provider("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        Provider("moonshot", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
        Provider("zai", "https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
        Provider("dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
        Provider("xai", "https://api.x.ai/v1", "XAI_API_KEY"),
        Provider("llamacpp", "http://127.0.0.1:8080/v1"),
        Provider("lmstudio", "http://127.0.0.1:1234/v1"),
        Provider("litellm", "http://127.0.0.1:4000/v1"),
        Provider("tgi", "http://127.0.0.1:3000/v1"),
        Provider("sglang", "http://127.0.0.1:30000/v1"),
        Provider("vllm", "http://127.0.0.1:8000/v1"),
    )
}
# Hosts of one name for every customer or region: what they end with, and whose dialect they speak.
HOSTS: dict[str, str] = {
    ".openai.azure.com": "azure",
    ".cognitiveservices.azure.com": "azure",
    ".services.ai.azure.com": "azure",
    ".api.openai.com": "openai",
    "api.moonshot.cn": "moonshot",
    "open.bigmodel.cn": "zai",
    "dashscope.aliyuncs.com": "dashscope",
    "dashscope-us.aliyuncs.com": "dashscope",
    "api.together.ai": "together",
}
_BY_HOST = {urlsplit(one.base_url).netloc: one for one in PROVIDERS.values()}


def provider_at(base_url: str) -> Provider | None:
    """The provider whose address this is, or `None`."""
    try:
        return _BY_HOST.get(urlsplit(base_url).netloc.lower())
    except ValueError:
        return None  # it is no address; `endpoint` says so


def name_at(base_url: str) -> str:
    """Whose dialect is spoken at this address; `compatible` if that is not known."""
    known = provider_at(base_url)
    if known is not None:
        return known.name
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return "compatible"
    return next((name for end, name in HOSTS.items() if host.endswith(end)), "compatible")
