"""Agents, which the inside calls executors: what an operator sees of them and may do to them.

A change and the row of the control feed that tells of it are one transaction; the gateway's own statements check the
same columns, so that nothing depends on the feed being read.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.pool import Database
from vespid.store.queries import load
from vespid_protocol.ids import OrgId

QUERIES = load("agents")

# How an agent stands for those who look for it: what is cordoned counts as that, whether it is online or not.
Standing = Literal["online", "offline", "cordoned", "revoked"]


class AgentRow(msgspec.Struct, frozen=True):
    """An executor as its owner may see it."""

    id: UUID
    # None: of the managed pool.
    organization_id: UUID | None
    name: str
    agent_version: str | None
    # The control plane's; these route.
    tags: list[str]
    # The agent's own words, for people.
    reported_tags: list[str]
    # None: all.
    kinds: list[str] | None
    connectors: list[str] | None
    # None: not filtered by engine.
    engines: list[str] | None
    # Sandboxes it can really run; None: it does not say.
    backends: list[str] | None
    max_in_flight: int
    cordoned: bool
    draining: bool
    enabled: bool
    revoked_at: datetime | None
    created_at: datetime
    # When a connection of it last began or ended.
    last_seen_at: datetime | None
    # Since when it is given work; None until its gateway has announced the connection.
    connected_at: datetime | None
    # None while it is connected.
    lost_at: datetime | None
    # When the process that has its socket last renewed its lease.
    edge_renewed_at: datetime | None
    # Requests that it holds.
    in_flight: int
    # What it says of engines that need a program there: a JSON list.
    engine_states: bytes | None = None
    runtime_class: str | None = None
    region: str | None = None
    # JSON of [{id, description}], skills and tools of MCP servers; None: it does not say.
    tools: bytes | None = None
    # JSON of [{id, problem}].
    tool_problems: bytes | None = None

    @property
    def heard_at(self) -> datetime | None:
        """When it was last heard of, as exactly as Postgres knows: to the renewal of its edge's lease."""
        if self.last_seen_at is None or self.lost_at is not None or self.edge_renewed_at is None:
            return self.last_seen_at
        return max(self.last_seen_at, self.edge_renewed_at)


class ReportedTool(msgspec.Struct, frozen=True, rename="camel"):
    """A tool that some host offers to models."""

    id: str
    description: str = ""
    input_schema: dict[str, object] = msgspec.field(default_factory=lambda: {"type": "object"})


async def reported_tools(
    db: Database, organization_id: OrgId, *, pool: str, tags: Sequence[str], executor_id: str | None
) -> list[ReportedTool]:
    """What the hosts offer to which work with such a selector may go. What one of them says wrongly is left out."""
    executor = None if executor_id is None else UUID(executor_id)
    rows = await db.fetch_system(QUERIES.reported_tools, UUID(organization_id), pool, list(tags), executor)
    return [tool for row in rows if (tool := _reported(row["tool"])) is not None]


def _reported(said: bytes) -> ReportedTool | None:
    try:
        return msgspec.json.decode(said, type=ReportedTool)
    except msgspec.DecodeError:
        return None


class AgentFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which agents are meant; None: all. Online is who was heard of within `stale_ms` before `now`."""

    now: datetime
    stale_ms: int
    id: UUID | None = None
    # One of the control plane's.
    tag: str | None = None
    # Part of the name.
    text: str | None = None
    standing: Standing | None = None


async def list_agents(
    connection: asyncpg.Connection, organization_id: UUID, before: UUID | None, limit: int, only: AgentFilter
) -> list[AgentRow]:
    records = await connection.fetch(
        QUERIES.list_agents,
        organization_id,
        before,
        limit,
        only.id,
        only.tag,
        only.text,
        only.standing,
        only.now,
        only.stale_ms,
    )
    return [AgentRow(**record) for record in records]


async def change_tags(connection: asyncpg.Connection, organization_id: UUID, agent_id: UUID, tags: list[str]) -> bool:
    """False where there is no such agent, or it is revoked."""
    version = await connection.fetchval(QUERIES.change_tags, organization_id, agent_id, tags)
    if version is None:
        return False
    payload = msgspec.json.encode({"tags": tags, "tagsVersion": version})
    await _announce(connection, organization_id, "executor_tags", agent_id, payload)
    return True


async def set_cordoned(connection: asyncpg.Connection, organization_id: UUID, agent_id: UUID, cordoned: bool) -> bool:
    """False where there is no such agent, or it is revoked."""
    if await connection.fetchval(QUERIES.set_cordoned, organization_id, agent_id, cordoned) is None:
        return False
    kind = "executor_cordoned" if cordoned else "executor_uncordoned"
    await _announce(connection, organization_id, kind, agent_id)
    return True


async def revoke_agent(connection: asyncpg.Connection, organization_id: UUID, agent_id: UUID) -> bool:
    """False where there is no such agent. Revoking twice is one revoke."""
    if await connection.fetchrow(QUERIES.lock_agent, organization_id, agent_id) is None:
        return False
    if await connection.fetchval(QUERIES.revoke_agent, organization_id, agent_id) is not None:
        await _announce(connection, organization_id, "executor_revoked", agent_id)
    return True


async def rotate_agent_token(
    connection: asyncpg.Connection, organization_id: UUID, agent_id: UUID, token_sha256: bytes, grace_ms: int
) -> bool:
    """False where there is no such agent, or it is revoked."""
    rotated = await connection.fetchval(QUERIES.rotate_agent_token, organization_id, agent_id, token_sha256, grace_ms)
    if rotated is None:
        return False
    payload = msgspec.json.encode({"graceMs": grace_ms})
    await _announce(connection, organization_id, "executor_token_rotated", agent_id, payload)
    return True


class ManagedSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a managed executor is issued with."""

    name: str
    max_in_flight: int = 10
    labels: list[str] = []
    capabilities: msgspec.Raw | None = None
    kinds: list[str] | None = None
    connectors: list[str] | None = None
    engines: list[str] | None = None
    reported_tags: list[str] = []
    runtime_class: str | None = None
    region: str | None = None


async def issue_managed_executor(database: Database, executor_id: UUID, token_sha256: bytes, spec: ManagedSpec) -> None:
    await database.execute_system(QUERIES.issue_managed_executor, executor_id, token_sha256, msgspec.json.encode(spec))


async def list_managed_executors(database: Database, before: UUID | None, limit: int) -> list[AgentRow]:
    records = await database.fetch_system(QUERIES.list_managed_executors, before, limit)
    return [
        msgspec.convert(
            {
                **msgspec.json.decode(record["executor"]),
                "in_flight": record["in_flight"],
                "edge_renewed_at": record["edge_renewed_at"],
            },
            AgentRow,
        )
        for record in records
    ]


async def change_managed_executor(
    database: Database, executor_id: UUID, *, drain: bool | None, enabled: bool | None
) -> bool:
    """False where there is no such managed executor, or it is revoked. None leaves what is there."""
    changed: bool = await database.fetchval_system(QUERIES.change_managed_executor, executor_id, drain, enabled)
    return changed


async def revoke_managed_executor(database: Database, executor_id: UUID) -> bool:
    """False where there is no such managed executor. Revoking twice is one revoke."""
    revoked: bool = await database.fetchval_system(QUERIES.revoke_managed_executor, executor_id)
    return revoked


async def _announce(
    connection: asyncpg.Connection, organization_id: UUID, kind: str, agent_id: UUID, payload: bytes = b"{}"
) -> None:
    await connection.execute(QUERIES.announce, organization_id, kind, str(agent_id), payload)
