"""What models took."""

from datetime import datetime
from typing import Literal

from vespid_client.api import Api
from vespid_client.listing import Listing, listing
from vespid_client.models.usage import UsageGroup, UsagePage
from vespid_client.route import get

GroupBy = Literal["day", "model", "workflow", "session"]

USAGE = get("/v1/orgs/{org_id}/usage", UsagePage)


class Usage:
    """`client.usage`. Without a beginning: the last 30 days; at most 366 at once."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def report(
        self, *, begin: datetime | None = None, end: datetime | None = None, group_by: GroupBy = "day", limit: int = 200
    ) -> UsagePage:
        """The total, and the first groups."""
        return await self._api.call(USAGE, query={**_query(begin, end, group_by), "limit": limit})

    def list(
        self, *, begin: datetime | None = None, end: datetime | None = None, group_by: GroupBy = "day"
    ) -> Listing[UsageGroup]:
        """Every group."""
        return listing(self._api, USAGE, lambda page: page.usage, query=_query(begin, end, group_by))


def _query(begin: datetime | None, end: datetime | None, group_by: GroupBy) -> dict[str, object]:
    return {
        "from": None if begin is None else begin.isoformat(),
        "to": None if end is None else end.isoformat(),
        "groupBy": group_by,
    }
