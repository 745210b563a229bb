"""The models that this agent reaches with keys of its own, and where its operator says they are.

The one thing to know: a managed agent works for strangers, and its own keys pay for none of them unless its operator
says so. What a request brings along, its own key, is used in any case.
"""

from __future__ import annotations

from vespid_agent.config import Pool
from vespid_agent.settings import AgentSettings
from vespid_runtime.models.registry import Configured


def configured_models(settings: AgentSettings, pool: Pool) -> dict[str, Configured]:
    """By provider."""
    may_serve = pool != "managed" or settings.managed_model_keys == "on"
    named = {
        "openai": (settings.openai_base_url, settings.openai_api_key),
        "anthropic": (settings.anthropic_base_url, settings.anthropic_api_key),
        "gemini": (settings.gemini_base_url, settings.gemini_api_key),
        "openrouter": (settings.openrouter_base_url, settings.openrouter_api_key),
        "openai-compatible": (settings.openai_compatible_base_url, settings.openai_compatible_api_key),
    }
    return {
        provider: Configured(base_url=base_url or None, api_key=(api_key or None) if may_serve else None)
        for provider, (base_url, api_key) in named.items()
    }
