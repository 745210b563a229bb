"""An organization's settings: read whole, with defaults; written in part."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody

from vespid.bus.org_news import tell_org
from vespid.control.agents import hint
from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_admin, org_member
from vespid.control.deps import Deps
from vespid.domain.policy import OrgSettings
from vespid.store import orgs
from vespid.store.announcements import SETTINGS_CHANGED, announce_settings_changed

Unset = msgspec.UnsetType
MAX_QUOTA = 1_000_000


class _Patch(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What is absent stays as it is; what is not known is refused."""


class ToolsPatch(_Patch, frozen=True, rename="camel"):
    """What tools may do."""

    shell_run_enabled: bool | Unset = msgspec.UNSET
    shell_secrets_enabled: bool | Unset = msgspec.UNSET


class QuotasPatch(_Patch, frozen=True, rename="camel"):
    """null: the gateway's default."""

    max_executor_in_flight: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUOTA)] | Unset | None = msgspec.UNSET


class ExecutionPatch(_Patch, frozen=True, rename="camel"):
    """Limits on executions."""

    quotas: QuotasPatch | Unset = msgspec.UNSET


class LlmChoicePatch(_Patch, frozen=True, rename="camel"):
    """null: none."""

    provider: Annotated[str, msgspec.Meta(min_length=1, max_length=120)] | Unset | None = msgspec.UNSET
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | Unset | None = msgspec.UNSET
    secret_id: UUID | Unset | None = msgspec.UNSET


class LlmDefaultsPatch(_Patch, frozen=True, rename="camel"):
    """Which model is used where none is named."""

    primary: LlmChoicePatch | Unset = msgspec.UNSET


class LlmPatch(_Patch, frozen=True, rename="camel"):
    """Language models."""

    defaults: LlmDefaultsPatch | Unset = msgspec.UNSET


class SettingsPatch(_Patch, frozen=True, rename="camel"):
    """A part of the settings."""

    tools: ToolsPatch | Unset = msgspec.UNSET
    execution: ExecutionPatch | Unset = msgspec.UNSET
    llm: LlmPatch | Unset = msgspec.UNSET


class SettingsAnswer(msgspec.Struct, frozen=True):
    """All settings, with defaults."""

    settings: OrgSettings


@get("/v1/orgs/{org_id:str}/settings", guards=[org_member], operation_id="readSettings", tags=["settings"])
async def read_settings(tenant: NamedDependency[TenantContext]) -> SettingsAnswer:
    """The organization's settings, with defaults where nothing was set."""
    async with tenant.transaction() as connection:
        stored = await orgs.read_settings(connection, UUID(tenant.org_id))
    return SettingsAnswer(OrgSettings() if stored is None else _decode(stored))


@put("/v1/orgs/{org_id:str}/settings", guards=[org_admin], operation_id="changeSettings", tags=["settings"])
async def change_settings(
    tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps], data: JSONBody[SettingsPatch]
) -> SettingsAnswer:
    """Merge a part into the settings. For owners and admins."""
    change = msgspec.to_builtins(data, str_keys=True)
    async with tenant.transaction() as connection:
        stored = await orgs.lock_settings(connection, UUID(tenant.org_id))
        merged = msgspec.json.encode(_merge(msgspec.json.decode(stored), change))
        await orgs.replace_settings(connection, UUID(tenant.org_id), merged, UUID(tenant.user_id))
        await audit(connection, tenant, AuditAction.SETTINGS_CHANGED, tenant.org_id, change)
        await announce_settings_changed(connection, UUID(tenant.org_id))
    hint(deps, SETTINGS_CHANGED)
    tell_org(deps.fanout, tenant.org_id, "settings")
    return SettingsAnswer(_decode(merged))


def _decode(stored: bytes) -> OrgSettings:
    # What is not stored is the default of the day; what a newer server has stored is not ours to read.
    return msgspec.json.decode(stored, type=OrgSettings)


def _merge(stored: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(stored)
    for key, value in change.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return merged


routes = [read_settings, change_settings]
