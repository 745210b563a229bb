"""Offers become leases, leases become `execute`.

The lease is committed before the first byte is sent. This edge is the last gate on an executor's capacity: what Redis
proposes beyond it is refused here and chosen again.
"""

import asyncio
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.choice import Held, Reserved
from vespid.bus.errors import BusError
from vespid.bus.messages import Offer, OfferAnswered, OfferRefused
from vespid.dispatch.house import House
from vespid.dispatch.scheduler import Wanted
from vespid.dispatch.secrets import RequestSecrets, SecretUnavailable, resolve
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.handover import Handover
from vespid.gateway.edge.inflight import InFlight
from vespid.gateway.edge.registry import Registry
from vespid.gateway.edge.reservations import Reservations
from vespid.gateway.edge.results import RETRY_S, Results
from vespid.store.connections import HeldLease
from vespid.store.executions import GiveBack, Grant, Granted, NewRow, NotGranted
from vespid.store.failure import STORE_AWAY
from vespid.store.secrets import SecretResolver
from vespid.tasks import Tasks
from vespid_protocol.frames import Execute
from vespid_protocol.ids import ExecutorId, RequestId
from vespid_protocol.machine import IllegalTransition
from vespid_runtime.redaction import Redactor

log = structlog.get_logger("vespid.gateway.edge.grants")

# Tool events of earlier tries that go with a run of an agent: a quarter of a frame.
PRIOR_MAX_CHARS = 1_000_000

GRANTS = Counter("vespid_grants_total", "Offers taken up by this edge, by what came of them", ["outcome"])


