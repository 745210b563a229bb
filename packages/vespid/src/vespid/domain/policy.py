"""The organization's settings, and what follows from them: the tools a run may use, and the limits of its retries.

Settings have the shape of `contracts/api.md` §1; what is not stored has the default of the day.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from vespid_runtime.tools.shell import SHELL

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

    primary: LlmChoice = LlmChoice()


class LlmSettings(msgspec.Struct, frozen=True, rename="camel"):
    """Language models."""

    defaults: LlmDefaults = LlmDefaults()


class OrgSettings(msgspec.Struct, frozen=True, rename="camel"):
    """All settings of an organization, with defaults."""

    tools: ToolSettings = ToolSettings()
    execution: ExecutionSettings = ExecutionSettings()
    llm: LlmSettings = LlmSettings()


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
    """`tools.allow` without what the organization does not permit; order kept, each once. No pattern has a shell."""
    return [tool for tool in dict.fromkeys(allow) if tool != SHELL or settings.tools.shell_run_enabled]
