"""The tools of a loop in the gateway's mode: connectors and memory here, everything that needs a host on executors.

The one thing to know: what runs on an executor is not stopped when only this process stops: whoever goes on with the
loop joins it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from vespid.dispatch.memory_search import MemorySearch
from vespid.dispatch.secrets import RequestSecrets
from vespid.dispatch.tool_calls import CallConflict, CallWanted, ToolCalls
from vespid.domain.node_config import ExecutionConfig
from vespid.domain.node_reader import schedule_of, selector_of
from vespid.domain.plan import Schedule
from vespid.domain.selector import Selector
from vespid.store.agents import reported_tools
from vespid.store.executions import CloudWork, ExecutionRow
from vespid.store.pool import Database
from vespid.worker.kept_turn import KeptTurn
from vespid.worker.memory import WorkflowMemory
from vespid_protocol.codes import Code
from vespid_protocol.ids import OrgId
from vespid_runtime.connectors import Registry
from vespid_runtime.egress import GuardedHttp
from vespid_runtime.engines.node import NodePayload
from vespid_runtime.loop.names import is_allowed
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.connector import connector_tools
from vespid_runtime.tools.shell import DESCRIPTION, INPUT_SCHEMA, SHELL
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse
from vespid_runtime.tools.toolbox import Toolbox


class _Config(msgspec.Struct):
    execution: ExecutionConfig | None = None


class _Node(msgspec.Struct):
    config: _Config


class _Where(msgspec.Struct, rename="camel"):
    """Of the payload, what says where the tools run, and what goes on to each of them."""

    node: _Node
    organization_settings: dict[str, object] = {}


_decode_where = msgspec.json.Decoder(_Where).decode


class ToolSource:
    """Makes the toolbox of each turn."""

    def __init__(
        self,
        db: Database,
        registry: Registry,
        http: GuardedHttp,
        calls: ToolCalls,
        *,
        operator_base_urls: Mapping[str, str],
    ) -> None:
        self._db = db
        self._registry = registry
        self._http = http
        self._calls = calls
        self._operator_base_urls = operator_base_urls
        self._memory_indexes = MemorySearch()

    async def toolbox(self, payload: NodePayload, work: CloudWork, secrets: RequestSecrets, turn: KeptTurn) -> Toolbox:
        allow = payload.tools_allow
        auth = {
            connector: secrets.named[named.secret_id].reveal()
            for connector, named in payload.node.config.tools.auth.items()
            if named.secret_id in secrets.named
        }
        tools = connector_tools(
            self._registry,
            self._http,
            request_id=work.request_id,
            secrets=auth,
            allow=allow,
            operator_base_urls=self._operator_base_urls,
        )
        if payload.memory_key is not None:
            org_id = OrgId(str(work.organization_id))
            memory = WorkflowMemory(self._db, self._memory_indexes, org_id, payload.memory_key)
            tools += memory.tools(allow, Redactor(secrets.clear_values()))
        if any(not tool.startswith(("connector.", "memory.")) for tool in allow):
            tools += await self._remote(payload, work, turn)
        return Toolbox(tools)

    async def _remote(self, payload: NodePayload, work: CloudWork, turn: KeptTurn) -> list[Tool]:
        where = _decode_where(work.payload)
        site = _Site(
            calls=self._calls,
            turn=turn,
            work=work,
            payload=payload,
            settings=where.organization_settings,
            selector=selector_of(where.node.config.execution),
            schedule=schedule_of(where.node.config.execution),
        )
        allow = payload.tools_allow
        tools: list[Tool] = [_Shell(site)] if is_allowed(SHELL, allow) else []
        selector = site.selector
        reported = await reported_tools(
            self._db,
            OrgId(str(work.organization_id)),
            pool=selector.pool or "byon",
            tags=selector.required_tags(),
            executor_id=selector.executor_id,
        )
        tools += [
            _HostTool(site, tool.id, tool.description, tool.input_schema)
            for tool in reported
            if tool.id.startswith(("skill.", "mcp.")) and is_allowed(tool.id, allow)
        ]
        return tools


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """What all calls of a turn have in common."""

    calls: ToolCalls
    turn: KeptTurn
    work: CloudWork
    payload: NodePayload
    settings: dict[str, object]
    selector: Selector
    schedule: Schedule

    async def end(self, tool_id: str, config: dict[str, object], use: ToolUse) -> ExecutionRow:
        """Raises ToolError."""
        work, node_id = self.work, self.payload.node.id
        wanted = CallWanted(
            org_id=OrgId(str(work.organization_id)),
            user_id=None if work.requested_by_user_id is None else str(work.requested_by_user_id),
            key=use.key,
            node_id=node_id,
            payload={
                "nodeId": node_id,
                "node": {"id": node_id, "type": "agent.execute", "config": config},
                "runId": self.payload.run_id,
                "workflowId": self.payload.workflow_id,
                "attemptCount": 1,
                "effectiveToolsAllow": [tool_id],
                "organizationSettings": self.settings,
            },
            selector=self.selector,
            schedule=self.schedule,
            timeout_ms=use.timeout_ms,
        )
        try:
            return await self.calls.ended(wanted)
        except CallConflict as error:
            raise ToolError(Code.INVALID_EXECUTE_PAYLOAD, str(error)) from None
        except asyncio.CancelledError:
            if self.turn.abandoned is None:
                await self.calls.cancel(wanted)
            raise


@dataclass(frozen=True, slots=True)
class _Shell:
    """`shell.run`: an ordinary shell task of an executor. How a command ends is its answer."""

    _site: _Site
    id: str = SHELL
    description: str = DESCRIPTION
    secrets: tuple[str, ...] = ()

    @property
    def input_schema(self) -> dict[str, object]:
        return INPUT_SCHEMA

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        """Raises ToolError."""
        task: dict[str, object] = {"type": "shell"}
        task |= {key: arguments[key] for key in ("script", "shell", "env") if key in arguments}
        config: dict[str, object] = {"task": task}
        if "timeoutMs" in arguments:
            config["sandbox"] = {"timeoutMs": arguments["timeoutMs"]}
        row = await self._site.end(self.id, config, use)
        answer = _decoded(row.output)
        if row.state == "succeeded" or (isinstance(answer, dict) and "exitCode" in answer):
            return answer
        raise _failure(row)


@dataclass(frozen=True, slots=True)
class _HostTool:
    """A skill, or a tool of an MCP server, of some executor."""

    _site: _Site
    id: str
    description: str
    input_schema: dict[str, object]
    secrets: tuple[str, ...] = ()

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        """Raises ToolError."""
        task = {"type": "tool", "tool": self.id, "arguments": arguments, "n": use.n}
        row = await self._site.end(self.id, {"task": task}, use)
        answer = _decoded(row.output)
        if row.state != "succeeded":
            raise _failure(row)
        if not isinstance(answer, dict) or not isinstance(answer.get("content"), str):
            return answer
        content: str = answer["content"]
        if answer.get("isError") is not True:
            return content
        code, _, message = content.partition(": ")
        raise ToolError(code, message)


def _decoded(output: bytes | None) -> Any:
    return None if output is None else msgspec.json.decode(output)


def _failure(row: ExecutionRow) -> ToolError:
    if row.state == "cancelled":
        return ToolError(Code.NODE_EXECUTION_CANCELLED, "the call was cancelled")
    return ToolError(row.error or Code.NODE_EXECUTION_FAILED, row.error_message or "the call failed")
