"""Members and invitations."""

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.visitor import PageRequest, Visitor, origin_of


@get("/members")
async def members_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Who belongs here; for admins also who is invited."""
    return await _list(visitor)


@post("/members/{user_id:str}/role", status_code=200)
async def change_role(request: PageRequest, visitor: NamedDependency[Visitor], user_id: FromPath[str]) -> Response[Any]:
    """Make a member something else."""
    given = await form_of(request)
    changed = await visitor.api.post(f"members/{user_id}/role", {"roleKey": given.get("roleKey", "")})
    member = changed["member"]
    visitor.tell("members.changed", email=member["email"], role=visitor.language.text(f"roles.{member['roleKey']}"))
    return await _list(visitor)


@post("/members/{user_id:str}/remove", status_code=200)
async def remove_member(visitor: NamedDependency[Visitor], user_id: FromPath[str]) -> Response[Any]:
    """Remove a member, or leave."""
    await visitor.api.delete(f"members/{user_id}")
    if visitor.me is not None and visitor.me["user"]["id"] == user_id:
        return visitor.go_to("/")
    visitor.tell("members.removed")
    return await _list(visitor)


@post("/invitations", status_code=200)
async def invite(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Invite an address; the link is shown this once."""
    given = await form_of(request)
    try:
        made = await visitor.api.post("invitations", {name: given.get(name, "") for name in ("email", "roleKey")})
    except ApiRefused as refused:
        return await _list(visitor, given=given, refused=refused)
    link = f"{origin_of(request)}/invitations/{made['invitation']['token']}"
    return await _list(visitor, invited={"email": made["invitation"]["email"], "link": link})


@post("/invitations/{invitation_id:str}/revoke", status_code=200)
async def revoke_invitation(visitor: NamedDependency[Visitor], invitation_id: FromPath[str]) -> Response[Any]:
    """Take an invitation back."""
    await visitor.api.delete(f"invitations/{invitation_id}")
    visitor.tell("members.invitation_revoked")
    return await _list(visitor)


async def _list(
    visitor: Visitor,
    *,
    given: dict[str, str] | None = None,
    refused: ApiRefused | None = None,
    invited: dict[str, str] | None = None,
) -> Response[Any]:
    query = visitor.request.query_params
    text = query.get("q", "")
    found = await visitor.api.get("members", cursor=query.get("cursor"), q=text)
    open_ones: list[Any] = []
    if visitor.has_role("admin"):
        recent = await visitor.api.get("invitations", limit=100)
        open_ones = [one for one in recent["invitations"] if one["status"] in ("pending", "expired")]
    return visitor.page(
        "members/list.html",
        status=refused.status if refused else 200,
        members=found["members"],
        next_cursor=found["nextCursor"],
        invitations=open_ones,
        filters={"q": text},
        given=given or {},
        refused=refused,
        invited=invited,
    )


routes = [members_page, change_role, remove_member, invite, revoke_invitation]
