"""What organizations have set, as the scheduler needs it: kept for a moment, dropped when the feed says so."""

import asyncio
from collections import OrderedDict

import msgspec

from vespid.domain.policy import OrgSettings
from vespid.domain.quota import org_max_in_flight
from vespid.store.announcements import SETTINGS_CHANGED
from vespid.store.connections import FeedRow
from vespid.store.pool import Database
from vespid.store.queries import load
from vespid_protocol.ids import OrgId

QUERIES = load("dispatch")

# A change is told by the control feed; this bounds the time until it is seen where that was missed.
KEPT_S = 10.0
ORGANIZATIONS_KEPT = 10_000

_decode = msgspec.json.Decoder(OrgSettings).decode


def settings_of(stored: bytes | None) -> OrgSettings:
    """Settings from what is stored: only what was set, the rest are defaults."""
    return OrgSettings() if stored is None else _decode(stored)


class Organizations:
    """Settings by organization."""

    def __init__(self, db: Database, *, default_max_in_flight: int) -> None:
        self._db = db
        self._default_max_in_flight = default_max_in_flight
        # Value, and the loop time until which it is good; least recently read first.
        self._settings: OrderedDict[OrgId, tuple[OrgSettings, float]] = OrderedDict()

    async def settings(self, org_id: OrgId) -> OrgSettings:
        now = asyncio.get_running_loop().time()
        known = self._settings.get(org_id)
        if known is not None and known[1] > now:
            return known[0]
        async with self._db.tenant(org_id) as connection:
            settings = settings_of(await connection.fetchval(QUERIES.read_settings))
        self._settings[org_id] = (settings, now + KEPT_S)
        self._settings.move_to_end(org_id)
        while len(self._settings) > ORGANIZATIONS_KEPT:
            self._settings.popitem(last=False)
        return settings

    async def max_in_flight(self, org_id: OrgId) -> int:
        """How much of the organization's work may be on executors at once."""
        return org_max_in_flight(await self.settings(org_id), self._default_max_in_flight)

    def learn(self, org_id: OrgId, settings: OrgSettings) -> None:
        """Somebody has just read them."""
        self._settings[org_id] = (settings, asyncio.get_running_loop().time() + KEPT_S)

    def read(self, row: FeedRow) -> None:
        """One row of the control feed: settings that have changed are read again when they are wanted."""
        if row.kind == SETTINGS_CHANGED:
            self._settings.pop(OrgId(row.subject_id), None)
