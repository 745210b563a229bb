"""Agent bindings: which agent of the organization which sessions are routed to. What they mean is in `domain.binding`.

Any member may look at them and change them (`api.md` §6). A session is routed when it is made, and with each message.
"""

from typing import Annotated, Any
from uuid import UUID

import asyncpg
import msgspec
from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody

from vespid.bus.channels import FEED
from vespid.bus.messages import FeedHint, encode
from vespid.control.audit import AuditAction, audit
from vespid.control.body import fields_invalid
from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.idempotency import IDEMPOTENT, Once
from vespid.control.openapi import errors
from vespid.control.pagination import Page, provide_page
from vespid.control.wire import iso
from vespid.domain.binding import PRIORITY_MAX, AgentId, Dimension, read_match
from vespid.domain.fields import FieldsInvalid
from vespid.errors import bad_request, conflict, not_found
from vespid.store import bindings as rows
from vespid_protocol.ids import OrgId, new_id

Priority = Annotated[int, msgspec.Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)]
METADATA_MAX_CHARS = 16_384
MATCH_MAX_CHARS = 65_536


class NewBinding(msgspec.Struct, frozen=True, rename="camel"):
    """A binding to be. `match` has a key per fact of the session; see docs/sessions.md."""

    agent_id: AgentId
    dimension: Dimension
    match: dict[str, Any] | None = None
    priority: Priority = 0
    metadata: dict[str, Any] | None = None


class BindingChange(msgspec.Struct, frozen=True, rename="camel"):
    """What of it changes; what is left out stays."""

    agent_id: AgentId | msgspec.UnsetType = msgspec.UNSET
    dimension: Dimension | msgspec.UnsetType = msgspec.UNSET
    match: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    priority: Priority | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class AgentBinding(msgspec.Struct, frozen=True, rename="camel"):
    """One binding."""

    id: UUID
    organization_id: UUID
    agent_id: str
    priority: int
    dimension: str
    match: Any
    metadata: Any
    created_by_user_id: UUID | None
    created_at: str
    updated_at: str


class BindingAnswer(msgspec.Struct, frozen=True):
    """One binding."""

    binding: AgentBinding


class BindingPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first."""

    bindings: list[AgentBinding]
    next_cursor: str | None


class Done(msgspec.Struct, frozen=True):
    """It is done."""

    ok: bool = True


@get(
    "/v1/orgs/{org_id:str}/agent-bindings",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listAgentBindings",
    tags=["sessions"],
)
async def list_bindings(tenant: NamedDependency[TenantContext], page: NamedDependency[Page]) -> BindingPage:
    """The organization's bindings."""
    async with tenant.transaction() as connection:
        found = await rows.list_bindings(connection, UUID(tenant.org_id), page.after_id(), page.fetch)
    shown, next_cursor = page.cut(found, key=lambda binding: binding.id)
    return BindingPage([_shown(binding) for binding in shown], next_cursor)


@post(
    "/v1/orgs/{org_id:str}/agent-bindings",
    guards=[org_member],
    opt=IDEMPOTENT,
    responses=errors(409),
    operation_id="createAgentBinding",
    tags=["sessions"],
)
async def create_binding(
    data: JSONBody[NewBinding],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    once: NamedDependency[Once],
) -> Response[BindingAnswer]:
    """Bind sessions of which something is true to an agent."""
    match = _checked_match(data.dimension, data.match or {})
    metadata = _checked_metadata(data.metadata or {})

    async def create(connection: asyncpg.Connection) -> BindingAnswer:
        binding = await rows.create_binding(
            connection,
            rows.NewBinding(
                id=UUID(new_id()),
                organization_id=UUID(tenant.org_id),
                agent_id=data.agent_id,
                priority=data.priority,
                dimension=data.dimension,
                match=match,
                metadata=metadata,
                user_id=UUID(tenant.user_id),
            ),
        )
        if binding is None:
            raise conflict(f"An organization has at most {rows.BINDINGS_MAX} bindings.")
        await audit(connection, tenant, AuditAction.AGENT_BINDING_CREATED, binding.id, _told(binding))
        return BindingAnswer(_shown(binding))

    answer = await once(create)
    _tell(deps, tenant.org_id)
    return answer


