"""Finds an executor for pending work: one call of Redis proposes, the edge that owns the socket disposes by the grant.

The one thing to know: everything here is soft. Whatever is lost on the way, an offer, an answer, Redis itself, leaves a
row that is still pending in Postgres, and the sweep offers it again (`offer_pending`). So errors of the bus are logged
and counted, never raised at whoever dispatches.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import EDGES, run_channel
from vespid.bus.choice import Ask, Cold, Held, Next, NoneReason, Refused, Reserved, Waiting
from vespid.bus.errors import BusError
from vespid.bus.messages import CancelOrder, Offer, encode
from vespid.bus.ports import Capacity, Fanout, Mail
from vespid.dispatch.delivery import Delivery
from vespid.dispatch.organizations import Organizations
from vespid.dispatch.partitions import Partitions
from vespid.domain.selector import Pool, Requirement
from vespid.store.executions import ExecutionStore, NewRow, PendingRow, WaitNote
from vespid.tasks import Tasks
from vespid_protocol.codes import Code
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId

log = structlog.get_logger("vespid.dispatch.scheduler")

OFFERS = Counter("vespid_offers_total", "Choices made for pending executions, by what came of them", ["outcome"])

# A managed request may meet two cold partitions, its organization's and the managed one.
WARM_TRIES = 3
# Executors of dead edges that one offer may run into before the sweep has to go on with it.
EDGES_TRIED = 16

_decode_requirement = msgspec.json.Decoder(Requirement).decode


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Work that needs an executor, as much of it as choosing one takes."""

    request_id: RequestId
    org_id: OrgId
    pool: Pool
    requirement: Requirement
    pin: ExecutorId | None = None
    exclude: frozenset[ExecutorId] = frozenset()
    on_unavailable: Literal["wait", "fail"] = "wait"
    priority: int = 0
    # Epoch ms of its creation, so that asking again keeps its place; 0: now.
    since_ms: int = 0

    @classmethod
    def of_row(cls, row: NewRow) -> "Wanted":
        return cls(
            request_id=row.request_id,
            org_id=row.org,
            pool=row.pool or "byon",
            requirement=_requirement(row.kind, row.requirement),
            pin=row.pin_executor_id,
            on_unavailable=row.on_unavailable,
            priority=row.priority,
        )

    @classmethod
    def of_pending(cls, row: PendingRow) -> "Wanted":
        return cls(
            request_id=RequestId(row.request_id),
            org_id=OrgId(str(row.organization_id)),
            pool=row.pool,
            requirement=_requirement(row.kind, row.requirement),
            pin=None if row.pin_executor_id is None else ExecutorId(str(row.pin_executor_id)),
            on_unavailable=row.on_unavailable,
            priority=row.priority,
            since_ms=int(row.created_at.timestamp() * 1000),
        )


def _requirement(kind: str, stored: bytes | msgspec.Raw | None) -> Requirement:
    return Requirement(kind) if stored is None else _decode_requirement(stored)


def refusal_code(reason: NoneReason, *, pinned: bool) -> tuple[Code, dict[str, str]]:
    """The contract's code and details for "nobody now" (`api.md` §8)."""
    details = {"reason": str(reason.told)}
    if reason is NoneReason.QUOTA:
        return Code.ORG_QUOTA_EXCEEDED, details
    if pinned:
        offline = reason in (NoneReason.NONE_CONNECTED, NoneReason.NONE_MATCHES)
        return (Code.PINNED_AGENT_OFFLINE if offline else Code.EXECUTOR_OVER_CAPACITY), details
    return Code.NO_AGENT_AVAILABLE, details


