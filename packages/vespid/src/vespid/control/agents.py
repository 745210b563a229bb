"""Agents of an organization: seen, tagged, cordoned, revoked, given new tokens. `/agents` and `/executors` are one.

A change is committed together with its row of the control feed, and every gateway statement checks the same columns:
the hint that follows makes it quick, nothing depends on it.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec
import structlog
from litestar import get, post, put
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter

from vespid.bus.channels import FEED
from vespid.bus.messages import FeedHint, encode
from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_admin, row_id
from vespid.control.deps import Deps
from vespid.control.errors import DATABASE_AWAY
from vespid.control.pagination import Page, provide_page
from vespid.control.runs import wake
from vespid.control.wire import iso, iso_or_none
from vespid.errors import ApiError, not_found
from vespid.store import agents as rows
from vespid.store.connections import revoke_leases
from vespid_protocol.ids import ExecutorId, OrgId, RunId, create_token, hash_token

log = structlog.get_logger("vespid.control.agents")

# How long the token of before still works after a rotation.
ROTATION_GRACE_MS = 10 * 60 * 1000
AGENT_TOKEN_PREFIX = "vat"  # noqa: S105

_TAG = re.compile(r"\S(?:.*\S)?")
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Tags(msgspec.Struct, frozen=True):
    """All control-plane tags of an agent; these route."""

    tags: Annotated[list[Tag], msgspec.Meta(max_length=50)]


class AgentTool(msgspec.Struct, frozen=True):
    """A tool that the agent has of its own: a skill, or one of an MCP server. The beginning of its description."""

    id: str
    description: str | None = None


class AgentToolProblem(msgspec.Struct, frozen=True):
    """A skill, or an MCP server, that does not work there, and why."""

    id: str
    problem: str


class EngineState(msgspec.Struct, frozen=True, rename="camel"):
    """An engine that needs a program on the agent's machine, and how that is there."""

    id: str
    available: bool
    version: str | None = None
    # Null: the agent does not know.
    logged_in: bool | None = None
    # What is wrong with it, and what to do.
    problem: str | None = None
    # Where the program is.
    path: str | None = None


class Agent(msgspec.Struct, frozen=True, rename="camel"):
    """An agent. `kinds`, `connectors` and `engines` null: all; `reportedTags` are its own words and never route."""

    id: UUID
    name: str
    status: str
    cordoned: bool
    last_seen_at: str | None
    created_at: str
    revoked_at: str | None
    agent_version: str | None
    tags: list[str]
    reported_tags: list[str]
    kinds: list[str] | None
    connectors: list[str] | None
    engines: list[str] | None
    # Sandboxes that it can run shell tasks in; null: it does not say.
    backends: list[str] | None
    # Null: it does not say.
    tools: list[AgentTool] | None
    tool_problems: list[AgentToolProblem] | None
    # Engines that need a program there, and how that is; null: it does not say.
    engine_states: list[EngineState] | None
    max_in_flight: int
    in_flight: int


_tools = msgspec.json.Decoder(list[AgentTool])
_tool_problems = msgspec.json.Decoder(list[AgentToolProblem])


class AgentPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first, in both spellings."""

    agents: list[Agent]
    executors: list[Agent]
    next_cursor: str | None


class AgentAnswer(msgspec.Struct, frozen=True):
    """One agent, in both spellings."""

    agent: Agent
    executor: Agent


class TaggedAgent(msgspec.Struct, frozen=True):
    """The tags as an agent's."""

    id: UUID
    tags: list[str]


class LabelledExecutor(msgspec.Struct, frozen=True):
    """The tags as an executor's."""

    id: UUID
    labels: list[str]


class TagsAnswer(msgspec.Struct, frozen=True):
    """In both spellings."""

    agent: TaggedAgent
    executor: LabelledExecutor
    ok: bool = True


class Done(msgspec.Struct, frozen=True):
    """It is done."""

    ok: bool = True


class TokenAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The new token, in both spellings; it is not shown again."""

    agent_token: str
    executor_token: str


def _paths(rest: str = "") -> list[str]:
    return [f"/v1/orgs/{{org_id:str}}/{noun}{rest}" for noun in ("agents", "executors")]


@get(
    _paths(),
    guards=[org_admin],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    tags=["agents"],
)
async def list_agents(
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    page: NamedDependency[Page],
    status: Annotated[
        rows.Standing | None, QueryParameter(description="Only these; one that is cordoned is neither on- nor offline.")
    ] = None,
    tag: Annotated[
        str | None, QueryParameter(max_length=64, description="Only those with this tag, which routes.")
    ] = None,
    q: Annotated[str | None, QueryParameter(max_length=120, description="Only those with this in their name.")] = None,
) -> AgentPage:
    """The organization's agents, revoked ones too."""
    only = rows.AgentFilter(
        now=_now(deps),
        stale_ms=deps.settings.gateway_agent_stale_ms,
        tag=tag or None,
        text=q or None,
        standing=status,
    )
    async with tenant.transaction() as connection:
        found = await rows.list_agents(connection, UUID(tenant.org_id), page.after_id(), page.fetch, only)
    shown, next_cursor = page.cut(found, key=lambda agent: agent.id)
    agents = [_shown(agent, only.now, only.stale_ms) for agent in shown]
    return AgentPage(agents, agents, next_cursor)


