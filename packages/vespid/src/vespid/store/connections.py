"""Connections of executors, leases of server processes, and the control feed: what gateway and sweeps use of them."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

import msgspec

from vespid.store.pool import Database
from vespid.store.queries import load
from vespid_protocol.ids import ExecutorId, ProcessId

QUERIES = load("executors")

_encode = msgspec.json.Encoder().encode

LeaseAction = Literal["reoffer", "concluded", "kept"]


class KnownExecutor(msgspec.Struct, frozen=True):
    """Whose token it is. `organization_id` None: managed. `revoked` holds for a disabled one too."""

    executor_id: UUID
    organization_id: UUID | None
    revoked: bool
    name: str
    max_in_flight: int
    token_sha256: bytes
    # It was rotated, and is good for so much longer; None: it is the executor's token.
    token_left_ms: int | None = None


class Connected(msgspec.Struct, frozen=True):
    """A new connection; `previous_edge` holds the superseded socket, where there was one."""

    connection_epoch: int
    organization_id: UUID | None
    tags: list[str]
    tags_version: int
    cordoned: bool
    max_in_flight: int
    previous_edge: UUID | None
    previous_instance: str | None
    journal_id: str | None


class HelloItem(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A hello as `vespid_x_hello_executor` reads it."""

    connection_epoch: int
    agent_version: str
    name: str
    kinds: Sequence[str] | None
    connectors: Sequence[str] | None
    engines: Sequence[str] | None
    backends: Sequence[str] | None
    reported_tags: Sequence[str]
    max_in_flight: int | None
    # 1: base
    protocol_version: int
    instance_id: str | None
    journal_id: str | None
    # [{requestId, leaseEpoch}]; None: it said hello before on this connection, nothing is to be compared
    in_flight: Sequence[object] | None
    unacked: Sequence[str]
    capabilities: object


class HeldLease(msgspec.Struct, frozen=True):
    """A lease of this executor, or ('foreign') a request it listed that is not its own any more.

    `resend` carries what `execute` needs. `stale`, alone: this connection may not register. The other actions are told
    in migration 0003.
    """

    request_id: str
    action: Literal["continues", "resend", "waits", "reoffer", "concluded", "cancelling", "foreign", "stale"]
    lease_epoch: int | None
    organization_id: UUID | None
    run_id: UUID | None
    workflow_id: UUID | None
    node_id: str | None
    node_type: str | None
    attempt: int | None
    kind: str | None
    requested_by_user_id: UUID | None
    payload: bytes | None
    secret_refs: bytes | None
    timeout_ms: int | None
    # Until act_by, less the 5 s of grace.
    remaining_ms: int | None
    on_lost: Literal["fail", "resend", "wait"] | None
    last_event_seq: int | None


class LostLease(msgspec.Struct, frozen=True):
    """What became of a lease. `reoffer`: pending again. `concluded`: ended, its run is due. `kept`: it waits on."""

    request_id: str
    action: LeaseAction
    organization_id: UUID
    run_id: UUID | None
    executor_id: UUID | None = None


class DeadProcess(msgspec.Struct, frozen=True):
    """A process whose lease has passed (`dead`), an executor whose socket it had (`away`), or work it held itself."""

    process_id: UUID
    request_id: str | None
    action: Literal["dead", "away", "reoffer", "concluded", "kept"]
    organization_id: UUID | None
    run_id: UUID | None
    executor_id: UUID | None
    connection_epoch: int | None


class FeedRow(msgspec.Struct, frozen=True):
    id: int
    organization_id: UUID | None
    kind: str
    subject_id: str
    payload: bytes


async def authenticate(db: Database, token_sha256: bytes) -> KnownExecutor | None:
    row = await db.fetchrow_system(QUERIES.authenticate, token_sha256)
    return None if row is None else KnownExecutor(token_sha256=token_sha256, **row)


