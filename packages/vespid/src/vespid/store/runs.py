"""Runs as their callers see them: created, cancelled, looked at. Steps are in `steps`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.group import GroupCommit
from vespid.store.pool import Database
from vespid.store.queries import load
from vespid.store.steps import StepItem, StepWritten, step_written
from vespid_protocol.ids import OrgId, RunId

QUERIES = load("runs")

_encode = msgspec.json.Encoder().encode

TriggerType = Literal["manual", "webhook", "cron", "api"]
CreateOutcome = Literal["created", "not_found", "not_published"]
RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
CancelOutcome = Literal["requested", "finished", "not_found"]


class Retry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a run takes over of an earlier one."""

    run_id: str
    from_node_id: str | None = None
    # `RunState` with the nodes taken over, and which of them have their output in an execution.
    cursor: msgspec.Raw
    nodes: list[str]


class NewRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A run as `vespid_create_runs` reads it; created twice under one id, it is one run."""

    org: OrgId
    id: RunId
    workflow_id: str
    trigger_type: TriggerType
    max_attempts: int
    # Whose name it carries; for cron and webhook the publisher's.
    user_id: str | None
    input: msgspec.Raw | None = None
    retry: Retry | None = None
    # Its first step, written together with it; None: it is due, and whoever is told makes that step.
    step: StepItem | None = None


class Created(msgspec.Struct, frozen=True):
    """Only `created` left a row. `step`: what its first step answered, where that was written with it."""

    outcome: CreateOutcome
    created_at: datetime
    step: StepWritten | None = None


class RunRow(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    workflow_id: UUID
    trigger_type: TriggerType
    status: str
    attempt_count: int
    max_attempts: int
    next_attempt_at: datetime | None
    requested_by_user_id: UUID | None
    # JSON, undecoded, here and below.
    input: bytes | None
    error: str | None
    error_message: str | None
    # `vespid.domain.run_state.RunState`; None before the first step.
    cursor: bytes | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    # Read where runs of several workflows are.
    workflow_name: str | None = None
    retry_of_run_id: UUID | None = None
    retry_from_node_id: str | None = None


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which of an organization's runs; None: whichever."""

    status: RunStatus | None = None
    workflow_id: UUID | None = None
    trigger_type: TriggerType | None = None


class BlockedRow(msgspec.Struct, frozen=True):
    """An execution that the run waits for."""

    run_id: UUID
    request_id: str
    node_id: str
    kind: str
    created_at: datetime
    act_by: datetime
    # Of what people are asked, that which waits for them; None: it waits for something else.
    approval_ids: list[UUID] | None


class NodeEnd(msgspec.Struct, frozen=True):
    """What a node's latest ended attempt answered."""

    output: bytes | None


class EventRow(msgspec.Struct, frozen=True):
    id: UUID
    seq: int
    organization_id: UUID
    workflow_id: UUID
    run_id: UUID
    attempt_count: int
    event_type: str
    node_id: str | None
    node_type: str | None
    level: str
    message: str | None
    payload: bytes | None
    created_at: datetime


class Progress(msgspec.Struct, frozen=True):
    """The seq of the run's last event, and whether it will have no more."""

    event_seq: int
    is_finished: bool


class RunCreator:
    """Creates runs, several callers' as one commit. A Service: `start` opens the grouped connections."""

    def __init__(self, db: Database, *, connections: int = 2) -> None:
        self._creations: GroupCommit[NewRun, Created] = GroupCommit(
            db, create_runs, key=lambda run: run.id, connections=connections, name="create-runs"
        )

    async def start(self) -> None:
        await self._creations.start()

    async def stop(self) -> None:
        await self._creations.stop()

    async def create(self, run: NewRun) -> Created:
        """The run is committed when this returns. Raises what `GroupCommit.submit` raises."""
        return await self._creations.submit(run)


async def create_runs(connection: asyncpg.Connection, runs: Sequence[NewRun]) -> list[Created]:
    """Create runs within the caller's transaction, or as one commit of its own."""
    rows = await connection.fetch(QUERIES.create_runs, [_encode(run) for run in runs])
    return [
        Created(row["outcome"], row["created_at"], None if row["detail"] is None else step_written(row["detail"]))
        for row in rows
    ]


