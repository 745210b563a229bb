"""The tools of a node's request: what the payload says of them, and the box that comes of it on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from vespid_agent.sandbox.task import SandboxError
from vespid_agent.sandbox.workdir import Workdirs
from vespid_agent.tools.kit import Kit
from vespid_agent.tools.scope import ToolScope
from vespid_agent.work.job import Job, WorkFailed
from vespid_agent.work.output import Emit
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.approval import ApprovalRule
from vespid_runtime.tools.toolbox import Toolbox


class Part(msgspec.Struct, rename="camel", frozen=True):
    """Of a payload."""


class _SecretName(Part, frozen=True):
    secret_id: str


class ToolsConfig(Part, frozen=True):
    """`tools` of a node's config."""

    allow: tuple[str, ...] = ()
    # By tool id or glob.
    approval: dict[str, ApprovalRule] = {}
    # By connector.
    auth: dict[str, _SecretName] = {}


class _ToolSettings(Part, frozen=True):
    shell_run_enabled: bool = False


class _OrganizationSettings(Part, frozen=True):
    tools: _ToolSettings = _ToolSettings()


class ToolsPayload(Part, frozen=True, kw_only=True):
    """What `execute.payload` says of tools, whatever it is about."""

    run_id: str = ""
    # Has the last word on `tools.allow` where it is there.
    effective_tools_allow: tuple[str, ...] | None = None
    organization_settings: _OrganizationSettings | None = None
    # Base URLs that the request brings along, like githubApiBaseUrl.
    env: dict[str, object] | None = None

    def run(self, job: Job) -> str:
        """The run's id; a request of another form stands for itself."""
        return self.run_id or job.order.request_id.partition(":")[0]


@dataclass(frozen=True, slots=True)
class NodeTools:
    """What nodes may use of this agent."""

    kit: Kit
    workdirs: Workdirs
    # Knows the agent's own secrets.
    own: Redactor

    def allow(self, payload: ToolsPayload, config: ToolsConfig) -> tuple[str, ...]:
        """The tools that the node may call here."""
        effective = payload.effective_tools_allow
        return self.kit.narrow(config.allow if effective is None else effective)

    async def scope(self, payload: ToolsPayload, config: ToolsConfig, node_id: str, job: Job, emit: Emit) -> ToolScope:
        """Raises WorkFailed. The run's folder must be in use meanwhile."""
        try:
            workdir = await asyncio.to_thread(self.workdirs.open, payload.run(job), node_id)
        except SandboxError as error:
            raise WorkFailed(error.code, error.message) from None
        settings = payload.organization_settings
        return ToolScope(
            organization_id=job.order.organization_id,
            user_id=job.order.user_id,
            request_id=job.order.request_id,
            run_id=payload.run(job),
            node_id=node_id,
            workdir=workdir,
            may_run_shell=settings is not None and settings.tools.shell_run_enabled,
            secrets=job.secrets,
            connector_secrets={connector: named.secret_id for connector, named in config.auth.items()},
            base_urls=_texts(payload.env or {}),
            emit=emit,
            mark=job.mark,
        )

    def toolbox(self, scope: ToolScope, job: Job) -> Toolbox:
        """From here on `job` masks what these tools use, and what the agent itself knows."""
        tools = self.kit.toolbox(scope)
        secrets = [*job.secrets.values(), *tools.secrets]
        if job.order.secret is not None:
            secrets.append(job.order.secret)
        job.redactor = self.own.also(secrets)
        return tools


def _texts(env: Mapping[str, object]) -> dict[str, str]:
    return {key: value for key, value in env.items() if isinstance(value, str)}
