"""Accounts: signing up, in and out; rotating the session cookie; who am I."""

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.params import JSONBody

from vespid.control.audit import AuditAction, audit_as
from vespid.control.context import origin_of, signed_in
from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.control.principal import SESSION_COOKIE, Principal, require_allowed_origin
from vespid.control.rate_limit import FAILURES_LIMITED, failures_limited, subjects_of
from vespid.control.wire import iso
from vespid.dispatch.audit import Origin
from vespid.errors import conflict, unauthorized
from vespid.security.refresh_tokens import REFRESH_LIFE_S, ROTATION_GRACE_S, is_well_formed
from vespid.store import auth_sessions, orgs, users
from vespid.store.announcements import announce_session_revoked
from vespid.store.idempotency import enter_tenant
from vespid_protocol.ids import OrgId, UserId, hash_token, new_id

# Printable ASCII without spaces around one "@"; whether mail arrives there is not for a pattern to say.
Email = Annotated[str, msgspec.Meta(pattern=r"^[!-?A-~]+@[!-?A-~]+(?!\n)$", min_length=3, max_length=254)]
# Argon2 takes any length; a megabyte of password is an attack.
Password = Annotated[str, msgspec.Meta(min_length=8, max_length=1024)]
DisplayName = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]

PERSONAL_WORKSPACE = "Personal workspace"
_WRONG_CREDENTIALS = "The address or the password is wrong."


class Signup(msgspec.Struct, frozen=True, rename="camel"):
    """A new account."""

    email: Email
    password: Password
    display_name: DisplayName | None = None


class Credentials(msgspec.Struct, frozen=True):
    """A login. Any password is tried, however short."""

    email: Annotated[str, msgspec.Meta(max_length=1024)]
    password: Annotated[str, msgspec.Meta(max_length=1024)]


class Session(msgspec.Struct, frozen=True, rename="camel"):
    """An access token and what it says; times in epoch seconds."""

    token: str
    user_id: str
    email: str
    session_id: str
    token_type: Literal["access"]
    issued_at: int
    expires_at: int


class User(msgspec.Struct, frozen=True, rename="camel"):
    """A person."""

    id: UUID
    email: str
    display_name: str | None
    created_at: str


class SignedIn(msgspec.Struct, frozen=True):
    """The answer to a sign-up, a login or a refresh."""

    session: Session
    user: User


class LoggedOut(msgspec.Struct, frozen=True):
    """The login is over."""

    ok: bool


class LoggedOutAll(msgspec.Struct, frozen=True, rename="camel"):
    """Every login of this person is over."""

    ok: bool
    revoked_count: int


class Account(msgspec.Struct, frozen=True, rename="camel"):
    """What the person is to the installation."""

    is_system_admin: bool


class OrgPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """What the person may do about organizations."""

    can_create_organization: bool


class OrgOfMe(msgspec.Struct, frozen=True, rename="camel"):
    """An organization of mine, and my role in it."""

    id: UUID
    slug: str
    name: str
    role_key: str


class Me(msgspec.Struct, frozen=True, rename="camel"):
    """Who I am and where."""

    user: User
    account: Account
    org_policy: OrgPolicy
    orgs: list[OrgOfMe]
    default_org_id: UUID | None


@post(
    "/v1/auth/signup",
    status_code=201,
    opt=FAILURES_LIMITED,
    responses=errors(409),
    operation_id="signup",
    tags=["accounts"],
)
async def signup(
    request: Request[Any, Any, Any], deps: NamedDependency[Deps], data: JSONBody[Signup]
) -> Response[SignedIn]:
    """Make an account with an organization of its own, and sign in."""
    email = data.email.lower()
    async with failures_limited(deps, "signup", subjects_of(request)):
        password_hash = await deps.passwords.hash(data.password)
        origin, session_id, token = origin_of(request), new_id(), deps.refresh_tokens.first()
        async with deps.database.system() as connection, connection.transaction():
            user = await users.create_user(connection, UUID(new_id()), email, data.display_name, password_hash)
            if user is None:
                raise conflict("This address has an account already.")
            await _create_personal_workspace(connection, user, session_id, origin)
            await _open_session(connection, user, session_id, token, origin)
    return _signed_in(deps, user, session_id, token, status=201)