class Grants:
    """What this edge does with offers."""

    def __init__(
        self,
        house: House,
        registry: Registry,
        results: Results,
        reservations: Reservations,
        resolver: SecretResolver,
        handover: Handover,
        tasks: Tasks,
    ) -> None:
        self._house = house
        self._registry = registry
        self._results = results
        self._reservations = reservations
        self._resolver = resolver
        self._handover = handover
        self._tasks = tasks

    def offered(self, offer: Offer) -> None:
        """An offer came in."""
        self._tasks.start(self._take(offer))

    async def resend(self, connection: Connection, lease: HeldLease) -> None:
        """After a reconnect: the lease stands, the agent has not got it. The same epoch again."""
        in_flight = InFlight.of_lease(lease, connection.pool)
        connection.in_flight[in_flight.request_id] = in_flight
        frame = Execute(
            request_id=lease.request_id,
            organization_id=str(lease.organization_id),
            user_id=_text(lease.requested_by_user_id),
            kind=lease.kind or "",
            payload=await self._payload(in_flight, lease.kind, lease.payload or b"null"),
            lease_epoch=lease.lease_epoch,
            timeout_ms=lease.remaining_ms,
            on_lost=lease.on_lost,
        )
        await self._send(connection, in_flight, frame, lease.secret_refs)

    async def _take(self, offer: Offer) -> None:
        connection = self._registry.get(offer.executor_id)
        if connection is None or not self._has_room(connection, offer) or not await self._is_reserved(offer):
            await self._refuse(offer)
            return
        try:
            answer = await self._grant(connection, offer)
            if isinstance(answer, Granted):
                await self._granted(connection, offer, answer)
            else:
                await self._not_granted(offer, answer)
        except STORE_AWAY as error:
            # Leased or not, the row knows: a lease without an `execute` is sent again at the next hello or expires.
            log.warning("grant_unsettled", request_id=offer.request_id, error=repr(error))

    async def _grant(self, connection: Connection, offer: Offer) -> Granted | NotGranted:
        connection.granting += 1
        try:
            return await self._house.executions.grant(
                Grant(
                    offer.request_id,
                    offer.executor_id,
                    offer.connection_epoch,
                    self._house.process_id,
                    offer.create if isinstance(offer.create, msgspec.Raw) else None,
                )
            )
        finally:
            # A granted one is in flight before anybody else has his turn, so it is never counted twice.
            connection.granting -= 1

    async def _is_reserved(self, offer: Offer) -> bool:
        """Whether the room is still set aside: an offer that was long on its way may have lost it to somebody else."""
        if self._reservations.is_fresh(offer):
            return True
        if isinstance(offer.create, msgspec.Raw):
            wanted = [Wanted.of_row(msgspec.json.decode(offer.create, type=NewRow))]
        else:
            wanted = [Wanted.of_pending(row) for row in await self._house.executions.read_pending([offer.request_id])]
        try:
            for work in wanted:
                choice = await self._house.scheduler.ask(work, wait=False)
                return isinstance(choice, (Reserved, Held)) and choice.executor_id == offer.executor_id
        except BusError as error:
            log.warning("old_offer_unsettled", request_id=offer.request_id, error=str(error))
        return False

    def _has_room(self, connection: Connection, offer: Offer) -> bool:
        return connection.connection_epoch == offer.connection_epoch and connection.routable and connection.has_room

    async def _granted(self, connection: Connection, offer: Offer, granted: Granted) -> None:
        GRANTS.labels("granted").inc()
        in_flight = InFlight.of_grant(offer.request_id, granted, connection.pool)
        if offer.reply_to is not None:
            in_flight.reply_to.add(offer.reply_to)
        connection.in_flight[offer.request_id] = in_flight
        frame = Execute(
            request_id=offer.request_id,
            organization_id=str(granted.organization_id),
            user_id=_text(granted.requested_by_user_id),
            kind=granted.kind,
            payload=await self._payload(in_flight, granted.kind, granted.payload),
            lease_epoch=granted.lease_epoch,
            timeout_ms=granted.timeout_ms,
            on_lost=granted.on_lost,
        )
        await self._send(connection, in_flight, frame, granted.secret_refs)
        self._reservations.confirm_later(
            in_flight.request_id,
            in_flight.org_id,
            connection.executor_id,
            in_flight.pool,
            lambda: connection.in_flight.get(in_flight.request_id) is in_flight,
        )

    async def _payload(self, in_flight: InFlight, kind: str | None, payload: bytes) -> msgspec.Raw:
        """What is sent: an agent's run that is not begun for the first time is told what became of it so far."""
        if kind != "agent.run" or (in_flight.attempt <= 1 and in_flight.lease_epoch <= 1):
            return msgspec.Raw(payload)
        so_far = await self._house.executions.read_resume(
            in_flight.org_id, in_flight.request_id, prior_max_chars=PRIOR_MAX_CHARS
        )
        told: dict[str, msgspec.Raw] = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        if so_far.resume is not None:
            told["resume"] = msgspec.Raw(so_far.resume)
        if so_far.prior is not None:
            told["prior"] = msgspec.Raw(so_far.prior)
        if so_far.decided is not None:
            told["approvals"] = msgspec.Raw(so_far.decided)
        return msgspec.Raw(msgspec.json.encode(told))

    async def _send(
        self, connection: Connection, in_flight: InFlight, frame: Execute, stored_refs: bytes | None
    ) -> None:
        if stored_refs is not None:
            try:
                secrets = await self._secrets(in_flight, stored_refs)
            except SecretUnavailable as error:
                await self._results.fail(connection, in_flight, error.code, error.message)
                return
            values = secrets.clear_values()
            in_flight.redactor = Redactor(values) if values else None
            frame = msgspec.structs.replace(
                frame,
                secret=None if secrets.auth is None else secrets.auth.reveal(),
                secrets={name: value.reveal() for name, value in secrets.named.items()} or None,
            )
        try:
            connection.execute(frame)
        except IllegalTransition:
            # The socket ended meanwhile and not a byte was written: the next executor may have it at once.
            connection.in_flight.pop(in_flight.request_id, None)
            await self._give_back(connection.executor_id, in_flight)

    async def mask(self, in_flight: InFlight, stored_refs: bytes | None) -> None:
        """After a reconnect: know again what to mask in what comes of it. An inline secret nobody knows any more."""
        if stored_refs is None:
            return
        try:
            values = (await resolve(self._resolver, in_flight.org_id, stored_refs)).clear_values()
        except SecretUnavailable as error:
            log.warning("secrets_not_masked", request_id=in_flight.request_id, code=error.code)
        else:
            in_flight.redactor = Redactor(values) if values else None

    async def _secrets(self, in_flight: InFlight, stored_refs: bytes) -> RequestSecrets:
        handed = self._handover.take(in_flight.request_id, stored_refs)
        if handed is not None:
            return handed
        return await resolve(self._resolver, in_flight.org_id, stored_refs)

    async def _not_granted(self, offer: Offer, answer: NotGranted) -> None:
        GRANTS.labels(answer.outcome).inc()
        if answer.outcome == "refused":
            await self._refuse(offer)
            return
        await self._reservations.give_back(offer)
        if answer.outcome != "gone":
            await self._tell(offer, OfferAnswered(offer.request_id, answer.outcome))

    async def _refuse(self, offer: Offer) -> None:
        """Not on this executor: give the reservation back, and have it chosen again without it."""
        GRANTS.labels("refused").inc()
        await self._reservations.give_back(offer)
        if isinstance(offer.create, msgspec.Raw):
            await self._tell(offer, OfferRefused(offer.request_id, offer.org_id, offer.executor_id, "not routable"))
            return
        await self._offer_elsewhere(offer.request_id, offer.executor_id)

    async def _give_back(self, executor_id: ExecutorId, in_flight: InFlight) -> None:
        item = GiveBack(in_flight.request_id, executor_id, in_flight.lease_epoch)
        if await self._house.executions.give_back(item):
            await self._house.scheduler.released(
                in_flight.request_id, in_flight.org_id, executor_id=executor_id, pool=in_flight.pool
            )
            await self._offer_elsewhere(in_flight.request_id, executor_id)

    async def declined(self, executor_id: ExecutorId, in_flight: InFlight) -> None:
        """The agent has no room after all; it is left out for a few seconds."""
        GRANTS.labels("declined").inc()
        attempt = 0
        while True:
            try:
                await self._give_back(executor_id, in_flight)
            except STORE_AWAY as error:
                # The agent has forgotten it, so nobody but this task knows.
                log.warning("decline_postponed", request_id=in_flight.request_id, error=repr(error))
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
            else:
                return

    async def _offer_elsewhere(self, request_id: RequestId, without: ExecutorId) -> None:
        for row in await self._house.executions.read_pending([request_id]):
            work = msgspec.structs.replace(Wanted.of_pending(row), exclude=frozenset((without,)))
            await self._house.scheduler.offer(work)

    async def _tell(self, offer: Offer, message: OfferAnswered | OfferRefused) -> None:
        if offer.reply_to is None:
            return
        try:
            await self._house.mail.send(offer.reply_to, message)
        except BusError as error:
            # Whoever waits looks at the row by itself after a while.
            log.warning("answer_lost", request_id=offer.request_id, error=str(error))


def _text(user_id: UUID | None) -> str:
    """`userId` on the wire is a string; work that nobody asked for has none."""
    return "" if user_id is None else str(user_id)
