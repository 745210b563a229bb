"""Pairing: an owner makes a token, a host turns it into an agent.

The token is consumed in the transaction that creates the agent, so that a token makes one agent or none.
"""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from vespid.bus.org_news import tell_org
from vespid.control.agents import AGENT_TOKEN_PREFIX
from vespid.control.audit import AuditAction, audit, audit_as
from vespid.control.context import TenantContext, org_admin, origin_of, row_id
from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.control.rate_limit import FAILURES_LIMITED, failures_limited, subjects_of
from vespid.control.wire import iso, iso_or_none
from vespid.errors import ApiError, not_found
from vespid.store import pairing as rows
from vespid_protocol.ids import IdInvalid, OrgId, create_token, hash_token, new_id, parse_token

PAIRING_TOKEN_LIFETIME_MS = 15 * 60 * 1000
PAIRING_TOKEN_PREFIX = "vpt"  # noqa: S105
DEFAULT_MAX_IN_FLIGHT = 10
MAX_IN_FLIGHT = 200

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Words = Annotated[list[Word], msgspec.Meta(max_length=200)]


class PairingTokenAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """`token` is shown once; by `id` is seen what became of it."""

    id: UUID
    token: str
    expires_at: str


class PairingTokenState(msgspec.Struct, frozen=True, rename="camel"):
    """A pairing token without its value. Once it was used, `agentId` says which agent it became."""

    id: UUID
    expires_at: str
    used_at: str | None
    agent_id: UUID | None


class PairingTokenStateAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """One pairing token."""

    pairing_token: PairingTokenState


class DeclaredCapabilities(msgspec.Struct, frozen=True, rename="camel"):
    """What an agent says it can do; `hello` says it anew at each connection. Absent lists mean all."""

    kinds: Words | None = None
    connectors: Words | None = None
    engines: Words | None = None
    tags: Words | None = None
    max_in_flight: int | None = None

    def effective_max_in_flight(self) -> int:
        """10 where nothing was said, and never beyond 1..200."""
        asked = DEFAULT_MAX_IN_FLIGHT if self.max_in_flight is None else self.max_in_flight
        return max(1, min(MAX_IN_FLIGHT, asked))


class Pairing(msgspec.Struct, frozen=True, rename="camel"):
    """A host that wants to be an agent."""

    pairing_token: str
    name: Name
    agent_version: Annotated[str, msgspec.Meta(max_length=120)] | None = None
    capabilities: DeclaredCapabilities | None = None


class PairedAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The agent's credential, in both spellings; shown once."""

    agent_id: UUID
    agent_token: str
    executor_id: UUID
    executor_token: str
    organization_id: UUID
    gateway_ws_url: str


@post(
    [f"/v1/orgs/{{org_id:str}}/{noun}/pairing-tokens" for noun in ("agents", "executors")],
    guards=[org_admin],
    tags=["agents"],
)
async def create_pairing_token(tenant: NamedDependency[TenantContext]) -> PairingTokenAnswer:
    """A token for one host, good for a quarter of an hour."""
    token = create_token(tenant.org_id, PAIRING_TOKEN_PREFIX)
    token_id = UUID(new_id())
    async with tenant.transaction() as connection:
        expires_at = await rows.create_pairing_token(
            connection,
            token_id,
            UUID(tenant.org_id),
            hash_token(token),
            UUID(tenant.user_id),
            PAIRING_TOKEN_LIFETIME_MS,
        )
        await audit(connection, tenant, AuditAction.PAIRING_TOKEN_CREATED, token_id)
    return PairingTokenAnswer(token_id, token, iso(expires_at))


@get(
    [f"/v1/orgs/{{org_id:str}}/{noun}/pairing-tokens/{{token_id:str}}" for noun in ("agents", "executors")],
    guards=[org_admin],
    tags=["agents"],
)
async def get_pairing_token(token_id: FromPath[str], tenant: NamedDependency[TenantContext]) -> PairingTokenStateAnswer:
    """Whether a pairing token was used, and for which agent."""
    async with tenant.transaction() as connection:
        row = await rows.read_pairing_token(connection, UUID(tenant.org_id), row_id(token_id))
    if row is None:
        raise not_found()
    state = PairingTokenState(row.id, iso(row.expires_at), iso_or_none(row.used_at), row.executor_id)
    return PairingTokenStateAnswer(state)


@post(
    ["/v1/agents/pair", "/v1/executors/pair"],
    opt=FAILURES_LIMITED,
    responses=errors(401),
    tags=["agents"],
)
async def pair_agent(
    data: JSONBody[Pairing], deps: NamedDependency[Deps], request: Request[Any, Any, Any]
) -> PairedAnswer:
    """Turn a pairing token into an agent. A valid token is never refused for the failures of others."""
    async with failures_limited(deps, "pairing", subjects_of(request), valid_always_passes=True):
        try:
            parsed = parse_token(data.pairing_token)
        except IdInvalid:
            raise _refused(rows.PairingRefused.INVALID) from None
        org_id = OrgId(parsed.subject)
        token = create_token(org_id, AGENT_TOKEN_PREFIX)
        agent = _new_agent(data, org_id, hash_token(token))
        async with deps.database.tenant(org_id) as connection:
            used = await rows.pair(connection, parsed.sha256, agent)
            if isinstance(used, rows.PairingRefused):
                raise _refused(used)
            details = {"name": agent.name, "pairingTokenId": str(used.id)}
            await audit_as(connection, org_id, None, origin_of(request), AuditAction.AGENT_PAIRED, agent.id, details)
    tell_org(deps.fanout, org_id, "agents", str(agent.id))
    return PairedAnswer(
        agent_id=agent.id,
        agent_token=token,
        executor_id=agent.id,
        executor_token=token,
        organization_id=agent.organization_id,
        gateway_ws_url=deps.settings.gateway_ws_url,
    )


def _new_agent(data: Pairing, org_id: OrgId, token_sha256: bytes) -> rows.NewAgent:
    declared = data.capabilities or DeclaredCapabilities()
    return rows.NewAgent(
        id=UUID(new_id()),
        organization_id=UUID(org_id),
        name=data.name,
        agent_version=data.agent_version,
        token_sha256=token_sha256,
        capabilities=msgspec.json.encode(declared),
        kinds=_listed(declared.kinds),
        connectors=_listed(declared.connectors),
        engines=_listed(declared.engines),
        reported_tags=_listed(declared.tags) or [],
        max_in_flight=declared.effective_max_in_flight(),
    )


def _listed(words: Sequence[str] | None) -> list[str] | None:
    return None if words is None else list(dict.fromkeys(words))


def _refused(why: rows.PairingRefused) -> ApiError:
    if why is rows.PairingRefused.EXPIRED:
        return ApiError(400, "PAIRING_TOKEN_EXPIRED", "This pairing token has expired; make a new one.")
    return ApiError(401, "PAIRING_TOKEN_INVALID", "This pairing token is unknown, or was used already.")


routes = [create_pairing_token, get_pairing_token, pair_agent]
