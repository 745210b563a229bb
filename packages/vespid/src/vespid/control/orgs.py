"""Organizations: making one."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from vespid.control.audit import AuditAction, audit_as
from vespid.control.context import origin_of, signed_in
from vespid.control.idempotency import IDEMPOTENT, Once
from vespid.control.openapi import created, errors
from vespid.control.principal import Principal
from vespid.control.wire import iso
from vespid.errors import conflict
from vespid.store import orgs
from vespid.store.idempotency import enter_tenant
from vespid_protocol.ids import OrgId, new_id

# The lookahead: "$" alone is satisfied before a newline at the end.
Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{3,50}(?!\n)$", min_length=3, max_length=50)]
OrgName = Annotated[str, msgspec.Meta(min_length=2, max_length=120)]


class NewOrganization(msgspec.Struct, frozen=True):
    """An organization to be made."""

    name: OrgName
    slug: Slug


class Organization(msgspec.Struct, frozen=True, rename="camel"):
    """An organization."""

    id: UUID
    slug: str
    name: str
    created_at: str


class Membership(msgspec.Struct, frozen=True, rename="camel"):
    """A person's place in an organization."""

    organization_id: UUID
    user_id: UUID
    role_key: str
    created_at: str


class OrganizationCreated(msgspec.Struct, frozen=True):
    """The organization, and its first owner."""

    organization: Organization
    membership: Membership


@post(
    "/v1/orgs",
    guards=[signed_in],
    opt=IDEMPOTENT,
    responses=created(OrganizationCreated) | errors(409),
    operation_id="createOrganization",
    tags=["organizations"],
)
async def create_organization(
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    data: JSONBody[NewOrganization],
    once: NamedDependency[Once],
) -> Response[Any]:
    """Make an organization; the caller is its owner."""
    origin = origin_of(request)

    async def create(connection: Any) -> OrganizationCreated:
        org_id = OrgId(new_id())
        await enter_tenant(connection, org_id)
        org = await orgs.create_organization(connection, UUID(org_id), data.slug, data.name)
        if org is None:
            raise conflict("This slug is taken.", "ORG_SLUG_CONFLICT")
        membership = await orgs.create_membership(connection, org.id, UUID(principal.user_id), "owner")
        if membership is None:
            raise RuntimeError("a new organization had a member")
        action = AuditAction.ORGANIZATION_CREATED
        await audit_as(connection, org_id, principal, origin, action, org_id, {"slug": org.slug})
        return OrganizationCreated(
            Organization(org.id, org.slug, org.name, iso(org.created_at)), shown_membership(membership)
        )

    return await once(create)


def shown_membership(row: orgs.MembershipRow) -> Membership:
    """A membership, as answers spell it."""
    return Membership(row.organization_id, row.user_id, row.role, iso(row.created_at))


routes = [create_organization]
