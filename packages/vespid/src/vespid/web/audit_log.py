"""The audit log: who did what to which object, when, from where."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency

from vespid.web.visitor import Visitor

# What an entry can be about, in the order of the filter.
OBJECT_TYPES = (
    "organization",
    "settings",
    "member",
    "invitation",
    "api_key",
    "pairing_token",
    "agent",
    "secret",
    "workflow",
    "webhook",
    "run",
    "approval",
    "session",
    "agent_binding",
)


@get("/audit-log")
async def audit_log_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The newest first."""
    query = visitor.request.query_params
    filters = {name: query.get(name, "") for name in ("objectType", "objectId", "actorUserId")}
    found = await visitor.api.get("audit-log", cursor=query.get("cursor"), **filters)
    members = (await visitor.api.get("members", limit=100))["members"]
    return visitor.page(
        "audit_log/list.html",
        entries=found["entries"],
        next_cursor=found["nextCursor"],
        object_types=OBJECT_TYPES,
        members=members,
        names={member["userId"]: member["displayName"] or member["email"] for member in members},
        filters=filters,
    )


routes = [audit_log_page]
