"""Runs of all workflows: listed, watched as they happen, cancelled, tried again.

What happens in a run the browser reads from the API's own stream (`run.js`); here is what the stream does not tell: the
run's state, what it waits for, where its nodes are.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.visitor import PageRequest, Visitor
from vespid.web.waits import places_of, waits_of

STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
TRIGGERS = ("manual", "api", "webhook", "cron")
OVER = ("succeeded", "failed", "cancelled")
_FILTERS = ("status", "workflowId", "triggerType")


@get("/runs")
async def list_runs(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The runs of the organization."""
    query = request.query_params
    filters = {name: query[name] for name in _FILTERS if query.get(name)}
    cursor = query.get("cursor")
    found = await visitor.api.get("runs", cursor=cursor, **filters)
    workflows = (await visitor.api.get("workflows", status="published", limit=100))["workflows"]
    return visitor.page(
        "runs/list.html",
        runs=found["runs"],
        cursor=found["nextCursor"],
        filters=filters,
        is_first=not cursor,
        here=f"/runs?{request.url.query}" if request.url.query else "/runs",
        workflows=workflows,
        statuses=STATUSES,
        triggers=TRIGGERS,
    )


@get("/runs/{run_id:str}")
async def run_page(visitor: NamedDependency[Visitor], run_id: FromPath[str]) -> Response[Any]:
    """One run; its block `run_state` is asked for again whenever something decisive happened."""
    return await _show(visitor, (await visitor.api.get(f"runs/{run_id}"))["run"])


@post("/runs/{run_id:str}/cancel", status_code=200)
async def cancel_run(visitor: NamedDependency[Visitor], run_id: FromPath[str]) -> Response[Any]:
    """End it; what runs on agents is cancelled there."""
    path = await _path(visitor, run_id)
    await visitor.api.post(f"{path}/cancel")
    visitor.tell("run.cancel_told")
    return await _show(visitor, (await visitor.api.get(f"runs/{run_id}"))["run"])


@post("/runs/{run_id:str}/retry", status_code=200)
async def retry_run(request: PageRequest, visitor: NamedDependency[Visitor], run_id: FromPath[str]) -> Response[Any]:
    """A new run that goes on from a node, or at what failed; it is watched from here on."""
    node_id = (await form_of(request)).get("fromNodeId")
    path = await _path(visitor, run_id)
    made = await visitor.api.post(f"{path}/retry", {"fromNodeId": node_id} if node_id else {})
    return visitor.go_to(f"/runs/{made['run']['id']}")


@get("/runs/{run_id:str}/nodes/{node_id:str}/output")
async def node_output(
    visitor: NamedDependency[Visitor], run_id: FromPath[str], node_id: FromPath[str]
) -> Response[Any]:
    """What a node answered, in full."""
    path = await _path(visitor, run_id)
    try:
        output = (await visitor.api.get(f"{path}/nodes/{node_id}/output"))["output"]
    except ApiRefused as refused:
        if refused.status != 404:
            raise
        return visitor.page("runs/output.html", node_id=node_id, run_id=run_id, is_there=False, output=None)
    return visitor.page("runs/output.html", node_id=node_id, run_id=run_id, is_there=True, output=output)


async def _path(visitor: Visitor, run_id: str) -> str:
    run = (await visitor.api.get(f"runs/{run_id}"))["run"]
    return f"workflows/{run['workflowId']}/runs/{run_id}"


async def _show(visitor: Visitor, run: Mapping[str, Any]) -> Response[Any]:
    path = f"workflows/{run['workflowId']}"
    workflow = (await visitor.api.get(path))["workflow"]
    attempts = (await visitor.api.get(f"{path}/runs/{run['id']}/attempts", limit=200))["attempts"]
    steps = {step["nodeId"]: step for step in run["output"]["steps"]} if run["output"] else {}
    graph = (await visitor.api.get(f"{path}/graph"))["graph"]
    nodes = [{**node, "status": "pending", **steps.get(node["id"], {})} for node in graph["nodes"]]
    return visitor.page(
        "runs/show.html",
        run=run,
        workflow=workflow,
        nodes=nodes,
        waits=waits_of(run, attempts),
        places=places_of(attempts),
        who=await _who(visitor, run["requestedByUserId"]),
        is_over=run["status"] in OVER,
        mend=_mend(visitor, run["error"]),
        words=_words(visitor),
        now=datetime.now(UTC).isoformat(),
        stream=f"/v1/orgs/{visitor.org_id}/{path}/runs/{run['id']}/stream",
    )


async def _who(visitor: Visitor, user_id: str | None) -> str | None:
    if user_id is None:
        return None
    members = (await visitor.api.get("members", limit=200))["members"]
    return next((member["displayName"] or member["email"] for member in members if member["userId"] == user_id), None)


def _words(visitor: Visitor) -> Mapping[str, str]:
    """What the page's script says."""
    tables = ("timeline.", "node_status.", "event_kinds.")
    return {key: text for key, text in visitor.language.texts.items() if key.startswith(tables)}


def _mend(visitor: Visitor, code: str | None) -> str:
    """What can be done about a run's error: by its code without what stands behind the colon."""
    if code is None:
        return ""
    return visitor.language.optional(f"run_mends.{code.split(':')[0]}") or visitor.language.text("run_mends.other")


routes = [list_runs, run_page, cancel_run, retry_run, node_output]
