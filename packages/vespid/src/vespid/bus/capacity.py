"""Who runs what: the capacity book over its partitions, in Redis.

An organization's own executors, its queues and its quota are one partition, so that BYON is one call. Managed executors
are shared: there the organization's quota is taken first, in its partition, then the executor in `{m:0}`, and what was
taken is given back when the second fails. A managed request therefore has a record in both; a crash between the two
leaves an unconfirmed one that expires like any other.
"""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from vespid.bus.choice import (
    Ask,
    Choice,
    Cold,
    ExecutorPresence,
    Held,
    LeasedRow,
    Next,
    NoneReason,
    Refused,
    Reserved,
    Waiting,
)
from vespid.bus.connection import Connection
from vespid.bus.partition import QUOTA_ONLY, QUOTA_SIGNATURE, Handed, Partition, Scripts, Verdict
from vespid.bus.signatures import Signatures
from vespid.domain.selector import Pool
from vespid_protocol.ids import ExecutorId, OrgId, RequestId, new_id

# What was confirmed less than this before the rows were read may be missing in them and is not a leak.
LEAK_AGE_MS = 2_000
_ROWS_PER_CALL = 500

_ask_decoder = msgspec.msgpack.Decoder(Ask)


class RedisCapacity:
    """`ports.Capacity` over one Redis. The clock (epoch ms) is for tests; without one the server's time counts."""

    def __init__(self, connection: Connection, *, clock: Callable[[], int] | None = None) -> None:
        self._scripts = Scripts(connection, clock)
        self._signatures = Signatures()
        self._managed = Partition(self._scripts, "{m:0}")

    async def choose(self, ask: Ask) -> Choice:
        """Reserve a slot, or queue up."""
        if ask.pool == "managed":
            return await self._choose_managed(ask)
        verdict, handed = await self._ask(self._organization(ask.org_id), ask)
        return _choice(verdict, await self._deliver(handed), ask.org_id)

    async def confirm(
        self, request_id: RequestId, org_id: OrgId, executor_id: ExecutorId, pool: Pool
    ) -> Sequence[Next]:
        """The grant is committed: the reservation no longer expires."""
        organization = self._organization(org_id)
        if pool == "byon":
            return await self._deliver(await organization.confirm(request_id, org_id, executor_id))
        handed = await organization.confirm(request_id, org_id, QUOTA_ONLY)
        handed += await self._managed.confirm(request_id, org_id, executor_id)
        return await self._deliver(handed)

    async def release(
        self,
        request_id: RequestId,
        org_id: OrgId,
        *,
        pool: Pool | None = None,
        executor_id: ExecutorId | None = None,
        only_unconfirmed: bool = False,
    ) -> Sequence[Next]:
        """Give back the slot and leave the queue; see `ports.Capacity`."""
        holder, handed = executor_id, list[Handed]()
        if pool != "byon":
            word, handed = await self._managed.release(request_id, executor_id, only_unconfirmed=only_unconfirmed)
            if word == "KEPT":
                return await self._deliver(handed)
            if executor_id is not None and (pool == "managed" or word == "DONE"):
                holder = QUOTA_ONLY
        organization = self._organization(org_id)
        _, more = await organization.release(request_id, holder, only_unconfirmed=only_unconfirmed)
        return await self._deliver(handed + more)

    async def upsert(self, executor: ExecutorPresence) -> Sequence[Next]:
        """It is connected so."""
        return await self._deliver(await self._signatures.upsert(self._of(executor.org_id), executor))

    async def remove(self, executor_id: ExecutorId, org_id: OrgId | None, connection_epoch: int) -> Sequence[Next]:
        """Its connection is gone."""
        taken_back, handed = await self._of(org_id).remove(executor_id, connection_epoch)
        if org_id is None:
            # Their quota half goes back too; who is offered another executor takes it again.
            for request_id, org in taken_back:
                _, more = await self._organization(org).release(request_id, QUOTA_ONLY, only_unconfirmed=True)
                handed += more
        return await self._deliver(handed)

    async def sweep(self, org_id: OrgId | None) -> Sequence[Next]:
        """Give back what expired and serve who waits."""
        return await self._deliver(await self._of(org_id).sweep())

    async def inflight(self, org_id: OrgId) -> int:
        """Requests of the organization that count against its quota."""
        return await self._organization(org_id).inflight()

    async def generation(self, org_id: OrgId | None) -> str | None:
        """Name of the partition's present life; None when it is cold."""
        return await self._of(org_id).generation()

    async def prepare(self, org_id: OrgId | None) -> str:
        """The partition's next life, or the one that goes on; see `ports.Capacity`."""
        life = None
        while life is None:
            life = await self._of(org_id).prepare(new_id())
        return life

    async def rebuild(
        self, org_id: OrgId | None, rows: Sequence[LeasedRow], as_of_ms: int, *, life: str = ""
    ) -> Sequence[Next]:
        """Make confirmed reservations equal to the leased rows of this organization (None: all managed ones)."""
        partition = self._of(org_id)
        wanted = {row.request_id: row for row in rows if org_id is not None or row.pool == "managed"}
        leaks = [
            (request_id, record.at)
            for request_id, record in (await partition.records()).items()
            if record.state == "c" and request_id not in wanted and int(record.at) < as_of_ms - LEAK_AGE_MS
        ]
        leased = [
            (row.request_id, row.org_id, row.executor_id if org_id is None or row.pool == "byon" else QUOTA_ONLY)
            for row in wanted.values()
        ]
        handed: list[Handed] = []
        for start in range(0, max(len(leaks), len(leased)), _ROWS_PER_CALL):
            page = slice(start, start + _ROWS_PER_CALL)
            handed += await partition.reconcile("", leaks[page], leased[page])
        # Warm only when every lease is in: nothing is granted on half the truth.
        handed += await partition.reconcile(life, [], [])
        return await self._deliver(handed)

    def _organization(self, org_id: OrgId) -> Partition:
        return Partition(self._scripts, f"{{o:{org_id}}}")

    def _of(self, org_id: OrgId | None) -> Partition:
        return self._managed if org_id is None else self._organization(org_id)

    async def _ask(self, partition: Partition, ask: Ask) -> tuple[Verdict, list[Handed]]:
        """Ask a partition for an executor; teaches it the signature when it is new there."""
        requirement = ask.requirement
        earlier: list[Handed] = []
        while True:
            verdict, handed = await partition.choose(
                ask.request_id,
                ask.org_id,
                signature=requirement.signature,
                quota=ask.org_quota if ask.pool == "byon" else -1,
                pin=ask.pin,
                wait=ask.wait,
                priority=ask.priority,
                since_ms=ask.since_ms,
                exclude=ask.exclude,
                ask=_kept(ask) if ask.pool == "managed" else b"",
            )
            earlier += handed
            if verdict.word != "UNKNOWN":
                return verdict, earlier
            await self._signatures.learn(partition, requirement)

    async def _quota(self, ask: Ask) -> tuple[Verdict, list[Handed]]:
        """Take one of the organization's quota for a managed request, or park the ask until there is some."""
        return await self._organization(ask.org_id).choose(
            ask.request_id,
            ask.org_id,
            signature=QUOTA_SIGNATURE,
            quota=ask.org_quota,
            pin=None,
            wait=ask.wait,
            priority=ask.priority,
            since_ms=ask.since_ms,
            exclude=frozenset(),
            ask=_kept(ask),
        )

    async def _choose_managed(self, ask: Ask) -> Choice:
        choice, handed = await self._managed_step(ask)
        return msgspec.structs.replace(choice, handed=await self._deliver(handed))

    async def _managed_step(self, ask: Ask) -> tuple[Choice, list[Handed]]:
        quota, handed = await self._quota(ask)
        if quota.word not in ("RESERVED", "HELD", "CONFIRMED"):
            return _choice(quota, (), ask.org_id), handed
        verdict, more = await self._ask(self._managed, ask)
        handed += more
        if verdict.word not in ("RESERVED", "HELD", "CONFIRMED"):
            # No quota is held while nothing runs: others of the organization may use it.
            organization = self._organization(ask.org_id)
            _, more = await organization.release(ask.request_id, QUOTA_ONLY, only_unconfirmed=True)
            handed += more
        return _choice(verdict, (), None), handed

    async def _deliver(self, handed: Sequence[Handed]) -> tuple[Next, ...]:
        """Turn what scripts handed out into offers; managed ones need the other half of their reservation first."""
        offers: list[Next] = []
        open_ = deque(handed)
        while open_:
            given = open_.popleft()
            turn = given.next
            if turn.executor_id == QUOTA_ONLY:
                # Quota came free for a parked managed request: now the executor.
                ask = _ask_decoder.decode(given.ask)
                choice, more = await self._managed_step(ask)
                open_.extend(more)
                if isinstance(choice, Reserved | Held):
                    offers.append(_next(ask, choice))
            elif given.ask:
                # A managed executor came free for a waiter: now its organization's quota.
                ask = _ask_decoder.decode(given.ask)
                quota, more = await self._quota(ask)
                open_.extend(more)
                if quota.word in ("RESERVED", "HELD", "CONFIRMED"):
                    offers.append(msgspec.structs.replace(turn, pool="managed"))
                else:
                    _, more = await self._managed.release(turn.request_id, turn.executor_id, only_unconfirmed=True)
                    open_.extend(more)
            else:
                offers.append(turn)
        return tuple(offers)