@get(_paths("/{agent_id:str}"), guards=[org_admin], tags=["agents"])
async def get_agent(
    agent_id: FromPath[str], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> AgentAnswer:
    """One agent, a revoked one too."""
    only = rows.AgentFilter(
        now=_now(deps), stale_ms=deps.settings.gateway_agent_stale_ms, id=row_id(agent_id, *_NOT_FOUND)
    )
    async with tenant.transaction() as connection:
        found = await rows.list_agents(connection, UUID(tenant.org_id), None, 1, only)
    if not found:
        raise not_found(*_NOT_FOUND)
    agent = _shown(found[0], only.now, only.stale_ms)
    return AgentAnswer(agent, agent)


@put(_paths("/{agent_id:str}/tags"), guards=[org_admin], tags=["agents"])
async def change_tags(
    agent_id: FromPath[str], data: JSONBody[Tags], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> TagsAnswer:
    """Set the tags by which work is routed to the agent; live within a second."""
    agent = row_id(agent_id, *_NOT_FOUND)
    tags = list(dict.fromkeys(data.tags))
    _require_plain(tags)
    async with tenant.transaction() as connection:
        if not await rows.change_tags(connection, UUID(tenant.org_id), agent, tags):
            raise not_found(*_NOT_FOUND)
        await audit(connection, tenant, AuditAction.AGENT_TAGS_CHANGED, agent, {"tags": tags})
    hint(deps, "executor_tags")
    return TagsAnswer(TaggedAgent(agent, tags), LabelledExecutor(agent, tags))


@post(_paths("/{agent_id:str}/cordon"), guards=[org_admin], status_code=200, tags=["agents"])
async def cordon_agent(
    agent_id: FromPath[str], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> Done:
    """Send it nothing new; what it has goes on."""
    return await _set_cordoned(agent_id, tenant, deps, cordoned=True)


@post(_paths("/{agent_id:str}/uncordon"), guards=[org_admin], status_code=200, tags=["agents"])
async def uncordon_agent(
    agent_id: FromPath[str], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> Done:
    """Let it have work again."""
    return await _set_cordoned(agent_id, tenant, deps, cordoned=False)


@post(_paths("/{agent_id:str}/revoke"), guards=[org_admin], status_code=200, tags=["agents"])
async def revoke_agent(
    agent_id: FromPath[str], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> Done:
    """Shut it out for good: from this commit on nothing that it sends is taken."""
    agent = row_id(agent_id, *_NOT_FOUND)
    async with tenant.transaction() as connection:
        if not await rows.revoke_agent(connection, UUID(tenant.org_id), agent):
            raise not_found(*_NOT_FOUND)
        await audit(connection, tenant, AuditAction.AGENT_REVOKED, agent)
    hint(deps, "executor_revoked")
    await lose_leases(deps, agent)
    return Done()


@post(_paths("/{agent_id:str}/rotate-token"), guards=[org_admin], status_code=200, tags=["agents"])
async def rotate_agent_token(
    agent_id: FromPath[str], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> TokenAnswer:
    """Give it another token; the one of before works for ten more minutes."""
    agent = row_id(agent_id, *_NOT_FOUND)
    token = create_token(tenant.org_id, AGENT_TOKEN_PREFIX)
    async with tenant.transaction() as connection:
        if not await rows.rotate_agent_token(
            connection, UUID(tenant.org_id), agent, hash_token(token), ROTATION_GRACE_MS
        ):
            raise not_found(*_NOT_FOUND)
        await audit(connection, tenant, AuditAction.AGENT_TOKEN_ROTATED, agent)
    hint(deps, "executor_token_rotated")
    return TokenAnswer(token, token)


def hint(deps: Deps, kind: str) -> None:
    """Have every process read the control feed now rather than at its next poll."""
    if deps.fanout is not None:
        deps.fanout.publish(FEED, encode(FeedHint(kind)))


async def lose_leases(deps: Deps, executor_id: UUID) -> None:
    """What a revoked executor held goes elsewhere or fails now. Gateways and sweeps do it too; this is the first."""
    try:
        lost = await revoke_leases(deps.database, ExecutorId(str(executor_id)))
    except DATABASE_AWAY as error:
        log.warning("leases_of_revoked_left_to_the_sweep", executor_id=str(executor_id), error=repr(error))
        return
    for lease in lost:
        if lease.run_id is not None:
            wake(deps, OrgId(str(lease.organization_id)), RunId(str(lease.run_id)))


def _now(deps: Deps) -> datetime:
    return datetime.fromtimestamp(deps.now_ms() / 1000, UTC)


def status_of(agent: rows.AgentRow, now: datetime, stale_ms: int) -> str:
    """online, offline or revoked: online once it can be given work, offline at once after a close, and when not heard
    of for too long."""
    if agent.revoked_at is not None:
        return "revoked"
    heard_at = agent.heard_at
    if agent.lost_at is not None or agent.connected_at is None or heard_at is None:
        return "offline"
    return "online" if now - heard_at <= timedelta(milliseconds=stale_ms) else "offline"


async def _set_cordoned(agent_id: str, tenant: TenantContext, deps: Deps, *, cordoned: bool) -> Done:
    agent = row_id(agent_id, *_NOT_FOUND)
    async with tenant.transaction() as connection:
        if not await rows.set_cordoned(connection, UUID(tenant.org_id), agent, cordoned):
            raise not_found(*_NOT_FOUND)
        action = AuditAction.AGENT_CORDONED if cordoned else AuditAction.AGENT_UNCORDONED
        await audit(connection, tenant, action, agent)
    hint(deps, "executor_cordoned" if cordoned else "executor_uncordoned")
    return Done()


_NOT_FOUND = ("AGENT_NOT_FOUND", "There is no such agent here.")


def _require_plain(tags: list[str]) -> None:
    wrong = {
        f"tags[{at}]": ["A tag does not begin or end with a blank."]
        for at, tag in enumerate(tags)
        if not _TAG.fullmatch(tag)
    }
    if wrong:
        raise ApiError(400, "BAD_REQUEST", "The request is not valid.", {"fieldErrors": wrong})


def _shown(agent: rows.AgentRow, now: datetime, stale_ms: int) -> Agent:
    return Agent(
        id=agent.id,
        name=agent.name,
        status=status_of(agent, now, stale_ms),
        cordoned=agent.cordoned,
        last_seen_at=iso_or_none(agent.heard_at),
        created_at=iso(agent.created_at),
        revoked_at=iso_or_none(agent.revoked_at),
        agent_version=agent.agent_version,
        tags=agent.tags,
        reported_tags=agent.reported_tags,
        kinds=agent.kinds,
        connectors=agent.connectors,
        engines=agent.engines,
        backends=agent.backends,
        tools=None if agent.tools is None else _tools.decode(agent.tools),
        tool_problems=None if agent.tool_problems is None else _tool_problems.decode(agent.tool_problems),
        engine_states=_states(agent.engine_states),
        max_in_flight=agent.max_in_flight,
        in_flight=agent.in_flight,
    )


def _states(document: bytes | None) -> list[EngineState] | None:
    """A hello was checked when it came; what a pairing declared was not."""
    try:
        return None if document is None else msgspec.json.decode(document, type=list[EngineState])
    except msgspec.DecodeError:
        return None


routes = [list_agents, get_agent, change_tags, cordon_agent, uncordon_agent, revoke_agent, rotate_agent_token]
