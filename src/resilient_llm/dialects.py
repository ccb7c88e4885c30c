"""What OpenAI-compatible servers take: the profiles that this library knows, and how to give your own.

OpenAICompatible("m", base_url=…, profile="vllm")                                    # a server that speaks like one
OpenAICompatible("m", base_url=…, profile=replace(profile_for("vllm", "m"), max_stop=4))   # or nearly so
"""

from resilient_llm.wire._openai_profiles import PROFILES, Profile, profile_for

__all__ = ["PROFILES", "Profile", "profile_for"]