async def cancel_run(connection: asyncpg.Connection, org_id: UUID, run_id: UUID) -> CancelOutcome:
    """Ask for the end of a run; it is due then. A finished one stays as it is."""
    outcome: CancelOutcome = await connection.fetchval(QUERIES.cancel_run, org_id, run_id)
    return outcome


async def workflow_exists(connection: asyncpg.Connection, org_id: UUID, workflow_id: UUID) -> bool:
    exists: bool = await connection.fetchval(QUERIES.workflow_exists, org_id, workflow_id)
    return exists


async def list_runs(
    connection: asyncpg.Connection, org_id: UUID, workflow_id: UUID, before: UUID | None, limit: int
) -> list[RunRow]:
    return [RunRow(**row) for row in await connection.fetch(QUERIES.list_runs, org_id, workflow_id, before, limit)]


async def list_org_runs(
    connection: asyncpg.Connection, org_id: UUID, only: RunFilter, before: UUID | None, limit: int
) -> list[RunRow]:
    """Of every workflow, the newest first."""
    given = [org_id, before, only.workflow_id, only.trigger_type, limit]
    if only.status is None:
        rows = await connection.fetch(QUERIES.list_org_runs, *given)
    elif only.status == "succeeded":
        rows = await connection.fetch(QUERIES.list_succeeded_runs, *given)
    elif only.status in ("failed", "cancelled"):
        rows = await connection.fetch(QUERIES.list_unhappy_runs, *given, only.status)
    else:
        rows = await connection.fetch(QUERIES.list_unfinished_runs, *given, only.status)
    return [RunRow(**row) for row in rows]


async def read_run(connection: asyncpg.Connection, org_id: UUID, workflow_id: UUID, run_id: UUID) -> RunRow | None:
    row = await connection.fetchrow(QUERIES.read_run, org_id, workflow_id, run_id)
    return None if row is None else RunRow(**row)


async def read_any_run(connection: asyncpg.Connection, org_id: UUID, run_id: UUID) -> RunRow | None:
    """The run whichever workflow it is of."""
    row = await connection.fetchrow(QUERIES.read_any_run, org_id, run_id)
    return None if row is None else RunRow(**row)


async def list_blocked(
    connection: asyncpg.Connection, org_id: UUID, run_ids: Sequence[UUID]
) -> dict[UUID, list[BlockedRow]]:
    """What each of these runs waits for, the oldest first; a run that waits for nothing is not in it."""
    blocked: dict[UUID, list[BlockedRow]] = {}
    for row in await connection.fetch(QUERIES.list_blocked, org_id, run_ids):
        blocked.setdefault(row["run_id"], []).append(BlockedRow(**row))
    return blocked


async def list_outputs(connection: asyncpg.Connection, org_id: UUID, run_id: UUID) -> dict[str, msgspec.Raw]:
    """What each node's latest ended attempt answered, where it answered anything."""
    records = await connection.fetch(QUERIES.list_outputs, org_id, run_id)
    return {row["node_id"]: msgspec.Raw(row["output"]) for row in records if row["output"] is not None}


async def read_node_end(connection: asyncpg.Connection, org_id: UUID, run_id: UUID, node_id: str) -> NodeEnd | None:
    """None where no attempt of that node has ended, or the node has no executions."""
    row = await connection.fetchrow(QUERIES.read_node_end, org_id, run_id, node_id)
    return None if row is None else NodeEnd(**row)


async def list_events(connection: asyncpg.Connection, run_id: UUID, after_seq: int, limit: int) -> list[EventRow]:
    """Events in the order of `seq`, which is the order of their commits."""
    return [EventRow(**row) for row in await connection.fetch(QUERIES.list_events, run_id, after_seq, limit)]


async def read_progress(
    connection: asyncpg.Connection, org_id: UUID, workflow_id: UUID, run_id: UUID
) -> Progress | None:
    row = await connection.fetchrow(QUERIES.read_progress, org_id, workflow_id, run_id)
    return None if row is None else Progress(**row)