async def connect(db: Database, executor_id: ExecutorId, edge: ProcessId) -> Connected | None:
    """Begin a connection: its epoch is the newest from here on. None: revoked or disabled meanwhile."""
    row = await db.fetchrow_system(QUERIES.connect, UUID(executor_id), UUID(edge))
    return None if row is None else Connected(**row)


async def hello(db: Database, executor_id: ExecutorId, item: HelloItem) -> list[HeldLease]:
    """Store what the agent says of itself and reconcile what it has with what it is leased."""
    return [HeldLease(**row) for row in await db.fetch_system(QUERIES.hello, UUID(executor_id), _encode(item))]


async def announce(db: Database, executor_id: ExecutorId, connection_epoch: int) -> bool:
    """Redis knows the connection. False: it is not the newest, or was announced before."""
    return bool(await db.fetchval_system(QUERIES.announce, UUID(executor_id), connection_epoch))


async def disconnect(db: Database, executor_id: ExecutorId, connection_epoch: int, lease_ms: int) -> bool:
    """The socket is gone; its leases live on for `lease_ms`. False: a newer connection stands, nothing changed."""
    return bool(await db.fetchval_system(QUERIES.disconnect, UUID(executor_id), connection_epoch, lease_ms))


async def is_revoked(db: Database, executor_id: ExecutorId) -> bool:
    """Whether it may never connect again, or not until somebody enables it."""
    return bool(await db.fetchval_system(QUERIES.is_revoked, UUID(executor_id)))


async def set_draining(db: Database, executor_id: ExecutorId, connection_epoch: int) -> bool:
    return bool(await db.fetchval_system(QUERIES.set_draining, UUID(executor_id), connection_epoch))


async def revoke_leases(db: Database, executor_id: ExecutorId) -> list[LostLease]:
    """All leases of a revoked executor are lost now."""
    return [LostLease(**row) for row in await db.fetch_system(QUERIES.revoke_leases, UUID(executor_id))]


async def sweep_leases(db: Database, most: int = 100) -> list[LostLease]:
    """Leases of executors that have been lost for too long."""
    return [LostLease(**row) for row in await db.fetch_system(QUERIES.sweep_leases, most)]


async def renew_process(
    db: Database, process_id: ProcessId, kind: Literal["api", "gateway", "worker"], address: str | None, lease_ms: int
) -> bool:
    """Live on for `lease_ms`. False: the lease had passed, others may have acted on that: drop all sockets."""
    return bool(await db.fetchval_system(QUERIES.renew_process, UUID(process_id), kind, address, lease_ms))


async def end_process(db: Database, process_id: ProcessId, agent_lease_ms: int) -> None:
    """Leave in order."""
    await db.execute_system(QUERIES.end_process, UUID(process_id), agent_lease_ms)


async def live_gateways(db: Database) -> list[ProcessId]:
    """Gateways whose lease has not passed."""
    return [ProcessId(str(row["id"])) for row in await db.fetch_system(QUERIES.live_gateways)]


async def gateway_addresses(db: Database) -> list[str]:
    """Base URLs of the internal HTTP of all live gateways."""
    return [row["address"] for row in await db.fetch_system(QUERIES.gateway_addresses)]


async def address_of(db: Database, process_id: ProcessId) -> str | None:
    """Base URL of a live process's internal HTTP."""
    address: str | None = await db.fetchval_system(QUERIES.address_of, UUID(process_id))
    return address


async def sweep_processes(db: Database, agent_lease_ms: int) -> list[DeadProcess]:
    return [DeadProcess(**row) for row in await db.fetch_system(QUERIES.sweep_processes, agent_lease_ms)]


async def read_feed(db: Database, since: int, window_ms: int) -> list[FeedRow]:
    """Rows after `since`, and again those of the last `window_ms`: one that committed late has a lower id."""
    return [FeedRow(**row) for row in await db.fetch_system(QUERIES.read_feed, since, window_ms)]


async def trim_feed(db: Database) -> None:
    await db.execute_system(QUERIES.trim_feed)
