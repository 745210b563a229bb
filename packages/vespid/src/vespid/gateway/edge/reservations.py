"""Room that Redis has set aside for what this edge leases: confirmed where it lasts, else given back."""

import asyncio
from collections.abc import Callable

import structlog

from vespid.bus.errors import BusError
from vespid.bus.messages import Offer
from vespid.dispatch.house import House, epoch_ms
from vespid.domain.selector import Pool
from vespid.tasks import Tasks
from vespid_protocol.ids import ExecutorId, OrgId, RequestId

log = structlog.get_logger("vespid.gateway.edge.reservations")

# Well before an unconfirmed reservation expires (bus.choice.UNCONFIRMED_MS).
CONFIRM_AFTER_S = 1.0
# An offer that looks older is asked about before it is taken up (execution.md §2, grant).
OFFER_FRESH_MS = 1_000


class Reservations:
    """Of one edge."""

    def __init__(self, house: House, tasks: Tasks) -> None:
        self._house = house
        self._tasks = tasks
        # What was leased and is not confirmed yet, and what confirms that which is still out by then.
        self._unconfirmed: list[tuple[RequestId, OrgId, ExecutorId, Pool, Callable[[], bool]]] = []
        self._confirming: asyncio.TimerHandle | None = None

    @staticmethod
    def is_fresh(offer: Offer) -> bool:
        """Whether it cannot have lost its room. The clocks are of two machines: one that looks odd is asked about."""
        return abs(epoch_ms() - offer.reserved_at_ms) <= OFFER_FRESH_MS

    def confirm_later(
        self, request_id: RequestId, org_id: OrgId, executor_id: ExecutorId, pool: Pool, is_out: Callable[[], bool]
    ) -> None:
        """Most work is over before its reservation would expire, and its release says all that there is to say."""
        self._unconfirmed.append((request_id, org_id, executor_id, pool, is_out))
        if self._confirming is None:
            self._confirming = asyncio.get_running_loop().call_later(CONFIRM_AFTER_S, self._confirm_due)

    async def give_back(self, offer: Offer) -> None:
        """The offer is not taken up."""
        try:
            await self._house.scheduler.forward(
                await self._house.capacity.release(
                    offer.request_id, offer.org_id, executor_id=offer.executor_id, only_unconfirmed=True
                )
            )
        except BusError as error:
            log.warning("release_postponed", request_id=offer.request_id, error=str(error))

    def _confirm_due(self) -> None:
        self._confirming = None
        due, self._unconfirmed = self._unconfirmed, []
        for request_id, org_id, executor_id, pool, is_out in due:
            if is_out():
                self._tasks.start(self._confirm(request_id, org_id, executor_id, pool, is_out))

    async def _confirm(
        self, request_id: RequestId, org_id: OrgId, executor_id: ExecutorId, pool: Pool, is_out: Callable[[], bool]
    ) -> None:
        try:
            handed = await self._house.capacity.confirm(request_id, org_id, executor_id, pool)
            if not is_out():
                # It ended while this was on its way: the confirmation came behind the release.
                await self._house.scheduler.released(request_id, org_id, executor_id=executor_id, pool=pool)
            await self._house.scheduler.forward(handed)
        except BusError as error:
            # The comparison of reservations with leases makes it good.
            log.warning("confirm_postponed", request_id=request_id, error=str(error))
