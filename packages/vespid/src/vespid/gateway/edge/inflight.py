"""A request that is out on a socket: what has to be known of it when it answers."""

import msgspec

from vespid.domain.selector import Pool
from vespid.store.connections import HeldLease
from vespid.store.executions import EventItem, Granted
from vespid_protocol.ids import OrgId, ProcessId, RequestId, RunId
from vespid_runtime.redaction import Redactor


class InFlight(msgspec.Struct, kw_only=True):
    """One lease held over this edge."""

    request_id: RequestId
    org_id: OrgId
    # None: dispatched by somebody who is not one of our runs.
    run_id: RunId | None
    node_id: str
    node_type: str
    attempt: int
    pool: Pool
    lease_epoch: int
    # Masks the secrets that went out with it; None: there were none.
    redactor: Redactor | None = None
    # Processes whose callers wait for the outcome.
    reply_to: set[ProcessId] = msgspec.field(default_factory=set)
    # Remote events not persisted yet, and the last seq that was taken in.
    events: list[EventItem] = msgspec.field(default_factory=list)
    first_event_seq: int = 0
    last_event_seq: int = -1

    @classmethod
    def of_grant(cls, request_id: RequestId, granted: Granted, pool: Pool) -> "InFlight":
        return cls(
            request_id=request_id,
            org_id=OrgId(str(granted.organization_id)),
            run_id=_run(granted.run_id),
            node_id=granted.node_id,
            node_type=granted.node_type,
            attempt=granted.attempt,
            pool=pool,
            lease_epoch=granted.lease_epoch,
        )

    @classmethod
    def of_lease(cls, lease: HeldLease, pool: Pool) -> "InFlight":
        """From what Postgres holds, after a reconnect."""
        return cls(
            request_id=RequestId(lease.request_id),
            org_id=OrgId(str(lease.organization_id)),
            run_id=_run(lease.run_id),
            node_id=lease.node_id or "",
            node_type=lease.node_type or "",
            attempt=lease.attempt or 0,
            pool=pool,
            lease_epoch=lease.lease_epoch or 0,
            last_event_seq=-1 if lease.last_event_seq is None else lease.last_event_seq,
        )

    def take_events(self) -> list[EventItem]:
        """The events not persisted yet; they are the caller's from now on."""
        taken, self.events = self.events, []
        return taken


def _run(run_id: object) -> RunId | None:
    text = None if run_id is None else str(run_id)
    return None if text is None else RunId(text)
