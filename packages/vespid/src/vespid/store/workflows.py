"""Workflows: one row per revision, the revisions of one workflow a family."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("workflows")


class WorkflowRow(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    family_id: UUID
    revision: int
    source_workflow_id: UUID | None
    name: str
    status: str
    version: int
    # JSON, undecoded.
    dsl: bytes
    editor_state: bytes | None
    created_by_user_id: UUID | None
    published_by_user_id: UUID | None
    published_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewWorkflow(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    name: str
    dsl: bytes
    editor_state: bytes | None
    user_id: UUID


class WorkflowFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which revisions; None: whichever."""

    status: str | None = None
    # A part of the name, in any case.
    name: str | None = None
    # Of each family only the newest that the status lets through.
    newest: bool = False


async def list_workflows(
    connection: asyncpg.Connection, before: UUID | None, only: WorkflowFilter, limit: int
) -> list[WorkflowRow]:
    found = await connection.fetch(QUERIES.list_workflows, before, only.status, only.name, only.newest, limit)
    return [_row(record) for record in found]


async def list_revisions(
    connection: asyncpg.Connection, workflow_id: UUID, before: int | None, limit: int
) -> list[WorkflowRow]:
    return [_row(record) for record in await connection.fetch(QUERIES.list_revisions, workflow_id, before, limit)]


async def read_workflow(connection: asyncpg.Connection, workflow_id: UUID) -> WorkflowRow | None:
    return _row_or_none(await connection.fetchrow(QUERIES.read_workflow, workflow_id))


async def lock_workflow(connection: asyncpg.Connection, workflow_id: UUID) -> WorkflowRow | None:
    """The row, which stays as it is until the transaction ends."""
    return _row_or_none(await connection.fetchrow(QUERIES.lock_workflow, workflow_id))


async def create_workflow(connection: asyncpg.Connection, new: NewWorkflow) -> WorkflowRow:
    """The first revision of a new family."""
    record = await connection.fetchrow(
        QUERIES.create_workflow, new.id, new.organization_id, new.name, new.dsl, new.editor_state, new.user_id
    )
    return _row(record)


async def change_draft(
    connection: asyncpg.Connection,
    workflow_id: UUID,
    *,
    name: str | None,
    dsl: bytes | None,
    editor_state: bytes | None,
) -> WorkflowRow | None:
    """None where there is no draft of that id."""
    return _row_or_none(await connection.fetchrow(QUERIES.change_draft, workflow_id, name, dsl, editor_state))


async def publish_workflow(connection: asyncpg.Connection, workflow_id: UUID, user_id: UUID) -> WorkflowRow | None:
    """None where there is no draft of that id."""
    return _row_or_none(await connection.fetchrow(QUERIES.publish_workflow, workflow_id, user_id))


class Schedule(msgspec.Struct, frozen=True):
    """When a family's newest published revision starts by itself."""

    cron: str
    timezone: str
    next_fire_at: datetime


async def plan_schedule(
    connection: asyncpg.Connection, published: WorkflowRow, user_id: UUID, schedule: Schedule | None
) -> None:
    """Let the family fire by this schedule, or by none; an older revision than the newest published changes nothing."""
    if not await connection.fetchval(QUERIES.is_newest_published, published.id):
        return
    if schedule is None:
        await connection.execute(QUERIES.drop_schedule, published.family_id)
        return
    await connection.execute(
        QUERIES.set_schedule,
        published.family_id,
        published.organization_id,
        published.id,
        schedule.cron,
        schedule.timezone,
        schedule.next_fire_at,
        user_id,
    )


async def lock_family(connection: asyncpg.Connection, family_id: UUID) -> None:
    """Who changes what is newest in a family waits for the other here."""
    await connection.execute(QUERIES.lock_family, family_id)


async def create_revision(
    connection: asyncpg.Connection, new_id: UUID, source: WorkflowRow, user_id: UUID
) -> WorkflowRow:
    """A draft with the source's content and the family's next number."""
    await lock_family(connection, source.family_id)
    return _row(await connection.fetchrow(QUERIES.create_revision, new_id, source.id, user_id))


def _row(record: asyncpg.Record) -> WorkflowRow:
    return WorkflowRow(**record)


def _row_or_none(record: asyncpg.Record | None) -> WorkflowRow | None:
    return None if record is None else _row(record)
