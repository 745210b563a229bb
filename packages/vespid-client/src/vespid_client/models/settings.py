"""An organization's settings, with the defaults of the day."""

from vespid_client.models.model import Model


class ToolSettings(Model, frozen=True, kw_only=True):
    """What tools may do."""

    shell_run_enabled: bool = False
    shell_secrets_enabled: bool = False


class QuotaSettings(Model, frozen=True, kw_only=True):
    """None: the gateway's default."""

    max_executor_in_flight: int | None = None


class ExecutionSettings(Model, frozen=True, kw_only=True):
    """Limits on executions."""

    quotas: QuotaSettings = QuotaSettings()


class LlmChoice(Model, frozen=True, kw_only=True):
    """A provider, a model of it, and the secret that pays."""

    provider: str | None = None
    model: str | None = None
    secret_id: str | None = None


class LlmDefaults(Model, frozen=True, kw_only=True):
    """Which model is used where none is named."""

    primary: LlmChoice = LlmChoice()


class LlmSettings(Model, frozen=True, kw_only=True):
    """Language models."""

    defaults: LlmDefaults = LlmDefaults()


class OrgSettings(Model, frozen=True, kw_only=True):
    """All settings of an organization."""

    tools: ToolSettings = ToolSettings()
    execution: ExecutionSettings = ExecutionSettings()
    llm: LlmSettings = LlmSettings()
