"""The tools of this host as a node's request finds them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from vespid_agent.sandbox.task import SandboxError
from vespid_agent.sandbox.workdir import Workdirs
from vespid_agent.sessions.workspaces import Workspaces
from vespid_agent.tools.kit import Kit
from vespid_agent.tools.scope import ToolScope
from vespid_agent.work.job import Job, WorkFailed
from vespid_agent.work.output import Emit
from vespid_protocol.codes import Code
from vespid_runtime.engines.node import ToolAuth
from vespid_runtime.loop.names import is_allowed
from vespid_runtime.memory import MEMORY_TOOLS
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.memory import node_memory_tools
from vespid_runtime.tools.tool import Tool
from vespid_runtime.tools.toolbox import Toolbox


class _ToolSettings(msgspec.Struct, rename="camel", frozen=True):
    shell_run_enabled: bool = False


class OrganizationSettings(msgspec.Struct, rename="camel", frozen=True):
    """`organizationSettings` of a payload, as far as models' tools go."""

    tools: _ToolSettings = _ToolSettings()


@dataclass(frozen=True, slots=True)
class HostTools:
    """What nodes may use of this agent."""

    kit: Kit
    workdirs: Workdirs
    workspaces: Workspaces
    # Knows the agent's own secrets.
    own: Redactor

    async def scope(
        self,
        job: Job,
        emit: Emit,
        *,
        run_id: str,
        node_id: str,
        allow: Sequence[str],
        settings: OrganizationSettings,
        auth: Mapping[str, ToolAuth],
        env: Mapping[str, str],
        memory_key: str | None = None,
    ) -> ToolScope:
        """`allow`: what of the tools may be called; `memory_key`: under which the node remembers, None: nowhere.

        Raises WorkFailed. The run's folder must be in use meanwhile.
        """
        try:
            workdir = await asyncio.to_thread(self.workdirs.open, run_id, node_id)
        except SandboxError as error:
            raise WorkFailed(error.code, error.message) from None
        await self.kit.ready(allow)
        return ToolScope(
            organization_id=job.order.organization_id,
            user_id=job.order.user_id,
            request_id=job.order.request_id,
            run_id=run_id,
            node_id=node_id,
            workdir=workdir,
            may_run_shell=settings.tools.shell_run_enabled,
            secrets=job.secrets,
            connector_secrets={connector: named.secret_id for connector, named in auth.items()},
            base_urls=env,
            memory=self._memory(job, memory_key, allow),
            emit=emit,
            mark=job.mark,
        )

    def _memory(self, job: Job, key: str | None, allow: Sequence[str]) -> Sequence[Tool]:
        if key is None or not any(is_allowed(tool, allow) for tool in MEMORY_TOOLS):
            return ()
        try:
            memory = self.workspaces.of(job.order.organization_id, key)
        except ValueError as refused:
            raise WorkFailed(Code.INVALID_EXECUTE_PAYLOAD, f"memory: {refused}") from None
        # Asked at each call: the tools of this very scope bring secrets of their own.
        return node_memory_tools(memory.workspace, lambda given: job.redactor.redact_json(given))

    def toolbox(self, scope: ToolScope, job: Job) -> Toolbox:
        """From here on `job` masks what these tools use, and what the agent itself knows."""
        tools = self.kit.toolbox(scope)
        secrets = [*job.secrets.values(), *tools.secrets]
        if job.order.secret is not None:
            secrets.append(job.order.secret)
        job.redactor = self.own.also(secrets)
        return tools