@post(
    "/v1/auth/login",
    status_code=200,
    opt=FAILURES_LIMITED,
    responses=errors(401),
    operation_id="login",
    tags=["accounts"],
)
async def login(
    request: Request[Any, Any, Any], deps: NamedDependency[Deps], data: JSONBody[Credentials]
) -> Response[SignedIn]:
    """Sign in. An unknown address takes the same time and is told the same as a wrong password."""
    email = data.email.strip().lower()
    async with failures_limited(deps, "login", subjects_of(request, email)):
        found = await users.find_login(deps.database, email)
        if not await deps.passwords.verify(found.password_hash if found else None, data.password) or found is None:
            raise unauthorized(_WRONG_CREDENTIALS)
    if deps.passwords.needs_rehash(found.password_hash):
        renewed = await deps.passwords.hash(data.password)
        await users.replace_password_hash(deps.database, found.user.id, found.password_hash, renewed)
    session_id, token = new_id(), deps.refresh_tokens.first()
    async with deps.database.system() as connection:
        await _open_session(connection, found.user, session_id, token, origin_of(request))
    return _signed_in(deps, found.user, session_id, token)


@post(
    "/v1/auth/refresh",
    status_code=200,
    opt=FAILURES_LIMITED,
    responses=errors(401, 403),
    operation_id="refresh",
    tags=["accounts"],
)
async def refresh(request: Request[Any, Any, Any], deps: NamedDependency[Deps]) -> Response[SignedIn]:
    """A new access token for the session cookie, which is rotated.

    A cookie that was rotated more than a moment ago has been stolen, or its successor has: the login is revoked.
    """
    require_allowed_origin(request, deps.settings.allowed_origins)
    async with failures_limited(deps, "refresh", subjects_of(request), valid_always_passes=True):
        cookie = request.cookies.get(SESSION_COOKIE, "")
        sha256 = hash_token(cookie)
        found = await auth_sessions.find_by_refresh_token(deps.database, sha256) if is_well_formed(cookie) else None
        if found is None or not found.live:
            raise unauthorized("The session is over. Sign in.")
        if not found.is_usable(ROTATION_GRACE_S):
            async with deps.database.system() as connection, connection.transaction():
                await _revoke(connection, found.session_id, found.user_id, "refresh_reuse")
            raise unauthorized("The session is over. Sign in.")
        successor = deps.refresh_tokens.successor(cookie)
        async with deps.database.system() as connection:
            await auth_sessions.rotate_refresh_token(connection, sha256, hash_token(successor), REFRESH_LIFE_S)
        user = await users.find_user(deps.database, found.user_id)
        if user is None:
            raise unauthorized("The session is over. Sign in.")
    return _signed_in(deps, user, str(found.session_id), successor)


@post("/v1/auth/logout", status_code=200, guards=[signed_in], operation_id="logout", tags=["accounts"])
async def logout(deps: NamedDependency[Deps], principal: NamedDependency[Principal]) -> Response[LoggedOut]:
    """End this login: its access tokens and its cookie are worth nothing from now on."""
    async with deps.database.system() as connection, connection.transaction():
        await _revoke(connection, _session_of(principal), UUID(principal.user_id), "logout")
    return Response(LoggedOut(ok=True), status_code=200, cookies=[_cookie(deps, "", max_age=0)])


