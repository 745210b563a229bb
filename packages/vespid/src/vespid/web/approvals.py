"""Approvals: what waits for a person, shown whole, and decided by the hash of what was shown."""

from typing import Any
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.exact import exact_json, exact_texts, spelt_out
from vespid.web.refusal import mend_of
from vespid.web.visitor import PageRequest, Visitor

_LISTS = ("pending", "decided")


@get("/approvals")
async def approvals_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Those that wait; by the filter those that were decided."""
    query = visitor.request.query_params
    filters = {"status": query.get("status", "pending"), "runId": query.get("runId", "")}
    found = await visitor.api.get("approvals", cursor=query.get("cursor"), **filters)
    given = {**filters, "cursor": query.get("cursor", "")}
    return visitor.page(
        "approvals/list.html",
        approvals=found["approvals"],
        next_cursor=found["nextCursor"],
        lists=_LISTS,
        filters=filters,
        here="/approvals?" + urlencode({name: value for name, value in given.items() if value}),
        names=await _names(visitor) if filters["status"] == "decided" else {},
    )


@get("/approvals/{approval_id:str}")
async def approval_page(visitor: NamedDependency[Visitor], approval_id: FromPath[str]) -> Response[Any]:
    """One, with all that would run. `seen` is the hash that somebody looks at already."""
    return await _show(visitor, approval_id, seen=visitor.request.query_params.get("seen"))


@post("/approvals/{approval_id:str}/approve", status_code=200)
async def approve(request: PageRequest, visitor: NamedDependency[Visitor], approval_id: FromPath[str]) -> Response[Any]:
    """Allow what was shown."""
    return await _decide(request, visitor, approval_id, "approve")


@post("/approvals/{approval_id:str}/deny", status_code=200)
async def deny(request: PageRequest, visitor: NamedDependency[Visitor], approval_id: FromPath[str]) -> Response[Any]:
    """Do not allow it."""
    return await _decide(request, visitor, approval_id, "deny")


async def _decide(request: PageRequest, visitor: Visitor, approval_id: str, verdict: str) -> Response[Any]:
    given = await form_of(request)
    decision = {"hash": given.get("hash", "")}
    if given.get("comment"):
        decision["comment"] = given["comment"]
    try:
        await visitor.api.post(f"approvals/{approval_id}/{verdict}", decision)
    except ApiRefused as refused:
        if refused.status not in (400, 403, 409):
            raise
        return await _show(visitor, approval_id, seen=given.get("hash"), refused=refused, comment=given.get("comment"))
    visitor.tell("approvals.approved_now" if verdict == "approve" else "approvals.denied_now")
    return await _show(visitor, approval_id)


async def _show(
    visitor: Visitor,
    approval_id: str,
    *,
    seen: str | None = None,
    refused: ApiRefused | None = None,
    comment: str | None = None,
) -> Response[Any]:
    approval = (await visitor.api.get(f"approvals/{approval_id}"))["approval"]
    return visitor.page(
        "approvals/show.html",
        status=refused.status if refused else 200,
        approval=approval,
        name=spelt_out(approval["tool"] or approval["nodeId"]),
        what=exact_json(approval["what"]),
        texts=exact_texts(approval["what"]),
        has_changed=bool(seen) and seen != approval["hash"],
        names=await _names(visitor),
        refused=refused,
        mend=mend_of(visitor, refused) if refused else "",
        comment=comment or "",
    )


async def _names(visitor: Visitor) -> dict[str, str]:
    """What people are called, by their ids; those who have left are not among them."""
    members = (await visitor.api.get("members", limit=200))["members"]
    return {member["userId"]: member["displayName"] or member["email"] for member in members}


routes = [approvals_page, approval_page, approve, deny]
