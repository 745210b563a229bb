"""The way in: the overview of the organization, or the sign-in."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency

from vespid.web.chart import HEIGHT, WIDTH, bars, lines
from vespid.web.fleet import by_tag
from vespid.web.visitor import Visitor

WINDOWS = ("1h", "24h", "7d")
# How many marks the map draws; a larger fleet is found by the list's filters.
_AGENTS_DRAWN = 200
_SHOWN = 5
_ENDS = {"runsSucceeded": "succeeded", "runsFailed": "failed", "runsCancelled": "cancelled"}


@get("/")
async def home(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Agents, queue, throughput, what waits for people, what failed; the first steps until they are done."""
    visitor.require_sign_in()
    wanted = visitor.request.query_params.get("window", "")
    window = wanted if wanted in WINDOWS else "24h"
    api = visitor.api
    overview = await api.get("overview", window=window)
    buckets = overview["buckets"]
    fleet = await api.get("agents", limit=_AGENTS_DRAWN) if visitor.has_role("admin") else None
    return visitor.page(
        "overview/show.html",
        overview=overview,
        buckets=buckets,
        ends=bars(buckets, _ENDS),
        lasting=lines(buckets, {"runP50Ms": "middle", "runP95Ms": "high"}),
        queued=lines(buckets, {"queueP50Ms": "middle", "queueP95Ms": "high"}),
        field={"width": WIDTH, "height": HEIGHT},
        groups=by_tag(fleet["agents"]) if fleet else [],
        is_fleet_whole=fleet is not None and fleet["nextCursor"] is None,
        approvals=(await api.get("approvals", status="pending", limit=_SHOWN))["approvals"],
        failed=(await api.get("runs", status="failed", limit=_SHOWN))["runs"],
        window=window,
        windows=WINDOWS,
        steps=await _first_steps(visitor, overview["agents"]),
    )


async def _first_steps(visitor: Visitor, agents: dict[str, int]) -> dict[str, bool]:
    """The way to the first remote run, each step with whether it is done; nothing once all are."""
    if (await visitor.api.get("runs", limit=1))["runs"]:
        return {}
    workflows = (await visitor.api.get("workflows", limit=200))["workflows"]
    return {
        "pair": sum(agents[name] for name in ("online", "offline", "cordoned")) > 0,
        "publish": any(workflow["status"] == "published" for workflow in workflows),
        "run": False,
    }


routes = [home]
