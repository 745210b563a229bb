"""The organization's settings, and what follows from them: the tools a run may use, and the limits of its retries.

Settings have the shape of `contracts/api.md` §1. A PUT merges a partial document into what is stored; keys that do not
exist are refused, with their path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

SHELL_TOOL = "shell.run"
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class ToolSettings(msgspec.Struct, frozen=True, rename="camel"):
    """What tools may do."""

    shell_run_enabled: bool = False
    shell_secrets_enabled: bool = False


class QuotaSettings(msgspec.Struct, frozen=True, rename="camel"):
    """None: the gateway's default."""

    max_executor_in_flight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class ExecutionSettings(msgspec.Struct, frozen=True, rename="camel"):
    """Limits on executions."""

    quotas: QuotaSettings = QuotaSettings()


class LlmChoice(msgspec.Struct, frozen=True, rename="camel"):
    """A provider, a model of it, and the secret that pays."""

    provider: Name | None = None
    model: Name | None = None
    secret_id: Name | None = None


class LlmDefaults(msgspec.Struct, frozen=True, rename="camel"):
    """Which model is used where none is named."""

    primary: LlmChoice | None = None


class LlmSettings(msgspec.Struct, frozen=True, rename="camel"):
    """Language models."""

    defaults: LlmDefaults = LlmDefaults()


class OrgSettings(msgspec.Struct, frozen=True, rename="camel"):
    """All settings of an organization, with defaults."""

    tools: ToolSettings = ToolSettings()
    execution: ExecutionSettings = ExecutionSettings()
    llm: LlmSettings = LlmSettings()


class SettingsInvalid(ValueError):
    """A settings document that cannot be merged; `field_errors` is `{path:[message]}` of the 400."""

    def __init__(self, field_errors: dict[str, list[str]]) -> None:
        super().__init__("; ".join(f"{path}: {messages[0]}" for path, messages in field_errors.items()))
        self.field_errors = field_errors


def read_settings(stored: bytes | str) -> OrgSettings:
    """Settings as they are stored; `{}` gives all defaults, keys of a newer server are ignored."""
    return msgspec.json.decode(stored, type=OrgSettings)


def merge_settings(current: OrgSettings, patch: object) -> OrgSettings:
    """`current` with the keys of a partial document replaced, objects merged. Raises SettingsInvalid.

    null takes a setting back to its default where it may be null.
    """
    errors: dict[str, list[str]] = {}
    merged = _merged(msgspec.to_builtins(current), patch, _SHAPE, "", errors)
    if errors:
        raise SettingsInvalid(errors)
    try:
        return msgspec.convert(merged, OrgSettings)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        raise SettingsInvalid({path.rstrip("`"): [message]}) from error


# Every key there is; a leaf is None.
_SHAPE: dict[str, object] = msgspec.to_builtins(OrgSettings(llm=LlmSettings(LlmDefaults(LlmChoice()))))


def _merged(
    current: object, patch: object, shape: dict[str, object], path: str, errors: dict[str, list[str]]
) -> dict[str, object]:
    if not isinstance(patch, dict):
        errors[path.removesuffix(".")] = ["must be an object"]
        return {}
    merged: dict[str, object] = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if key not in shape:
            errors[f"{path}{key}"] = [f"no such setting; there are {', '.join(shape)}"]
            continue
        inner = shape[key]
        if isinstance(inner, dict) and not (value is None and key == "primary"):
            value = _merged(merged.get(key), value, inner, f"{path}{key}.", errors)
        merged[key] = value
    return merged


class Backoff(msgspec.Struct, frozen=True, rename="camel"):
    """A retry budget: `max_attempts` in all, the first included; pauses double from `backoff_ms`."""

    max_attempts: int
    backoff_ms: int


BACKOFF_CAP_MS = 60_000


class RunPolicy(msgspec.Struct, frozen=True):
    """The server's settings and the organization's, as a step needs them."""

    # WORKFLOW_RETRY_ATTEMPTS, WORKFLOW_RETRY_BACKOFF_MS
    run_retry: Backoff = Backoff(3, 5_000)
    # NODE_EXEC_TIMEOUT_MS
    node_timeout_ms: int = 60_000
    # WORKFLOW_EVENT_PAYLOAD_MAX_CHARS
    event_payload_max_chars: int = 4_000
    settings: OrgSettings = OrgSettings()
    # GITHUB_API_BASE_URL; told to connectors in `payload.env`
    github_api_base_url: str | None = None


def pause_ms(backoff: Backoff, failures: int) -> int:
    """How long to wait after the `failures`-th failure (from 1): doubled each time, at most a minute."""
    doubled = backoff.backoff_ms << min(failures - 1, 20)
    return min(doubled, BACKOFF_CAP_MS)


def effective_tools(allow: Iterable[str], settings: OrgSettings) -> list[str]:
    """`tools.allow` without what the organization does not permit; order kept, each once."""
    return [tool for tool in dict.fromkeys(allow) if tool != SHELL_TOOL or settings.tools.shell_run_enabled]
