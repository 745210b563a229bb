"""Bindings as routing needs them: kept per organization, dropped when the control feed says that they changed.

A change is seen here within the second in which the feed tells it; KEPT_S bounds the time where that was missed.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from vespid.domain.binding import Binding, Facts, Routed, in_order, route
from vespid.store.bindings import CHANGED, all_bindings
from vespid.store.connections import FeedRow
from vespid.store.pool import Database
from vespid_protocol.ids import OrgId

KEPT_S = 10.0
ORGANIZATIONS_KEPT = 10_000


class Bindings:
    """Answers where sessions go."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Bindings in order, and the loop time until which they are good; least recently read first.
        self._kept: OrderedDict[OrgId, tuple[Sequence[Binding], float]] = OrderedDict()
        # Counts what was forgotten: a read that began before is not kept.
        self._changes = 0

    async def route(self, org_id: OrgId, facts: Facts) -> Routed:
        """Where a session with these facts goes now."""
        return route(await self._of(org_id), facts)

    def read(self, row: FeedRow) -> None:
        """A row of the control feed."""
        if row.kind == CHANGED and row.organization_id is not None:
            self.forget(OrgId(str(row.organization_id)))

    def forget(self, org_id: OrgId) -> None:
        """They have changed."""
        self._changes += 1
        self._kept.pop(org_id, None)

    async def _of(self, org_id: OrgId) -> Sequence[Binding]:
        now = asyncio.get_running_loop().time()
        known = self._kept.get(org_id)
        if known is not None and known[1] > now:
            return known[0]
        changes = self._changes
        async with self._database.tenant(org_id) as connection:
            bindings = in_order(await all_bindings(connection, UUID(org_id)))
        if changes == self._changes:
            self._kept[org_id] = (bindings, now + KEPT_S)
            self._kept.move_to_end(org_id)
            while len(self._kept) > ORGANIZATIONS_KEPT:
                self._kept.popitem(last=False)
        return bindings
