"""Executions: requests to somebody with I/O, leased by one committed statement each.

`ExecutionStore` groups callers: what several of them ask for at the same time goes as one call and one commit. Each
method answers what became of that one request; see migration 0003 for what guards it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.group import GroupCommit
from vespid.store.pool import Database
from vespid.store.queries import load
from vespid.store.steps import StepItem
from vespid.store.usage import UsageItem
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId, RunId

QUERIES = load("executions")

MAX_PLACEMENTS = 3

_encode = msgspec.json.Encoder().encode


class SecretRefs(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which secrets a request needs: ids, never values."""

    # The one that travels as `execute.secret`.
    auth: str | None = None
    # Those that `{{secrets.<id>}}` names.
    named: tuple[str, ...] = ()
    # It came with the dispatch and is only in memory.
    inline: bool = False


class NewRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A row to insert, as JSON for `vespid_i_insert_execution`. `org` is read by the create functions only."""

    org: OrgId
    request_id: RequestId
    run_id: RunId | None = None
    workflow_id: str | None = None
    node_id: str
    node_type: str
    attempt: int
    kind: str
    placement: Literal["executor", "cloud", "gateway", "person"]
    user_id: str | None = None
    payload: msgspec.Raw
    # Lower-case hex over the compact JSON of the payload and all that changes what is done.
    payload_sha256: str
    secret_refs: SecretRefs | None = None
    pool: Literal["byon", "managed"] | None = None
    required_tags: tuple[str, ...] = ()
    requirement: msgspec.Raw | None = None
    selector: msgspec.Raw | None = None
    signature: str | None = None
    pin_executor_id: ExecutorId | None = None
    priority: int = 0
    on_unavailable: Literal["wait", "fail"] = "wait"
    max_wait_ms: int | None = None
    timeout_ms: int
    on_lost: Literal["fail", "resend", "wait"] | None = None
    # A server process that takes it at once.
    holder: ProcessId | None = None
    # Of an approval: `domain.run_event.Ask`s, each a row of approvals.
    asks: Sequence[object] = ()


class Standing(msgspec.Struct, frozen=True):
    """What stands under a request's id. `conflict`: it is another organization's, or another payload's."""

    outcome: Literal["created", "exists", "conflict"]
    state: str | None
    output: bytes | None
    error: str | None
    error_message: str | None


