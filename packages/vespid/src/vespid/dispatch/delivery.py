"""Brings offers to edges, and notices an edge that is gone when one is sent rather than when its lease has passed.

Every process listens on a channel of its own. The server forgets that as soon as the connection is closed, which the
kernel does for a process that was killed; one that is merely stopped or slow keeps it. So an offer that nobody took at
once and for which nobody listens has no reader. Its executor is taken out of the capacity book and the request is
chosen again; nothing else is concluded: its leases live on, and the process is judged by its own lease.

An edge that lives and had only lost its line to Redis finds the offer and, behind it, `Withdrawn`: it reports the
executor again, and the row decides about the offer, as it does about every other.
"""

from collections.abc import Awaitable, Callable, Sequence

import structlog
from prometheus_client import Counter

from vespid.bus.channels import presence_channel
from vespid.bus.choice import Next
from vespid.bus.messages import Offer, Withdrawn
from vespid.bus.ports import Capacity, Fanout, Mail
from vespid.domain.selector import Pool
from vespid_protocol.ids import ProcessId

log = structlog.get_logger("vespid.dispatch.delivery")

WITHDRAWN = Counter(
    "vespid_executors_withdrawn_total", "Executors taken out because nobody read the offer to their edge"
)


class Delivery:
    """A Service: while it runs, others see that this process is there."""

    def __init__(self, capacity: Capacity, mail: Mail, fanout: Fanout, process_id: ProcessId) -> None:
        self._capacity = capacity
        self._mail = mail
        self._fanout = fanout
        self._process_id = process_id
        self._leave: Callable[[], Awaitable[None]] | None = None

    async def start(self) -> None:
        if self._leave is None:
            self._leave = await self._fanout.subscribe(presence_channel(self._process_id), _hear_nothing)

    async def stop(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            await leave()

    async def offer(self, edge_id: ProcessId, offer: Offer, pool: Pool) -> Sequence[Next] | None:
        """None: the edge has it, or will. Else the edge is gone and its executor withdrawn: those whose turn has come
        instead, maybe this very request among them. Raises BusUnavailable."""
        if await self._mail.send(edge_id, offer) or await self._fanout.listeners(presence_channel(edge_id)):
            return None
        WITHDRAWN.inc()
        log.warning("edge_gone", edge_id=edge_id, executor_id=offer.executor_id, request_id=offer.request_id)
        org_id = None if pool == "managed" else offer.org_id
        handed = await self._capacity.remove(offer.executor_id, org_id, offer.connection_epoch)
        await self._mail.send(edge_id, Withdrawn(offer.executor_id, offer.connection_epoch))
        return handed


def _hear_nothing(_data: bytes | None) -> None:
    """To listen is all."""
