"""Whose model it is, going by its name, where nothing else says."""

from __future__ import annotations

_BEGINNINGS = (
    ("claude-", "anthropic"),
    ("gpt-", "openai"),
    ("chatgpt-", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("gemini-", "gemini"),
)


def provider_of(model: str) -> str | None:
    """None: the name does not tell."""
    return next((provider for beginning, provider in _BEGINNINGS if model.startswith(beginning)), None)
