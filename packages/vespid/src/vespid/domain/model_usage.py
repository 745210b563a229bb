"""What a model took to answer, as an agent tells it beside its answer: read with suspicion.

    {"usage": {"inputTokens", "outputTokens", "totalTokens"}, "provider", "model", "engineId"?, "costUsd"?, …}

It is an agent's word, so a number is taken only where one answer could be that big, and a name is cut to what can be
shown. What cannot be taken is left out and counted; the answer itself stands whatever this says.
"""

import math

import msgspec

from vespid_runtime.models.naming import provider_of

# No answer takes more: a thousand times the longest context of today, over and over.
MAX_TOKENS = 1_000_000_000
MAX_REPORTED_USD = 100_000
NAME_MAX_CHARS = 200
# What is read of a place where a few numbers or a name are expected.
_PART_MAX_BYTES = 4_096
UNKNOWN = "unknown"

MaybeRaw = msgspec.Raw | msgspec.UnsetType


class UsageRefused(ValueError):
    """What was told of a model's use cannot be taken. The message is one of few words, to be counted by."""


class ModelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one try took."""

    engine_id: str | None
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    # May be more than both: some providers count thinking here only.
    total_tokens: int
    # What the engine itself says that it cost.
    reported_micros: int | None


class _Told(msgspec.Struct, rename="camel"):
    usage: MaybeRaw = msgspec.UNSET
    provider: MaybeRaw = msgspec.UNSET
    model: MaybeRaw = msgspec.UNSET
    engine_id: MaybeRaw = msgspec.UNSET
    cost_usd: MaybeRaw = msgspec.UNSET


class _Tokens(msgspec.Struct, rename="camel"):
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


_decode_told = msgspec.json.Decoder(_Told).decode
_decode_tokens = msgspec.json.Decoder(_Tokens).decode


def read_usage(answer: bytes) -> ModelUsage | None:
    """What an answer, a JSON text, says of it; None where it says nothing. Raises UsageRefused."""
    # The answers of other kinds of work, megabytes of them, are not decoded for this.
    if b'"usage"' not in answer:
        return None
    try:
        told = _decode_told(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # No object: whatever it is, it is no engine's answer.
        return None
    if told.usage is msgspec.UNSET:
        return None
    tokens = _tokens(bytes(told.usage))
    if not tokens.total_tokens:
        return None
    model = _name(told.model) or UNKNOWN
    return ModelUsage(
        engine_id=_name(told.engine_id),
        provider=_name(told.provider) or provider_of(model) or UNKNOWN,
        model=model,
        input_tokens=tokens.input_tokens,
        output_tokens=tokens.output_tokens,
        total_tokens=tokens.total_tokens,
        reported_micros=_micros(told.cost_usd),
    )


def _tokens(raw: bytes) -> _Tokens:
    if raw == b"null":
        return _Tokens()
    if len(raw) > _PART_MAX_BYTES:
        raise UsageRefused("too_long")
    try:
        tokens = _decode_tokens(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UsageRefused("not_numbers") from None
    given = (tokens.input_tokens, tokens.output_tokens, tokens.total_tokens)
    if min(given) < 0:
        raise UsageRefused("negative")
    if max(given) > MAX_TOKENS:
        raise UsageRefused("too_big")
    tokens.total_tokens = max(tokens.total_tokens, tokens.input_tokens + tokens.output_tokens)
    return tokens


def _name(raw: MaybeRaw) -> str | None:
    """A name as it can be stored and shown; None where there is none."""
    if raw is msgspec.UNSET or len(memoryview(raw)) > _PART_MAX_BYTES:
        return None
    try:
        text = msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return "".join(char for char in text.strip() if char.isprintable())[:NAME_MAX_CHARS] or None


def _micros(raw: MaybeRaw) -> int | None:
    if raw is msgspec.UNSET or len(memoryview(raw)) > _PART_MAX_BYTES:
        return None
    try:
        dollars = msgspec.json.decode(raw, type=float)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not math.isfinite(dollars) or not 0 <= dollars <= MAX_REPORTED_USD:
        return None
    return round(dollars * 1_000_000)
