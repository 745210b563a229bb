"""What must stand in Postgres before work can move: organizations, workflows, runs, executors, processes."""

import hashlib
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from vespid.domain.selector import Requirement
from vespid.store.executions import NewRow
from vespid.store.runs import NewRun
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId, RunId, new_id

SHELL = {"id": "n1", "type": "agent.execute", "config": {"task": {"type": "shell", "script": "echo hi"}}}


class Executor(msgspec.Struct, frozen=True):
    """A paired agent, and the token that it holds."""

    id: ExecutorId
    token: str
    # None: managed.
    org_id: OrgId | None


class Lease(msgspec.Struct, frozen=True):
    """What a connected executor's frames are judged by."""

    executor: ExecutorId
    epoch: int
    edge: ProcessId


class Ground:
    """Puts rows where the control plane would, through a superuser's connection."""

    def __init__(self, superuser: "asyncpg.Connection") -> None:
        self.sql = superuser

    async def organization(self) -> OrgId:
        org_id = OrgId(new_id())
        await self.sql.execute(
            "insert into organizations (id, slug, name) values ($1, $2, 'An organization')",
            UUID(org_id),
            f"o-{org_id[-12:]}",
        )
        return org_id

    async def workflow(self, org_id: OrgId, *nodes: dict[str, Any], trigger: dict[str, Any] | None = None) -> str:
        """A published workflow of these nodes (DSL v2); a shell task where there are none."""
        workflow_id = new_id()
        dsl = {"version": "v2", "trigger": trigger or {"type": "trigger.manual"}, "nodes": list(nodes) or [SHELL]}
        await self.sql.execute(
            """insert into workflows (id, organization_id, family_id, revision, name, status, dsl, published_at)
               values ($1, $2, $1, 1, 'w', 'published', $3::text::jsonb, now())""",
            UUID(workflow_id),
            UUID(org_id),
            msgspec.json.encode(dsl).decode(),
        )
        return workflow_id

    async def run(self, org_id: OrgId, workflow_id: str, *, given: object = None, max_attempts: int = 3) -> RunId:
        """A run as the API accepts it: queued, and due."""
        run_id = RunId(new_id())
        run = NewRun(
            org=org_id,
            id=run_id,
            workflow_id=workflow_id,
            trigger_type="manual",
            max_attempts=max_attempts,
            user_id=None,
            input=msgspec.Raw(msgspec.json.encode(given)),
        )
        await self.sql.fetch("select * from vespid_create_runs($1::jsonb[])", [msgspec.json.encode(run).decode()])
        return run_id

    async def executor(
        self, org_id: OrgId | None, *, tags: tuple[str, ...] = (), max_in_flight: int = 10, name: str = "agent"
    ) -> Executor:
        executor_id = new_id()
        token = f"{org_id or executor_id}.secret-{executor_id}"
        await self.sql.execute(
            """insert into executors (id, organization_id, name, tags, max_in_flight, token_sha256)
               values ($1, $2, $3, $4, $5, $6)""",
            UUID(executor_id),
            None if org_id is None else UUID(org_id),
            name,
            list(tags),
            max_in_flight,
            hashlib.sha256(token.encode()).digest(),
        )
        return Executor(ExecutorId(executor_id), token, org_id)

    async def process(self, kind: str = "gateway", lease_ms: int = 60_000) -> ProcessId:
        process_id = ProcessId(new_id())
        await self.sql.fetchval(
            "select vespid_x_renew_process($1, $2, 'http://127.0.0.1:1', $3)", UUID(process_id), kind, lease_ms
        )
        return process_id

    async def connected(self, executor: Executor, edge: ProcessId) -> Lease:
        """A new connection of the executor on that edge."""
        row = await self.sql.fetchrow(
            "select connection_epoch from vespid_x_connect_executor($1, $2)", UUID(executor.id), UUID(edge)
        )
        assert row is not None
        return Lease(executor.id, row["connection_epoch"], edge)

    async def revoke(self, executor: Executor) -> None:
        """As the control plane does it: the row and its line in the feed are one commit."""
        async with self.sql.transaction():
            await self.sql.execute("update executors set revoked_at = now() where id = $1", UUID(executor.id))
            await self.announce("executor_revoked", executor.id, executor.org_id)

    async def announce(self, kind: str, subject_id: str, org_id: OrgId | None, payload: object = None) -> None:
        """A row of the control feed."""
        await self.sql.execute(
            "insert into control_feed (organization_id, kind, subject_id, payload)"
            " values ($1, $2, $3, $4::text::jsonb)",
            None if org_id is None else UUID(org_id),
            kind,
            subject_id,
            msgspec.json.encode(payload or {}).decode(),
        )

    async def execution(self, request_id: str) -> "asyncpg.Record":
        row = await self.sql.fetchrow("select * from executions where request_id = $1", request_id)
        assert row is not None, f"no execution {request_id}"
        return row

    async def state(self, request_id: str) -> str:
        return str((await self.execution(request_id))["state"])

    async def run_row(self, run_id: str) -> "asyncpg.Record":
        row = await self.sql.fetchrow("select * from workflow_runs where id = $1", UUID(run_id))
        assert row is not None, f"no run {run_id}"
        return row

    async def events(self, run_id: str) -> list["asyncpg.Record"]:
        return list(
            await self.sql.fetch("select * from workflow_run_events where run_id = $1 order by seq", UUID(run_id))
        )

    async def is_due(self, run_id: str) -> bool:
        return bool(await self.sql.fetchval("select exists (select from due_runs where run_id = $1)", UUID(run_id)))

    async def let_pass(self, table: str, key: str, value: object, *columns: str) -> None:
        """Put times of a row into the past, as if one had waited."""
        moved = ", ".join(f"{column} = now() - interval '1 ms'" for column in columns)
        await self.sql.execute(f"update {table} set {moved} where {key} = $1", value)


def new_row(
    org_id: OrgId, run_id: str | None = None, *, node_id: str = "n1", attempt: int = 1, **others: Any
) -> NewRow:
    """An execution as a dispatch makes it; `in_run=True` ties it to the run."""
    in_run = others.pop("in_run", False)
    requirement = Requirement("agent.execute", tags=tuple(others.get("required_tags", ())))
    payload = others.pop("payload", {"nodeId": node_id})
    raw = msgspec.json.encode(payload)
    run_id = run_id or new_id()
    return NewRow(
        **{
            "org": org_id,
            "request_id": RequestId(f"{run_id}:{node_id}:{attempt}"),
            "run_id": RunId(run_id) if in_run else None,
            "node_id": node_id,
            "node_type": "agent.execute",
            "attempt": attempt,
            "kind": "agent.execute",
            "placement": "executor",
            "payload": msgspec.Raw(raw),
            "payload_sha256": hashlib.sha256(raw).hexdigest(),
            "requirement": msgspec.Raw(msgspec.json.encode(requirement)),
            "signature": requirement.signature,
            "timeout_ms": 60_000,
            "max_wait_ms": 600_000,
        }
        | others
    )
