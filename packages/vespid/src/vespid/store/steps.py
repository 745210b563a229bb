"""Steps of runs: what the run machine decided, written by one statement guarded by the run's version."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.group import GroupCommit
from vespid.store.group_read import GroupRead
from vespid.store.pool import Database
from vespid.store.queries import load
from vespid_protocol.ids import OrgId, RunId

QUERIES = load("steps")

# After so many steps that raise, the run fails with INTERNAL_ERROR (migration 0003).
MAX_STEP_FAILURES = 5

_encode = msgspec.json.Encoder().encode


class StepItem(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One step as `vespid_i_write_step` reads it. Written only where the run is still at `version`."""

    org: OrgId
    run: RunId
    version: int
    status: str
    attempt: int
    cursor: msgspec.Raw
    error: str | None = None
    error_message: str | None = None
    next_attempt_at: int | None = None
    # Epoch ms at which somebody must step again; absent when only a result will.
    due_at: int | None = None
    started: bool = False
    finished: bool = False
    # executions.EventItem and executions.NewRow; objects here, for those modules build on this one.
    events: Sequence[object] = ()
    executions: Sequence[object] = ()
    cancels: Sequence[str] = ()
    # Ended executions whose ends are in this cursor.
    applied: Sequence[str] = ()


class Cancelling(msgspec.Struct, frozen=True, rename="camel"):
    """A live execution that the step cancels: its holder has to be told."""

    request_id: str
    executor_id: str | None
    holder: str | None
    lease_epoch: int


class StepWritten(msgspec.Struct, frozen=True):
    """The run's version and event seq after the step; what it cancelled at once, and whom to tell."""

    version: int
    seq: int
    cancelled: list[str] = []
    cancelling: list[Cancelling] = []


class EndedExecution(msgspec.Struct, frozen=True, rename="camel"):
    """The end of an execution that is not in the cursor yet."""

    request_id: str
    node_id: str
    attempt: int
    state: Literal["succeeded", "failed", "cancelled"]
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    error_message: str | None = None
    error_details: msgspec.Raw = msgspec.Raw(b"null")


class LoadedRun(msgspec.Struct, frozen=True):
    """All that a step needs; JSON undecoded."""

    workflow_id: UUID
    status: str
    attempt_count: int
    max_attempts: int
    requested_by_user_id: UUID | None
    input: bytes | None
    cursor: bytes | None
    version: int
    cancel_requested: bool
    finished: bool
    next_attempt_at: datetime | None
    # What the organization has set, JSON; None: nothing.
    settings: bytes | None
    ends: list[EndedExecution]


class DueRun(msgspec.Struct, frozen=True):
    run_id: UUID
    organization_id: UUID


_decode_written = msgspec.json.Decoder(StepWritten).decode
_decode_ends = msgspec.json.Decoder(list[EndedExecution]).decode


def step_written(detail: bytes) -> StepWritten:
    """What a step's write answered (`Finished.detail` carries one too)."""
    return _decode_written(detail)


class StepStore:
    """Reads runs for a step and writes steps. A Service: `start` opens the grouped connections."""

    def __init__(self, db: Database, *, connections: int = 2) -> None:
        self._db = db
        self._steps: GroupCommit[StepItem, StepWritten | None] = GroupCommit(
            db, _apply, key=lambda item: item.run, connections=connections, name="apply-steps"
        )
        self._loads: GroupRead[tuple[OrgId, RunId], LoadedRun | None] = GroupRead(
            db, _load, connections=connections, name="load-runs"
        )

    async def start(self) -> None:
        await self._steps.start()
        await self._loads.start()

    async def stop(self) -> None:
        await self._loads.stop()
        await self._steps.stop()

    async def load(self, org_id: OrgId, run_id: RunId) -> LoadedRun | None:
        """The run as it is; None where the organization has none of that id."""
        return await self._loads.answer((org_id, run_id))

    async def apply(self, item: StepItem) -> StepWritten | None:
        """Write a step; None where the run has moved on from `version`: load it and step again."""
        return await self._steps.submit(item)

    async def fail(
        self, org_id: OrgId, run_id: RunId, version: int, message: str
    ) -> Literal["again", "failed", "conflict"]:
        """A step raised: it is due again a little later, and after MAX_STEP_FAILURES the run fails."""
        verdict: Literal["again", "failed", "conflict"] = await self._db.fetchval_system(
            QUERIES.step_failed, UUID(org_id), UUID(run_id), version, message
        )
        return verdict

    async def due(self, most: int = 200) -> list[DueRun]:
        """Runs that somebody must step now, for this caller to do so; others are not told of them for 5 s."""
        return [DueRun(**row) for row in await self._db.fetch_system(QUERIES.due_runs, most)]


async def _apply(connection: asyncpg.Connection, items: Sequence[StepItem]) -> list[StepWritten | None]:
    answers = await connection.fetch(QUERIES.apply_steps, [_encode(item) for item in items])
    return [None if answer["detail"] is None else _decode_written(answer["detail"]) for answer in answers]


async def _load(connection: asyncpg.Connection, asked: Sequence[tuple[OrgId, RunId]]) -> list[LoadedRun | None]:
    rows = await connection.fetch(
        QUERIES.load_runs, [UUID(org_id) for org_id, _ in asked], [UUID(run_id) for _, run_id in asked]
    )
    return [_loaded(row) for row in rows]


def _loaded(row: asyncpg.Record) -> LoadedRun | None:
    if row["workflow_id"] is None:
        return None
    fields = dict(row)
    ends = fields.pop("ends")
    return LoadedRun(**fields, ends=[] if ends is None else _decode_ends(ends))