class Grant(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Lease this request to that executor on that connection; with `create`, insert it in the same statement."""

    request: RequestId
    executor: ExecutorId
    connection_epoch: int
    edge: ProcessId
    create: msgspec.Raw | None = None


class Granted(msgspec.Struct, frozen=True):
    """The lease stands; `payload` and the rest are what `execute` needs."""

    lease_epoch: int
    organization_id: UUID
    run_id: UUID | None
    workflow_id: UUID | None
    node_id: str
    node_type: str
    attempt: int
    kind: str
    requested_by_user_id: UUID | None
    payload: bytes
    secret_refs: bytes | None
    timeout_ms: int
    on_lost: Literal["fail", "resend", "wait"]


class NotGranted(msgspec.Struct, frozen=True):
    """`refused`: that executor may not have it, choose again. `gone`: no longer pending. Else as in `Standing`."""

    outcome: Literal["refused", "gone", "exists", "conflict"]
    standing: Standing | None = None


class EventItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of a run's history, short keys as `vespid_i_append_events` reads them."""

    # event type, level, node id, node type, message, payload, attemptCount
    t: str
    l: str = "info"  # noqa: E741
    n: str | None = None
    nt: str | None = None
    m: str | None = None
    p: object = None
    a: int | None = None


class Finish(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A result, and what it does to its run. Either `executor` and `connection_epoch`, or `process`, is the sender."""

    request: RequestId
    executor: ExecutorId | None = None
    connection_epoch: int | None = None
    process: ProcessId | None = None
    # None: what a base peer says counts for the epoch last granted to it.
    epoch: int | None = None
    status: Literal["succeeded", "failed"]
    output: msgspec.Raw | None = None
    error: str | None = None
    error_message: str | None = None
    error_details: msgspec.Raw | None = None
    # The last remote events, not persisted yet.
    tail: Sequence[EventItem] = ()
    last_event_seq: int | None = None
    # How long the result of a request without a run stays readable.
    keep_ms: int = 900_000
    step: StepItem | None = None
    # What a model took to make it; written where the result counts.
    usage: UsageItem | None = None


class Finished(msgspec.Struct, frozen=True):
    """The verdict. `stale`: the connection is not the newest or is revoked, do not acknowledge; else acknowledge."""

    outcome: Literal["applied", "deferred", "cancelled", "duplicate", "fenced", "unknown", "stale"]
    organization_id: UUID | None
    run_id: UUID | None
    # What `StepStore.apply` answers for the step, where it was applied.
    detail: bytes | None
    # What a model took was written with it.
    is_metered: bool


class Append(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Remote events of running work, in order and without the ones already appended."""

    request: RequestId
    executor: ExecutorId
    connection_epoch: int
    epoch: int | None = None
    first_event_seq: int
    last_event_seq: int
    events: Sequence[EventItem]


class Appended(msgspec.Struct, frozen=True):
    """`fenced`: nothing was written. Else the run's `seq` after these events; None where there is no run."""

    outcome: Literal["appended", "fenced"]
    run_id: UUID | None
    seq: int | None


class Keep(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How far work of a server's own kind has come, and what is told of it."""

    request: RequestId
    process: ProcessId
    epoch: int
    events: Sequence[EventItem]
    # Of the last of them; the first follows the last one of the statement before.
    last_event_seq: int
    # A JSON document, kept as text; None: as it was.
    progress: str | None = None
    # It is further than when it was leased.
    further: bool = False


class Kept(msgspec.Struct, frozen=True):
    """`fenced`: nothing was written. Else the run's `seq` after these events; None where there were none."""

    outcome: Literal["kept", "fenced"]
    run_id: UUID | None
    seq: int | None


class Resume(msgspec.Struct, frozen=True):
    """From where an execution goes on, the tool events of its node so far, and what people decided of its calls: JSON
    arrays."""

    resume: str | None = None
    prior: bytes | None = None
    decided: bytes | None = None


class GiveBack(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Work that was not begun goes back to pending: declined, or never sent."""

    request: RequestId
    executor: ExecutorId
    epoch: int | None = None


class WaitNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a pending request waits."""

    request: RequestId
    reason: str


class Noted(msgspec.Struct, frozen=True):
    """`same`: that was known. Else the run's `seq` after the `node_waiting` event, where there is a run."""

    outcome: Literal["noted", "same"]
    run_id: UUID | None
    seq: int | None


class CloudWork(msgspec.Struct, frozen=True):
    """Work of a server's own kind, leased to this process."""

    request_id: str
    lease_epoch: int
    organization_id: UUID
    run_id: UUID | None
    workflow_id: UUID | None
    node_id: str
    node_type: str
    attempt: int
    kind: str
    requested_by_user_id: UUID | None
    payload: bytes
    secret_refs: bytes | None
    timeout_ms: int


class Refusal(msgspec.Struct, frozen=True):
    outcome: Literal["concluded", "gone"]
    organization_id: UUID | None
    run_id: UUID | None


class Cancellation(msgspec.Struct, frozen=True):
    """`cancelling`: tell the holder, an executor at `edge_id` or a process."""

    outcome: Literal["cancelled", "cancelling", "finished", "unknown"]
    organization_id: UUID | None
    run_id: UUID | None
    executor_id: UUID | None
    holder_process: UUID | None
    lease_epoch: int | None
    edge_id: UUID | None


class ExecutionRow(msgspec.Struct, frozen=True):
    organization_id: UUID
    state: str
    output: bytes | None
    error: str | None
    error_message: str | None
    finished_at: datetime | None
    # Its end is in its run, or it has none.
    applied: bool
    executor_id: UUID | None
    lease_epoch: int
    act_by: datetime


class EndedRow(msgspec.Struct, frozen=True):
    request_id: str
    state: Literal["succeeded", "failed", "cancelled"]
    output: bytes | None
    error: str | None


class PendingRow(msgspec.Struct, frozen=True):
    """What the scheduler needs to offer a request again; `executor_id` is the holder that was lost, if any."""

    request_id: str
    organization_id: UUID
    run_id: UUID | None
    kind: str
    pool: Literal["byon", "managed"]
    requirement: bytes | None
    pin_executor_id: UUID | None
    priority: int
    on_unavailable: Literal["wait", "fail"]
    executor_id: UUID | None
    created_at: datetime


class LeaseRow(msgspec.Struct, frozen=True):
    request_id: str
    organization_id: UUID
    pool: Literal["byon", "managed"]
    executor_id: UUID
    state: str


class Swept(msgspec.Struct, frozen=True):
    """`offer`: still pending, offer it again. `concluded`: ended by its deadline. `deleted`, `later`: nothing to do."""

    request_id: str
    action: Literal["offer", "concluded", "deleted", "later"]
    organization_id: UUID
    run_id: UUID | None
    executor_id: UUID | None
    holder_process: UUID | None
    lease_epoch: int
    state_before: str
    placement: Literal["executor", "cloud", "gateway", "person"]


class ExecutionStore:
    """Every change of an execution. A Service: `start` opens the grouped connections."""

    def __init__(self, db: Database, *, connections: int = 2) -> None:
        self._db = db
        self._creates: GroupCommit[NewRow, Standing] = GroupCommit(
            db, _create, key=lambda row: row.request_id, connections=connections, name="create-executions"
        )
        self._grants: GroupCommit[Grant, Granted | NotGranted] = GroupCommit(
            db, _grant, key=lambda item: item.request, connections=connections, name="grant-executions"
        )
        self._finishes: GroupCommit[Finish, Finished] = GroupCommit(
            db, _finish, key=_run_of, connections=connections, name="finish-executions"
        )
        self._appends: GroupCommit[Append, Appended] = GroupCommit(
            db, _append, key=_run_of, connections=1, name="append-events"
        )
        self._returns: GroupCommit[GiveBack, bool] = GroupCommit(
            db, _return, key=lambda item: item.request, connections=1, name="return-executions"
        )
        self._notes: GroupCommit[WaitNote, Noted] = GroupCommit(
            db, _note, key=_run_of, connections=1, name="note-waiting"
        )
        self._keeps: GroupCommit[Keep, Kept] = GroupCommit(
            db, _keep, key=_run_of, connections=1, name="keep-executions"
        )
        self._groups = (
            self._creates,
            self._grants,
            self._finishes,
            self._appends,
            self._returns,
            self._notes,
            self._keeps,
        )

    async def start(self) -> None:
        for group in self._groups:
            await group.start()

    async def stop(self) -> None:
        for group in self._groups:
            await group.stop()

    async def create(self, row: NewRow) -> Standing:
        """Put a request down as pending, unless it stands already."""
        return await self._creates.submit(row)

    async def grant(self, grant: Grant) -> Granted | NotGranted:
        """Lease a request: committed before the first byte of `execute` may be sent."""
        return await self._grants.submit(grant)

    async def finish(self, finish: Finish) -> Finished:
        """Make a result terminal, and apply it to its run where a step is given and still fits."""
        return await self._finishes.submit(finish)

    async def append_events(self, append: Append) -> Appended:
        """Persist remote events."""
        return await self._appends.submit(append)

    async def give_back(self, item: GiveBack) -> bool:
        """Return unbegun work to pending. False: the lease was not that executor's any more."""
        return await self._returns.submit(item)

    async def note_waiting(self, note: WaitNote) -> Noted:
        """Say why a request waits; once per reason."""
        return await self._notes.submit(note)

    async def claim_cloud(
        self, process: ProcessId, placements: Sequence[str], running: Sequence[str], most: int
    ) -> list[CloudWork]:
        """Lease pending work of the server's own kinds to this process, and what it holds without `running` it."""
        rows = await self._db.fetch_system(QUERIES.claim_cloud, UUID(process), list(placements), list(running), most)
        return [CloudWork(**row) for row in rows]

    async def keep(self, keep: Keep) -> Kept:
        """Say how far work has come that this process holds."""
        return await self._keeps.submit(keep)

    async def hand_over(self, request: RequestId, process: ProcessId, epoch: int) -> bool:
        """Leave work that this process holds to another. False: the lease was not its own any more."""
        return bool(await self._db.fetchval_system(QUERIES.hand_over, request, UUID(process), epoch))

    async def read_resume(self, org_id: OrgId, request: RequestId, *, prior_max_chars: int = 0) -> Resume:
        """From where it goes on; with `prior_max_chars`, also the newest tool events that come to no more than that."""
        row = await self._db.fetchrow_system(QUERIES.read_resume, UUID(org_id), request, prior_max_chars)
        return Resume() if row is None else Resume(**row)

    async def refuse(self, request: RequestId, code: str, details: bytes | None = None) -> Refusal:
        """End a pending request with a refusal that the scheduler found."""
        row = await self._db.fetchrow_system(QUERIES.refuse_execution, request, code, details)
        return Refusal(**_one(row))

    async def cancel(self, request: RequestId) -> Cancellation:
        """Ask for the end of one request."""
        return Cancellation(**_one(await self._db.fetchrow_system(QUERIES.cancel_execution, request)))

    async def read(self, request: RequestId) -> ExecutionRow | None:
        row = await self._db.fetchrow_system(QUERIES.read_execution, request)
        return None if row is None else ExecutionRow(**row)

    async def read_ended(self, requests: Sequence[RequestId]) -> list[EndedRow]:
        """Of these, the ones that are terminal."""
        return [EndedRow(**row) for row in await self._db.fetch_system(QUERIES.read_ended, list(requests))]

    async def read_pending(self, requests: Sequence[RequestId]) -> list[PendingRow]:
        """Of these, the ones that still wait for an executor."""
        return [PendingRow(**row) for row in await self._db.fetch_system(QUERIES.read_pending, list(requests))]

    async def live_leases(self, after: str = "", most: int = 1000) -> list[LeaseRow]:
        """A page of the leases that executors hold, by request id."""
        return [LeaseRow(**row) for row in await self._db.fetch_system(QUERIES.live_leases, after, most)]

    async def now_ms(self) -> int:
        """Epoch ms by the clock of Postgres."""
        return int(await self._db.fetchval_system(QUERIES.now_ms))

    async def sweep(self, most: int = 200) -> list[Swept]:
        """Act on executions whose time has come. A full batch means that there may be more."""
        return [Swept(**row) for row in await self._db.fetch_system(QUERIES.sweep_executions, most)]


async def read_outputs(
    connection: asyncpg.Connection, run_id: RunId, node_ids: Sequence[str]
) -> dict[str, msgspec.Raw]:
    """Outputs of finished nodes of a run, undecoded; in a tenant's transaction."""
    rows = await connection.fetch(QUERIES.read_outputs, UUID(run_id), list(node_ids))
    return {row["node_id"]: msgspec.Raw(row["output"] or b"null") for row in rows}


def _run_of(item: Finish | Append | WaitNote | Keep) -> str:
    """Results of one run go one after another, so that the second finds the first one's version."""
    return item.request.partition(":")[0]


def _one(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise RuntimeError("a function that answers one row answered none")
    return row


async def _create(connection: asyncpg.Connection, rows: Sequence[NewRow]) -> list[Standing]:
    answers = await connection.fetch(QUERIES.create_executions, [_encode(row) for row in rows])
    return [Standing(**answer) for answer in answers]


async def _grant(connection: asyncpg.Connection, items: Sequence[Grant]) -> list[Granted | NotGranted]:
    answers = await connection.fetch(QUERIES.grant_executions, [_encode(item) for item in items])
    return [_granted(answer) for answer in answers]


def _granted(answer: asyncpg.Record) -> Granted | NotGranted:
    outcome = answer["outcome"]
    if outcome == "granted":
        return Granted(**{field: answer[field] for field in Granted.__struct_fields__})
    if outcome in ("exists", "conflict"):
        return NotGranted(outcome, Standing(**{field: answer[field] for field in Standing.__struct_fields__}))
    return NotGranted(outcome)


async def _finish(connection: asyncpg.Connection, items: Sequence[Finish]) -> list[Finished]:
    answers = await connection.fetch(QUERIES.finish_executions, [_encode(item) for item in items])
    return [Finished(**answer) for answer in answers]


async def _append(connection: asyncpg.Connection, items: Sequence[Append]) -> list[Appended]:
    answers = await connection.fetch(QUERIES.append_remote_events, [_encode(item) for item in items])
    return [Appended(**answer) for answer in answers]


async def _keep(connection: asyncpg.Connection, items: Sequence[Keep]) -> list[Kept]:
    answers = await connection.fetch(QUERIES.keep_executions, [_encode(item) for item in items])
    return [Kept(**answer) for answer in answers]


async def _return(connection: asyncpg.Connection, items: Sequence[GiveBack]) -> list[bool]:
    answers = await connection.fetch(QUERIES.return_executions, [_encode(item) for item in items])
    return [answer["outcome"] == "returned" for answer in answers]


async def _note(connection: asyncpg.Connection, items: Sequence[WaitNote]) -> list[Noted]:
    answers = await connection.fetch(QUERIES.note_waiting, [_encode(item) for item in items])
    return [Noted(**answer) for answer in answers]
