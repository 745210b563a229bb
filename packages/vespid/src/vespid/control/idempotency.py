"""`Idempotency-Key`: a POST that creates is carried out once, and a repeat is given the first answer.

A key is scoped to the caller, the organization and the route. A handler marks itself with `opt=IDEMPOTENT`, asks for
`once: Once` and creates inside it:

    async def create(connection): ...insert...; return Created(...)
    return await once(create)

`create` runs in the transaction that also keeps the answer, so an effect without its answer cannot be left behind;
requests with the same key wait for each other there. Where the creation is a commit of its own (a run), `once.claim()`
gives an id chosen with the claim: creating the same id twice is then harmless, and `once.settle(…)` keeps the answer.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from litestar import Request, Response
from litestar.di import NamedDependency

from vespid.control.context import TenantContext, tenant_of
from vespid.control.deps import Deps
from vespid.control.principal import Principal, principal_of
from vespid.errors import bad_request, conflict
from vespid.store import idempotency
from vespid_protocol.ids import OrgId, new_id

IDEMPOTENT: dict[str, Any] = {"idempotent": True}
HEADER = "idempotency-key"
_KEY_MAX_CHARS = 255

Create = Callable[["asyncpg.Connection"], Awaitable[msgspec.Struct]]


class Claim(msgspec.Struct, frozen=True):
    """What a creation outside of our transaction is given."""

    # The id to create under; the same for every repeat.
    resource_id: UUID
    # The first answer, where there is one already.
    answer: Response[Any] | None


class Existing(msgspec.Struct, frozen=True):
    """What a creation found to be there already: it is answered with 200."""

    answer: msgspec.Struct


class Once:
    """One request's key, or the absence of one."""

    def __init__(self, deps: Deps, org_id: OrgId | None, scope_sha256: bytes | None, body_sha256: bytes) -> None:
        self._database = deps.database
        self._org_id = org_id
        # None: the caller sent no key, and every request stands for itself.
        self._scope = scope_sha256
        self._body = body_sha256

    async def __call__(self, create: Create, *, status: int = 201) -> Response[Any]:
        """Create and answer, or answer what was answered before. Raises ApiError 409 for another body.

        Outside of an organization `create` begins with no tenant set, and may enter one.
        """
        async with self._transaction() as connection:
            if self._scope is None:
                return _respond(*_encoded(await create(connection), status))
            await self._lock(connection, self._scope)
            known = await self._known(connection, self._scope)
            if known is not None and known.answer is not None:
                return _respond(known.answer, known.status or status)
            if known is None:
                await idempotency.claim(connection, self._scope, self._org_id, self._body, UUID(new_id()))
            answer, status = _encoded(await create(connection), status)
            await idempotency.enter_tenant(connection, self._org_id)
            await idempotency.store_answer(connection, self._scope, status, answer)
            return _respond(answer, status)

    async def claim(self) -> Claim:
        """Take the key, for a creation that is a commit of its own. Raises ApiError 409 for another body."""
        resource_id = UUID(new_id())
        if self._scope is None:
            return Claim(resource_id, None)
        async with self._transaction() as connection:
            await self._lock(connection, self._scope)
            known = await self._known(connection, self._scope)
            if known is None:
                await idempotency.claim(connection, self._scope, self._org_id, self._body, resource_id)
                return Claim(resource_id, None)
            answer = None if known.answer is None else _respond(known.answer, known.status or 201)
            return Claim(known.resource_id, answer)

    async def settle(self, answer: msgspec.Struct, *, status: int = 201) -> Response[Any]:
        """Keep the answer to what was created under a claim, and give it."""
        body = msgspec.json.encode(answer)
        if self._scope is not None:
            async with self._transaction() as connection:
                await idempotency.store_answer(connection, self._scope, status, body)
        return _respond(body, status)

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator["asyncpg.Connection"]:
        if self._org_id is not None:
            async with self._database.tenant(self._org_id) as connection:
                yield connection
        else:
            async with self._database.system() as connection, connection.transaction():
                yield connection

    async def _lock(self, connection: "asyncpg.Connection", scope: bytes) -> None:
        try:
            await idempotency.lock_scope(connection, scope)
        except asyncpg.LockNotAvailableError:
            raise conflict("A request with this Idempotency-Key is still being carried out.") from None

    async def _known(self, connection: "asyncpg.Connection", scope: bytes) -> idempotency.Claim | None:
        known = await idempotency.find_claim(connection, scope)
        if known is not None and known.body_sha256 != self._body:
            raise conflict("This Idempotency-Key was used with another body.")
        return known


async def provide_once(request: Request[Any, Any, Any], deps: NamedDependency[Deps]) -> Once:
    """`once`: on routes marked IDEMPOTENT."""
    tenant = tenant_of(request.scope)
    principal = tenant.principal if tenant is not None else principal_of(request.scope)
    # The path and not its template: two workflows' runs are two routes to whoever repeats a request.
    route = (request.scope["method"], request.scope["path"])
    key = request.headers.get(HEADER)
    if key is not None and (not key or len(key) > _KEY_MAX_CHARS or not key.isprintable()):
        raise bad_request(f"Idempotency-Key is 1..{_KEY_MAX_CHARS} printable characters.", field="Idempotency-Key")
    return _once(deps, principal, _org_of(tenant), route, key, await request.body())


def once_of_tool(deps: Deps, tenant: TenantContext, tool: str, key: str | None, arguments: bytes) -> Once:
    """The same for a tool of `/mcp`: its name stands for the route, its arguments for the body."""
    return _once(deps, tenant.principal, tenant.org_id, ("TOOL", tool), key, arguments)


def _once(
    deps: Deps, principal: Principal, org_id: OrgId | None, route: tuple[str, str], key: str | None, body: bytes
) -> Once:
    body_sha256 = hashlib.sha256(body).digest()
    if key is None:
        return Once(deps, org_id, None, body_sha256)
    parts = (principal.api_key_id or principal.user_id, org_id or "", *route, key)
    return Once(deps, org_id, hashlib.sha256(msgspec.json.encode(parts)).digest(), body_sha256)


def _org_of(tenant: TenantContext | None) -> OrgId | None:
    return tenant.org_id if tenant is not None else None


def _encoded(made: msgspec.Struct, status: int) -> tuple[bytes, int]:
    if isinstance(made, Existing):
        return msgspec.json.encode(made.answer), 200
    return msgspec.json.encode(made), status


def _respond(body: bytes, status: int) -> Response[Any]:
    return Response(content=body, status_code=status, media_type="application/json")
