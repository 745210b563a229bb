"""Executors as an operator's tools see them through the gateway."""

from datetime import datetime
from uuid import UUID

import msgspec

from vespid.store.pool import Database
from vespid.store.queries import load
from vespid_protocol.ids import OrgId

QUERIES = load("executors")


class Route(msgspec.Struct, frozen=True, rename="camel"):
    """An executor of an organization and the gateway that holds its socket (None: it is not connected)."""

    executor_id: UUID
    name: str
    tags: list[str]
    max_in_flight: int
    cordoned: bool
    draining: bool
    edge_id: UUID | None
    connection_epoch: int
    connected_at: datetime | None


async def routes_of(db: Database, org_id: OrgId) -> list[Route]:
    """The organization's executors that are not revoked."""
    async with db.tenant(org_id) as connection:
        return [Route(**row) for row in await connection.fetch(QUERIES.routes_of, UUID(org_id))]