@post("/v1/auth/logout-all", status_code=200, guards=[signed_in], operation_id="logoutAll", tags=["accounts"])
async def logout_all(deps: NamedDependency[Deps], principal: NamedDependency[Principal]) -> Response[LoggedOutAll]:
    """End every login of this person."""
    async with deps.database.system() as connection, connection.transaction():
        revoked = await auth_sessions.revoke_all_sessions(connection, UUID(principal.user_id), "logout_all")
        for session_id in revoked:
            await announce_session_revoked(connection, session_id, UUID(principal.user_id))
    answer = LoggedOutAll(ok=True, revoked_count=len(revoked))
    return Response(answer, status_code=200, cookies=[_cookie(deps, "", max_age=0)])


@get("/v1/me", guards=[signed_in], operation_id="me", tags=["accounts"])
async def me(deps: NamedDependency[Deps], principal: NamedDependency[Principal]) -> Me:
    """Who I am, and my organizations, the oldest membership first."""
    user = await users.find_user(deps.database, UUID(principal.user_id))
    if user is None:
        raise unauthorized("The session is over. Sign in.")
    mine = await users.list_organizations(deps.database, user.id)
    return Me(
        user=_shown(user),
        account=Account(is_system_admin=user.is_system_admin),
        org_policy=OrgPolicy(can_create_organization=True),
        orgs=[OrgOfMe(org.id, org.slug, org.name, org.role) for org in mine],
        default_org_id=mine[0].id if mine else None,
    )


async def _revoke(connection: Any, session_id: UUID, user_id: UUID, reason: str) -> None:
    if await auth_sessions.revoke_session(connection, session_id, user_id, reason):
        await announce_session_revoked(connection, session_id, user_id)


async def _create_personal_workspace(connection: Any, user: users.UserRow, session_id: str, origin: Origin) -> None:
    org_id = OrgId(new_id())
    await enter_tenant(connection, org_id)
    # The tail of a version 7 id is random: no two people get the same slug.
    slug = f"personal-{org_id[-12:]}"
    if await orgs.create_organization(connection, UUID(org_id), slug, PERSONAL_WORKSPACE) is None:
        raise RuntimeError("a random slug was taken")
    await orgs.create_membership(connection, UUID(org_id), user.id, "owner")
    principal = Principal(UserId(str(user.id)), user.email, "access_token", session_id=session_id)
    await audit_as(connection, org_id, principal, origin, AuditAction.ORGANIZATION_CREATED, org_id, {"slug": slug})
    await enter_tenant(connection, None)


async def _open_session(connection: Any, user: users.UserRow, session_id: str, token: str, origin: Origin) -> None:
    await auth_sessions.open_session(
        connection, UUID(session_id), user.id, REFRESH_LIFE_S, hash_token(token), origin.ip, origin.user_agent
    )


def _signed_in(
    deps: Deps, user: users.UserRow, session_id: str, cookie: str, *, status: int = 200
) -> Response[SignedIn]:
    token, claims = deps.access_tokens.issue(UserId(str(user.id)), session_id, user.email, deps.now_ms() // 1000)
    session = Session(
        token=token,
        user_id=claims.user_id,
        email=claims.email,
        session_id=claims.session_id,
        token_type="access",  # noqa: S106
        issued_at=claims.issued_at,
        expires_at=claims.expires_at,
    )
    answer = SignedIn(session, _shown(user))
    return Response(answer, status_code=status, cookies=[_cookie(deps, cookie, max_age=REFRESH_LIFE_S)])


def _cookie(deps: Deps, value: str, *, max_age: int) -> Cookie:
    return Cookie(
        key=SESSION_COOKIE,
        value=value,
        path="/",
        max_age=max_age,
        httponly=True,
        samesite="lax",
        secure=deps.settings.env != "local",
    )


def _session_of(principal: Principal) -> UUID:
    if principal.session_id is None:
        raise unauthorized()
    return UUID(principal.session_id)


def _shown(user: users.UserRow) -> User:
    return User(user.id, user.email, user.display_name, iso(user.created_at))


routes = [signup, login, refresh, logout, logout_all, me]