def _kept(ask: Ask) -> bytes:
    """The ask as its other half will need it. Whom it avoids ends by itself and must not begin anew with it."""
    return msgspec.msgpack.encode(msgspec.structs.replace(ask, exclude=frozenset()))


def _next(ask: Ask, choice: Reserved | Held) -> Next:
    return Next(
        ask.request_id,
        ask.org_id,
        choice.executor_id,
        choice.connection_epoch,
        choice.edge_id,
        choice.reserved_at_ms,
        ask.pool,
    )


def _choice(verdict: Verdict, handed: tuple[Next, ...], partition: OrgId | None) -> Choice:
    match verdict.word:
        case "RESERVED":
            return Reserved(
                ExecutorId(verdict.detail), verdict.connection_epoch, verdict.edge_id, verdict.reserved_at_ms, handed
            )
        case "HELD" | "CONFIRMED":
            return Held(
                ExecutorId(verdict.detail),
                verdict.connection_epoch,
                verdict.edge_id,
                verdict.reserved_at_ms,
                verdict.word == "CONFIRMED",
                handed,
            )
        case "WAITING":
            return Waiting(NoneReason(verdict.detail), handed)
        case "REFUSED":
            return Refused(NoneReason(verdict.detail), handed)
        case _:
            return Cold(partition, handed)
