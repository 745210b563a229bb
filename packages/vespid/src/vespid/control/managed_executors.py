"""The managed pool: executors of no organization, issued and retired by whoever operates the server."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
import structlog
from litestar import get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody

from vespid.control.agents import Tag, hint, lose_leases, status_of
from vespid.control.context import row_id
from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.control.pagination import Page, provide_page
from vespid.control.pairing import DeclaredCapabilities, Name
from vespid.control.service_token import service_caller
from vespid.control.wire import iso, iso_or_none
from vespid.errors import not_found
from vespid.store import agents as rows
from vespid_protocol.ids import create_token, hash_token, new_id

log = structlog.get_logger("vespid.control.managed_executors")

MANAGED_TOKEN_PREFIX = "vmt"  # noqa: S105
Note = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]


class Issue(msgspec.Struct, frozen=True, rename="camel"):
    """What the executor is issued with; its own `hello` says the rest."""

    name: Name = "managed"
    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=200)] | None = None
    labels: Annotated[list[Tag], msgspec.Meta(max_length=50)] = []
    capabilities: DeclaredCapabilities | None = None
    runtime_class: Note | None = None
    region: Note | None = None


class Issued(msgspec.Struct, frozen=True, rename="camel"):
    """The credential; shown once."""

    executor_id: UUID
    executor_token: str
    gateway_ws_url: str


class Change(msgspec.Struct, frozen=True):
    """`drain`: nothing new, what it has goes on. `enabled` false: not let in."""

    drain: bool | None = None
    enabled: bool | None = None


class Done(msgspec.Struct, frozen=True):
    """It is done."""

    ok: bool = True


class ManagedExecutor(msgspec.Struct, frozen=True, rename="camel"):
    """An executor of the managed pool; `inFlight` is over all organizations."""

    id: UUID
    name: str
    status: str
    drain: bool
    enabled: bool
    last_seen_at: str | None
    created_at: str
    revoked_at: str | None
    agent_version: str | None
    labels: list[str]
    reported_tags: list[str]
    kinds: list[str] | None
    connectors: list[str] | None
    engines: list[str] | None
    backends: list[str] | None
    max_in_flight: int
    in_flight: int
    runtime_class: str | None
    region: str | None


class ManagedPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first."""

    executors: list[ManagedExecutor]
    next_cursor: str | None


@post(
    "/internal/v1/managed-executors/issue",
    guards=[service_caller],
    responses=errors(401),
    operation_id="issueManagedExecutor",
    tags=["internal"],
)
async def issue_managed_executor(data: JSONBody[Issue], deps: NamedDependency[Deps]) -> Issued:
    """Make a managed executor and its credential."""
    executor_id = new_id()
    token = create_token(executor_id, MANAGED_TOKEN_PREFIX)
    declared = data.capabilities or DeclaredCapabilities()
    spec = rows.ManagedSpec(
        name=data.name,
        max_in_flight=data.max_in_flight or declared.effective_max_in_flight(),
        labels=list(dict.fromkeys(data.labels)),
        capabilities=msgspec.Raw(msgspec.json.encode(declared)),
        kinds=declared.kinds,
        connectors=declared.connectors,
        engines=declared.engines,
        reported_tags=declared.tags or [],
        runtime_class=data.runtime_class,
        region=data.region,
    )
    await rows.issue_managed_executor(deps.database, UUID(executor_id), hash_token(token), spec)
    log.info("managed_executor_issued", executor_id=executor_id, name=data.name)
    return Issued(UUID(executor_id), token, deps.settings.gateway_ws_url)


@get(
    "/internal/v1/managed-executors",
    guards=[service_caller],
    responses=errors(401),
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listManagedExecutors",
    tags=["internal"],
)
async def list_managed_executors(deps: NamedDependency[Deps], page: NamedDependency[Page]) -> ManagedPage:
    """The managed pool, revoked ones too."""
    found = await rows.list_managed_executors(deps.database, page.after_id(), page.fetch)
    shown, next_cursor = page.cut(found, key=lambda executor: executor.id)
    now = datetime.fromtimestamp(deps.now_ms() / 1000, UTC)
    return ManagedPage([_shown(executor, now, deps) for executor in shown], next_cursor)


@patch(
    "/internal/v1/managed-executors/{executor_id:str}",
    guards=[service_caller],
    responses=errors(401),
    operation_id="changeManagedExecutor",
    tags=["internal"],
)
async def change_managed_executor(
    executor_id: FromPath[str], data: JSONBody[Change], deps: NamedDependency[Deps]
) -> Done:
    """Drain, disable, or undo either; what is left out stays."""
    row = row_id(executor_id, *_NOT_FOUND)
    if not await rows.change_managed_executor(deps.database, row, drain=data.drain, enabled=data.enabled):
        raise not_found(*_NOT_FOUND)
    log.info("managed_executor_changed", executor_id=executor_id, drain=data.drain, enabled=data.enabled)
    hint(deps, "executor_changed")
    return Done()


@post(
    "/internal/v1/managed-executors/{executor_id:str}/revoke",
    guards=[service_caller],
    status_code=200,
    responses=errors(401),
    operation_id="revokeManagedExecutor",
    tags=["internal"],
)
async def revoke_managed_executor(executor_id: FromPath[str], deps: NamedDependency[Deps]) -> Done:
    """Shut it out for good."""
    row = row_id(executor_id, *_NOT_FOUND)
    if not await rows.revoke_managed_executor(deps.database, row):
        raise not_found(*_NOT_FOUND)
    log.info("managed_executor_revoked", executor_id=executor_id)
    hint(deps, "executor_revoked")
    await lose_leases(deps, row)
    return Done()


_NOT_FOUND = ("EXECUTOR_NOT_FOUND", "There is no such managed executor.")


def _shown(executor: rows.AgentRow, now: datetime, deps: Deps) -> ManagedExecutor:
    return ManagedExecutor(
        id=executor.id,
        name=executor.name,
        status=status_of(executor, now, deps.settings.gateway_agent_stale_ms),
        drain=executor.cordoned,
        enabled=executor.enabled,
        last_seen_at=iso_or_none(executor.heard_at),
        created_at=iso(executor.created_at),
        revoked_at=iso_or_none(executor.revoked_at),
        agent_version=executor.agent_version,
        labels=executor.tags,
        reported_tags=executor.reported_tags,
        kinds=executor.kinds,
        connectors=executor.connectors,
        engines=executor.engines,
        backends=executor.backends,
        max_in_flight=executor.max_in_flight,
        in_flight=executor.in_flight,
        runtime_class=executor.runtime_class,
        region=executor.region,
    )


routes = [issue_managed_executor, list_managed_executors, change_managed_executor, revoke_managed_executor]
