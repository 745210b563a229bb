"""People, organizations, who belongs to which, and what they did."""

from typing import Any

from vespid_client.models.model import Model


class User(Model, frozen=True, kw_only=True):
    """A person."""

    id: str
    email: str
    display_name: str | None
    created_at: str


class AccessToken(Model, frozen=True, kw_only=True):
    """An access token and what it says; times in epoch seconds."""

    token: str
    user_id: str
    email: str
    session_id: str
    token_type: str
    issued_at: int
    expires_at: int


class SignedIn(Model, frozen=True, kw_only=True):
    """The answer to a sign-up, a login or a refresh."""

    session: AccessToken
    user: User


class Account(Model, frozen=True, kw_only=True):
    """What a person is to the installation."""

    is_system_admin: bool


class OrgPolicy(Model, frozen=True, kw_only=True):
    """What a person may do about organizations."""

    can_create_organization: bool


class OrgOfMe(Model, frozen=True, kw_only=True):
    """An organization of mine, and my role in it."""

    id: str
    slug: str
    name: str
    role_key: str


class Me(Model, frozen=True, kw_only=True):
    """Who I am, and where."""

    user: User
    account: Account
    org_policy: OrgPolicy
    orgs: list[OrgOfMe]
    default_org_id: str | None


class Organization(Model, frozen=True, kw_only=True):
    """An organization."""

    id: str
    slug: str
    name: str
    created_at: str


class Membership(Model, frozen=True, kw_only=True):
    """A person's place in an organization."""

    organization_id: str
    user_id: str
    role_key: str
    created_at: str


class OrganizationCreated(Model, frozen=True, kw_only=True):
    """A new organization, and its first owner."""

    organization: Organization
    membership: Membership


class Member(Model, frozen=True, kw_only=True):
    """A person of the organization."""

    user_id: str
    email: str
    display_name: str | None
    role_key: str
    created_at: str


class Invitation(Model, frozen=True, kw_only=True):
    """Somebody who was asked to join."""

    id: str
    organization_id: str
    email: str
    role_key: str
    status: str
    invited_by_user_id: str | None
    created_at: str
    expires_at: str
    accepted_at: str | None


class InvitationWithToken(Invitation, frozen=True, kw_only=True):
    """A new invitation; the token is shown this once."""

    token: str


class ApiKey(Model, frozen=True, kw_only=True):
    """A credential of a program. Its value was shown once."""

    id: str
    name: str
    role: str
    created_by_user_id: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class ApiKeyCreated(Model, frozen=True, kw_only=True):
    """A new key; `value` is shown this once."""

    api_key: ApiKey
    value: str


class Actor(Model, frozen=True, kw_only=True):
    """Who did it; an API key acts in the name of its maker."""

    user_id: str | None
    api_key_id: str | None


class AuditEntry(Model, frozen=True, kw_only=True):
    """One thing that was done."""

    id: str
    actor: Actor
    action: str
    object_type: str
    object_id: str
    details: dict[str, Any]
    ip: str | None
    user_agent: str | None
    request_id: str | None
    created_at: str