class Scheduler:
    """Offers work to executors. A Service: `stop` waits for what is under way."""

    def __init__(
        self,
        executions: ExecutionStore,
        capacity: Capacity,
        mail: Mail,
        fanout: Fanout,
        delivery: Delivery,
        organizations: Organizations,
        partitions: Partitions,
        *,
        wake_run: Callable[[OrgId, str], None],
    ) -> None:
        """`wake_run` is told of runs that a refusal here made due."""
        self._executions = executions
        self._capacity = capacity
        self._mail = mail
        self._fanout = fanout
        self._delivery = delivery
        self._organizations = organizations
        self._partitions = partitions
        self._wake_run = wake_run
        partitions.forward_to(self.forward)
        self._tasks = Tasks("scheduler")

    async def start(self) -> None:
        self._tasks.open()

    async def stop(self) -> None:
        await self._tasks.close()

    # --- offering ------------------------------------------------------------------------------------------------

    def launch(self, wanted: Iterable[Wanted]) -> None:
        """Offer each, without waiting for it."""
        for work in wanted:
            self._tasks.start(self.offer(work))

    async def ask(self, work: Wanted, *, wait: bool) -> Reserved | Held | Waiting | Refused | Cold:
        """Choose an executor and reserve room on it. Raises BusUnavailable.

        A cold partition is warmed first; `Cold` is the answer only where that did not succeed.
        """
        self._partitions.used(work.org_id)
        if work.pool == "managed":
            self._partitions.used(None)
        ask = Ask(
            request_id=work.request_id,
            org_id=work.org_id,
            pool=work.pool,
            requirement=work.requirement,
            org_quota=await self._organizations.max_in_flight(work.org_id),
            pin=work.pin,
            exclude=work.exclude,
            wait=wait,
            priority=work.priority,
            since_ms=work.since_ms,
        )
        for _ in range(WARM_TRIES):
            choice = await self._capacity.choose(ask)
            OFFERS.labels(type(choice).__name__.lower()).inc()
            if choice.handed:
                await self.forward(choice.handed)
            if not isinstance(choice, Cold):
                return choice
            # Shielded: others wait for the same warming.
            await asyncio.shield(self._partitions.warm(choice.org_id))
        return choice

    async def offer(self, work: Wanted) -> None:
        """Offer a pending request: reserve and tell the edge, or let it wait, or end it where it must not wait."""
        try:
            for _ in range(EDGES_TRIED):
                choice = await self.ask(work, wait=work.on_unavailable == "wait")
                if isinstance(choice, Waiting):
                    await self._note_waiting(work, choice.reason)
                elif isinstance(choice, Refused):
                    await self._refuse(work, choice.reason)
                # One that is held was reserved earlier, and perhaps the offer was lost; granting twice is refused by
                # the row.
                elif (
                    isinstance(choice, Reserved) or (isinstance(choice, Held) and not choice.confirmed)
                ) and not await self.propose(work.request_id, work.org_id, work.pool, choice):
                    continue
                return
        except BusError as error:
            log.warning("offer_postponed", request_id=work.request_id, error=str(error))

    async def propose(
        self,
        request_id: RequestId,
        org_id: OrgId,
        pool: Pool,
        choice: Reserved | Held,
        *,
        create: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET,
        reply_to: ProcessId | None = None,
    ) -> bool:
        """Tell the edge of the chosen executor. False: it is gone, choose again. Raises BusUnavailable.

        `create` is the row to insert, and `reply_to` who hears of it, where the request does not stand yet.
        """
        offer = Offer(
            request_id,
            org_id,
            choice.executor_id,
            choice.connection_epoch,
            choice.reserved_at_ms,
            create,
            reply_to,
        )
        handed = await self._delivery.offer(choice.edge_id, offer, pool)
        if handed is None:
            return True
        await self.forward(handed)
        return any(turn.request_id == request_id for turn in handed)

    async def offer_pending(self, requests: Sequence[RequestId]) -> None:
        """Offer again what a sweep found still pending."""
        if requests:
            self.launch(Wanted.of_pending(row) for row in await self._executions.read_pending(requests))

    async def forward(self, handed: Iterable[Next]) -> None:
        """Tell the edges of waiters whose turn has come."""
        turns = deque(handed)
        while turns:
            turn = turns.popleft()
            offer = Offer(turn.request_id, turn.org_id, turn.executor_id, turn.connection_epoch, turn.reserved_at_ms)
            # An edge that is gone gives its turns to others; whoever finds no other waits on in the book.
            turns.extend(await self._delivery.offer(turn.edge_id, offer, turn.pool) or ())

    async def released(
        self, request_id: RequestId, org_id: OrgId, *, executor_id: ExecutorId | None = None, pool: Pool | None = None
    ) -> None:
        """The request ended or went back: its room is free, and the next waiter's turn has come."""
        try:
            await self.forward(await self._capacity.release(request_id, org_id, executor_id=executor_id, pool=pool))
        except BusError as error:
            # The comparison of reservations with leased rows gives it back.
            log.warning("release_postponed", request_id=request_id, error=str(error))

    async def gone(self, executor_id: ExecutorId, org_id: OrgId | None, connection_epoch: int) -> None:
        """The edge of this connection is dead: nobody may be proposed to it any more."""
        try:
            await self.forward(await self._capacity.remove(executor_id, org_id, connection_epoch))
        except BusError as error:
            log.warning("withdrawal_postponed", executor_id=executor_id, error=str(error))

    def launch_release(self, request_id: RequestId, org_id: OrgId) -> None:
        """`released`, without waiting for it."""
        self._tasks.start(self.released(request_id, org_id))

    def launch_refusal(self, request_id: RequestId, org_id: OrgId, code: Code) -> None:
        """End a pending request with `code`, without waiting for it."""
        self._tasks.start(self._conclude(request_id, org_id, code, None))

    def cancel_order(
        self, request_id: str, executor_id: str, lease_epoch: int, reason: str, *, is_over: bool = False
    ) -> None:
        """Tell whichever edge holds that executor to stop the request; the deadline acts where this is lost."""
        order = CancelOrder(RequestId(request_id), ExecutorId(executor_id), lease_epoch, reason, is_over)
        self._fanout.publish(EDGES, encode(order))

    def cancel_own(self, request_id: str, holder: str, lease_epoch: int, reason: str) -> None:
        """The same for work that a server process runs itself."""
        self._tasks.start(self._cancel_own(ProcessId(holder), RequestId(request_id), lease_epoch, reason))

    # --- inner ---------------------------------------------------------------------------------------------------

    async def _cancel_own(self, holder: ProcessId, request_id: RequestId, lease_epoch: int, reason: str) -> None:
        try:
            await self._mail.send(holder, CancelOrder(request_id, ExecutorId(""), lease_epoch, reason))
        except BusError as error:
            log.warning("cancel_postponed", request_id=request_id, error=str(error))

    async def _note_waiting(self, work: Wanted, reason: NoneReason) -> None:
        noted = await self._executions.note_waiting(WaitNote(work.request_id, reason.told))
        if noted.run_id is not None:
            self._fanout.publish(run_channel(str(noted.run_id)), b"%d" % (noted.seq or 0))

    async def _refuse(self, work: Wanted, reason: NoneReason) -> None:
        code, details = refusal_code(reason, pinned=work.pin is not None)
        await self._conclude(work.request_id, work.org_id, code, msgspec.json.encode(details))

    async def _conclude(self, request_id: RequestId, org_id: OrgId, code: Code, details: bytes | None) -> None:
        refusal = await self._executions.refuse(request_id, code, details)
        if refusal.outcome == "concluded" and refusal.run_id is not None:
            self._wake_run(org_id, str(refusal.run_id))
