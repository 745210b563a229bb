"""What models took in an organization: by day, by model, by workflow or by session."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter

from vespid.control.context import TenantContext, org_member
from vespid.control.deps import Deps
from vespid.control.pagination import Page, provide_page
from vespid.control.usage_view import Used, used
from vespid.control.wire import iso
from vespid.errors import bad_request
from vespid.store import usage as rows

DEFAULT_SPAN = timedelta(days=30)
MAX_SPAN = timedelta(days=366)
# Outside of these years there is no use, and arithmetic with time zones ends.
_YEARS = range(2000, 9999)
_RENAMED = {"from_": "from", "group_by": "groupBy", "next_cursor": "nextCursor"}


class UsageGroup(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One group. Beside `used` it has what it is grouped by: `day`, or `provider` and `model`, or `familyId` and
    `workflowName`, or `sessionId` and `title`."""

    used: Used
    day: date | None = None
    provider: str | None = None
    model: str | None = None
    family_id: UUID | None = None
    workflow_name: str | None = None
    session_id: UUID | None = None
    title: str | None = None


class UsagePage(msgspec.Struct, frozen=True, rename=_RENAMED):
    """From `from` until just before `to`. `total` is of all groups of all pages, and of what is in none of them."""

    from_: str
    to: str
    group_by: str
    total: Used
    usage: list[UsageGroup]
    next_cursor: str | None


@get(
    "/v1/orgs/{org_id:str}/usage",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listUsage",
    tags=["usage"],
)
async def list_usage(
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    page: NamedDependency[Page],
    from_: Annotated[
        datetime | None, QueryParameter(name="from", description="The beginning; without it 30 days before `to`.")
    ] = None,
    to: Annotated[datetime | None, QueryParameter(description="The end; without it now.")] = None,
    group_by: Annotated[
        rows.GroupBy, QueryParameter(name="groupBy", description="Days are those of UTC; workflows are families.")
    ] = "day",
) -> UsagePage:
    """Tokens and their cost, from runs and sessions. At most 366 days at once."""
    end = _utc(to, "to") or datetime.fromtimestamp(deps.now_ms() / 1000, UTC)
    begin = _utc(from_, "from") or end - DEFAULT_SPAN
    if not timedelta(0) < end - begin <= MAX_SPAN:
        raise bad_request(f"`from` is before `to`, at most {MAX_SPAN.days} days.", field="from")
    after = page.after_key()
    org = UUID(tenant.org_id)
    async with tenant.transaction() as connection:
        total = await rows.in_total(connection, org, begin, end)
        found = await rows.by_group(connection, org, begin, end, group_by, after, page.fetch)
    shown, next_cursor = page.cut(found, key=lambda group: group.key)
    return UsagePage(iso(begin), iso(end), group_by, used(total), [_group(group) for group in shown], next_cursor)


def _utc(moment: datetime | None, name: str) -> datetime | None:
    if moment is None:
        return None
    if moment.year not in _YEARS:
        raise bad_request("That is not a time of ours.", field=name)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _group(group: rows.GroupUsage) -> UsageGroup:
    return UsageGroup(
        used(group),
        day=group.day,
        provider=group.provider,
        model=group.model,
        family_id=group.family_id,
        workflow_name=group.workflow_name,
        session_id=group.session_id,
        title=group.session_title,
    )


routes = [list_usage]
