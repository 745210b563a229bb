"""What models took: by day, model, workflow or session."""

from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency

from vespid.web.visitor import Visitor

GROUPS = ("day", "model", "workflow", "session")
SPANS_DAYS = (7, 30, 90, 365)


@get("/usage")
async def usage_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The sums and their groups."""
    query = visitor.request.query_params
    by = query.get("groupBy", "day")
    days = query.get("days", "30")
    span = int(days) if days in map(str, SPANS_DAYS) else 30
    # Pages of one list are of one span, whenever they are asked for.
    end = _moment(query.get("to", "")) or datetime.now(UTC)
    to, begin = end.isoformat(timespec="seconds"), end - timedelta(days=span)
    found = await visitor.api.get("usage", groupBy=by, to=to, **{"from": begin.isoformat()}, cursor=query.get("cursor"))
    return visitor.page(
        "usage/list.html",
        usage=found,
        groups=GROUPS,
        spans=SPANS_DAYS,
        filters={"groupBy": by, "days": str(span), "to": to},
        highest=max((group["used"]["totalTokens"] for group in found["usage"]), default=0),
    )


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


routes = [usage_page]
