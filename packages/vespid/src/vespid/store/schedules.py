"""Schedules: when the cron trigger of a workflow family fires next."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from vespid.store.pool import Database
from vespid.store.queries import load
from vespid.store.runs import NewRun

QUERIES = load("schedules")


FireOutcome = Literal["created", "taken", "not_found", "not_published"]


class DueSchedule(msgspec.Struct, frozen=True):
    family_id: UUID
    organization_id: UUID
    workflow_id: UUID
    cron: str
    timezone: str
    next_fire_at: datetime
    user_id: UUID | None


async def due_schedules(db: Database, most: int) -> list[DueSchedule]:
    """Schedules whose time has come; several workers may see the same one."""
    return [DueSchedule(**row) for row in await db.fetch_system(QUERIES.due_schedules, most)]


async def fire_schedule(db: Database, due: DueSchedule, next_at: datetime | None, run: NewRun) -> FireOutcome:
    """Move the time on and create the run, in one commit. `taken`: another worker was first. None: never again."""
    outcome: FireOutcome = await db.fetchval_system(
        QUERIES.fire_schedule,
        due.organization_id,
        due.family_id,
        due.next_fire_at,
        next_at,
        msgspec.json.encode(run),
    )
    return outcome