@patch(
    "/v1/orgs/{org_id:str}/agent-bindings/{binding_id:str}",
    guards=[org_member],
    operation_id="changeAgentBinding",
    tags=["sessions"],
)
async def change_binding(
    binding_id: FromPath[str],
    data: JSONBody[BindingChange],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
) -> BindingAnswer:
    """Change a part of a binding; sessions are routed by it from their next message on."""
    row, org = row_id(binding_id), UUID(tenant.org_id)
    async with tenant.transaction() as connection:
        before = await rows.lock_binding(connection, org, row)
        if before is None:
            raise not_found()
        binding = await rows.change_binding(connection, _merged(before, data))
        await audit(connection, tenant, AuditAction.AGENT_BINDING_CHANGED, row, _told(binding))
    _tell(deps, tenant.org_id)
    return BindingAnswer(_shown(binding))


@delete(
    "/v1/orgs/{org_id:str}/agent-bindings/{binding_id:str}",
    guards=[org_member],
    status_code=200,
    operation_id="deleteAgentBinding",
    tags=["sessions"],
)
async def delete_binding(
    binding_id: FromPath[str], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> Done:
    """Take a binding away; its sessions go elsewhere with their next message."""
    row = row_id(binding_id)
    async with tenant.transaction() as connection:
        if not await rows.delete_binding(connection, UUID(tenant.org_id), row):
            raise not_found()
        await audit(connection, tenant, AuditAction.AGENT_BINDING_DELETED, row)
    _tell(deps, tenant.org_id)
    return Done()


def _merged(before: rows.BindingRow, change: BindingChange) -> rows.BindingRow:
    """The row as it is to be. Raises ApiError 400 where its match does not fit its dimension."""
    dimension = before.dimension if change.dimension is msgspec.UNSET else change.dimension
    match = msgspec.json.decode(before.match) if change.match is msgspec.UNSET else change.match
    metadata = before.metadata
    if change.metadata is not msgspec.UNSET:
        metadata = _checked_metadata(change.metadata or {})
    return msgspec.structs.replace(
        before,
        agent_id=before.agent_id if change.agent_id is msgspec.UNSET else change.agent_id,
        priority=before.priority if change.priority is msgspec.UNSET else change.priority,
        dimension=dimension,
        match=_checked_match(dimension, match),
        metadata=metadata,
    )


def _checked_match(dimension: Dimension, match: dict[str, Any]) -> bytes:
    try:
        read_match(dimension, match)
    except FieldsInvalid as invalid:
        raise fields_invalid(invalid) from None
    return _bounded("match", match, MATCH_MAX_CHARS)


def _checked_metadata(metadata: dict[str, Any]) -> bytes:
    return _bounded("metadata", metadata, METADATA_MAX_CHARS)


def _bounded(field: str, value: dict[str, Any], most: int) -> bytes:
    encoded = msgspec.json.encode(value)
    if len(encoded.decode()) > most:
        raise bad_request(f"Has more than {most} characters as JSON.", field=field)
    return encoded


def _tell(deps: Deps, org_id: str) -> None:
    """This process routes by it at once, the others as soon as they have read the feed."""
    deps.conversation.bindings.forget(OrgId(org_id))
    if deps.fanout is not None:
        deps.fanout.publish(FEED, encode(FeedHint(rows.CHANGED)))


def _told(binding: rows.BindingRow) -> dict[str, object]:
    return {"agentId": binding.agent_id, "dimension": binding.dimension, "priority": binding.priority}


def _shown(binding: rows.BindingRow) -> AgentBinding:
    return AgentBinding(
        id=binding.id,
        organization_id=binding.organization_id,
        agent_id=binding.agent_id,
        priority=binding.priority,
        dimension=binding.dimension,
        match=msgspec.Raw(binding.match),
        metadata=msgspec.Raw(binding.metadata),
        created_by_user_id=binding.created_by_user_id,
        created_at=iso(binding.created_at),
        updated_at=iso(binding.updated_at),
    )


routes = [list_bindings, create_binding, change_binding, delete_binding]
