"""The question "who runs this?", its answers, and what an edge says of an executor.

A reservation is only a proposal: the grant in Postgres disposes (`design/execution.md` §1, idea 1).
"""

from enum import StrEnum

import msgspec

from vespid.domain.selector import Capabilities, Pool, Requirement
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId

# A declined executor is not asked again for this long (`execution.md` §2, decline).
EXCLUDED_MS = 5_000
# An unconfirmed reservation is given back after this long.
UNCONFIRMED_MS = 5_000


class NoneReason(StrEnum):
    """Why nobody was reserved; the first four are what `node_waiting` tells people."""

    NONE_CONNECTED = "NONE_CONNECTED"
    NONE_MATCHES = "NONE_MATCHES"
    ALL_FULL = "ALL_FULL"
    QUOTA = "QUOTA"
    # Older requests of the same signature wait; this one was told not to.
    BEHIND = "BEHIND"
    # The one that is asked for is connected and takes nothing new: cordoned, draining, silent or paused.
    NOT_TAKING = "NOT_TAKING"

    @property
    def told(self) -> "NoneReason":
        """As people are told: behind others, or with one that takes nothing, nobody has room."""
        return NoneReason.ALL_FULL if self in (NoneReason.BEHIND, NoneReason.NOT_TAKING) else self


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs this request?"""

    request_id: RequestId
    org_id: OrgId
    pool: Pool
    # What the executor must offer. Looked up by its signature; matched once per signature, not per ask.
    requirement: Requirement
    # Requests that the organization may have in flight, over both pools.
    org_quota: int
    # The only executor that will do (`selector.executorId`, a pinned session).
    pin: ExecutorId | None = None
    # Executors that refused this request; as a waiter it avoids them for EXCLUDED_MS.
    exclude: frozenset[ExecutorId] = frozenset()
    # Queue up when there is no room.
    wait: bool = True
    # 0..1000, higher goes first.
    priority: int = 0
    # Epoch ms since when it waits: the row's creation, so that asking again keeps its place. 0: now.
    since_ms: int = 0


class Next(msgspec.Struct, frozen=True):
    """A waiter whose turn has come. The reservation is made; offer it to the edge or release it."""

    request_id: RequestId
    org_id: OrgId
    executor_id: ExecutorId
    connection_epoch: int
    edge_id: ProcessId
    # Epoch ms by the Redis server's clock.
    reserved_at_ms: int
    # Whose executor it is.
    pool: Pool = "byon"


class Reserved(msgspec.Struct, frozen=True):
    """A slot is set aside for UNCONFIRMED_MS. `handed`: others whose turn came in the same call; offer them too."""

    executor_id: ExecutorId
    connection_epoch: int
    edge_id: ProcessId
    reserved_at_ms: int
    handed: tuple[Next, ...] = ()


class Held(msgspec.Struct, frozen=True):
    """It had its reservation already. `confirmed`: a grant has been reported for it."""

    executor_id: ExecutorId
    connection_epoch: int
    edge_id: ProcessId
    reserved_at_ms: int
    confirmed: bool
    handed: tuple[Next, ...] = ()


class Waiting(msgspec.Struct, frozen=True):
    """Queued; it will come back as somebody's `Next`."""

    reason: NoneReason
    handed: tuple[Next, ...] = ()


class Refused(msgspec.Struct, frozen=True):
    """Nobody now, and it did not want to wait."""

    reason: NoneReason
    handed: tuple[Next, ...] = ()


class Cold(msgspec.Struct, frozen=True):
    """The partition was emptied and is not rebuilt yet: nothing is granted. `org_id` None: the managed one."""

    org_id: OrgId | None
    handed: tuple[Next, ...] = ()


Choice = Reserved | Held | Waiting | Refused | Cold


class ExecutorPresence(msgspec.Struct, frozen=True, kw_only=True):
    """An executor as the edge that owns its socket sees it."""

    executor_id: ExecutorId
    # None: managed, shared by all organizations.
    org_id: OrgId | None
    connection_epoch: int
    edge_id: ProcessId
    # Requests at once (effective maxInFlight).
    capacity: int
    # Not cordoned, not draining, heard of lately.
    routable: bool
    # What it declared in `hello`, and its control-plane tags.
    capabilities: Capabilities


class LeasedRow(msgspec.Struct, frozen=True):
    """An execution that Postgres says is dispatched, received or cancelling: what a rebuild starts from."""

    request_id: RequestId
    org_id: OrgId
    executor_id: ExecutorId
    # The executor's pool: in which partition its slot is taken.
    pool: Pool
