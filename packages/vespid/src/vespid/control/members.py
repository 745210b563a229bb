"""Members: who is in an organization, as what; and who leaves it. An organization always has an owner."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter

from vespid.bus.org_news import tell_org
from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_admin, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.control.pagination import Page, provide_page
from vespid.control.wire import iso
from vespid.errors import conflict, forbidden, not_found
from vespid.store import members as rows
from vespid.store.announcements import announce_member_removed

RoleKey = Literal["owner", "admin", "member"]


class Member(msgspec.Struct, frozen=True, rename="camel"):
    """A person in the organization."""

    user_id: UUID
    email: str
    display_name: str | None
    role_key: str
    created_at: str


class MemberPage(msgspec.Struct, frozen=True, rename="camel"):
    """The oldest accounts first."""

    members: list[Member]
    next_cursor: str | None


class RoleChange(msgspec.Struct, frozen=True, rename="camel"):
    """What a member becomes."""

    role_key: RoleKey


class MemberChanged(msgspec.Struct, frozen=True):
    """The member, as it is now."""

    member: Member


class MemberRemoved(msgspec.Struct, frozen=True):
    """The person is not a member any more."""

    ok: bool


@get(
    "/v1/orgs/{org_id:str}/members",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listMembers",
    tags=["members"],
)
async def list_members(
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    q: Annotated[
        str | None, QueryParameter(max_length=254, description="Only those whose address or name has this text.")
    ] = None,
) -> MemberPage:
    """The members of the organization."""
    async with tenant.transaction() as connection:
        found = await rows.list_members(connection, page.after_id(), page.fetch, q or None)
    shown, next_cursor = page.cut(found, key=lambda member: member.user_id)
    return MemberPage([_shown(member) for member in shown], next_cursor)


@post(
    "/v1/orgs/{org_id:str}/members/{user_id:str}/role",
    status_code=200,
    guards=[org_admin],
    responses=errors(409),
    operation_id="changeMemberRole",
    tags=["members"],
)
async def change_role(
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    user_id: FromPath[str],
    data: JSONBody[RoleChange],
) -> MemberChanged:
    """Make a member an owner, an admin or a plain member. What concerns owners takes an owner."""
    async with tenant.transaction() as connection:
        owners, member = await _lock(connection, tenant, user_id)
        if data.role_key == "owner" and not tenant.has_role("owner"):
            raise forbidden("Only an owner makes an owner.")
        if member.role == data.role_key:
            return MemberChanged(_shown(member))
        _keep_an_owner(tenant, owners, member)
        await rows.change_role(connection, UUID(tenant.org_id), member.user_id, data.role_key)
        details = {"from": member.role, "to": data.role_key}
        await audit(connection, tenant, AuditAction.MEMBER_ROLE_CHANGED, member.user_id, details)
    tell_org(deps.fanout, tenant.org_id, "settings")
    return MemberChanged(_shown(msgspec.structs.replace(member, role=data.role_key)))


@delete(
    "/v1/orgs/{org_id:str}/members/{user_id:str}",
    status_code=200,
    guards=[org_member],
    responses=errors(409),
    operation_id="removeMember",
    tags=["members"],
)
async def remove_member(tenant: NamedDependency[TenantContext], user_id: FromPath[str]) -> MemberRemoved:
    """Remove a member, whose API keys here end too. Anybody may leave; to remove another takes an admin."""
    async with tenant.transaction() as connection:
        if user_id.lower() != tenant.user_id and not tenant.has_role("admin"):
            raise forbidden("To remove another member takes the role admin.")
        owners, member = await _lock(connection, tenant, user_id)
        _keep_an_owner(tenant, owners, member)
        org_id = UUID(tenant.org_id)
        revoked = await rows.remove_member(connection, org_id, member.user_id)
        await announce_member_removed(connection, org_id, member.user_id)
        details = {"role": member.role, "revokedApiKeys": [str(key) for key in revoked]}
        await audit(connection, tenant, AuditAction.MEMBER_REMOVED, member.user_id, details)
    return MemberRemoved(ok=True)


async def _lock(connection: object, tenant: TenantContext, user_id: str) -> tuple[list[UUID], rows.MemberRow]:
    """The owners first and then the member, always in this order: two such requests never wait for each other twice."""
    org_id = UUID(tenant.org_id)
    owners = await rows.lock_owners(connection, org_id)
    member = await rows.lock_member(connection, org_id, row_id(user_id))
    if member is None:
        raise not_found(message="There is no such member.")
    return owners, member


def _keep_an_owner(tenant: TenantContext, owners: list[UUID], member: rows.MemberRow) -> None:
    if member.role != "owner":
        return
    if not tenant.has_role("owner"):
        raise forbidden("Only an owner changes an owner.")
    if owners == [member.user_id]:
        raise conflict("An organization keeps at least one owner.")


def _shown(row: rows.MemberRow) -> Member:
    return Member(row.user_id, row.email, row.display_name, row.role, iso(row.created_at))


routes = [list_members, change_role, remove_member]
