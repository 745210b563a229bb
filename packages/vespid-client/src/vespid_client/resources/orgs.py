"""Organizations: who belongs to one, its settings, its keys, and what was done in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from vespid_client.api import ME, Api
from vespid_client.listing import Listing, listing
from vespid_client.models.accounts import (
    ApiKey,
    ApiKeyCreated,
    AuditEntry,
    Invitation,
    InvitationWithToken,
    Member,
    Membership,
    OrganizationCreated,
    OrgOfMe,
)
from vespid_client.models.model import Model
from vespid_client.models.settings import OrgSettings
from vespid_client.retries import Repeat
from vespid_client.route import delete, get, post, put


class MemberPage(Model, frozen=True, kw_only=True):
    """The oldest first."""

    members: list[Member]
    next_cursor: str | None


class MemberChanged(Model, frozen=True, kw_only=True):
    """One member."""

    member: Member


class InvitationPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    invitations: list[Invitation]
    next_cursor: str | None


class InvitationCreated(Model, frozen=True, kw_only=True):
    """One invitation."""

    invitation: InvitationWithToken


class InvitationAccepted(Model, frozen=True, kw_only=True):
    """One membership."""

    membership: Membership


class ApiKeyPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    api_keys: list[ApiKey]
    next_cursor: str | None


class AuditPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    entries: list[AuditEntry]
    next_cursor: str | None


class SettingsAnswer(Model, frozen=True, kw_only=True):
    """All settings."""

    settings: OrgSettings


ORG = "/v1/orgs/{org_id}"
CREATE_ORG = post("/v1/orgs", OrganizationCreated, Repeat.KEYED)
LIST_MEMBERS = get(f"{ORG}/members", MemberPage)
SET_ROLE = post(f"{ORG}/members/{{user_id}}/role", MemberChanged, Repeat.SAFE)
REMOVE_MEMBER = delete(f"{ORG}/members/{{user_id}}")
LIST_INVITATIONS = get(f"{ORG}/invitations", InvitationPage)
INVITE = post(f"{ORG}/invitations", InvitationCreated, Repeat.NEVER)
REVOKE_INVITATION = delete(f"{ORG}/invitations/{{invitation_id}}")
ACCEPT_INVITATION = post("/v1/invitations/{token}/accept", InvitationAccepted, Repeat.KEYED)
LIST_API_KEYS = get(f"{ORG}/api-keys", ApiKeyPage)
CREATE_API_KEY = post(f"{ORG}/api-keys", ApiKeyCreated, Repeat.NEVER)
REVOKE_API_KEY = delete(f"{ORG}/api-keys/{{key_id}}")
READ_SETTINGS = get(f"{ORG}/settings", SettingsAnswer)
CHANGE_SETTINGS = put(f"{ORG}/settings", SettingsAnswer)
LIST_AUDIT = get(f"{ORG}/audit-log", AuditPage)


class Orgs:
    """`client.orgs`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def list(self) -> Sequence[OrgOfMe]:
        """My organizations, the oldest membership first."""
        return (await self._api.call(ME)).orgs

    async def create(self, name: str, slug: str, *, idempotency_key: str | None = None) -> OrganizationCreated:
        """Make one; the caller is its owner. Raises Conflict where the slug is taken."""
        return await self._api.call(CREATE_ORG, body={"name": name, "slug": slug}, key=idempotency_key)


class Members:
    """`client.members`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, *, search: str | None = None) -> Listing[Member]:
        """The people of the organization; `search`: only those whose address or name has this text."""
        return listing(self._api, LIST_MEMBERS, lambda page: page.members, query={"q": search})

    async def set_role(self, user_id: str, role: str) -> Member:
        """`owner`, `admin` or `member`. Raises Conflict where it would leave no owner."""
        return (await self._api.call(SET_ROLE, body={"roleKey": role}, path={"user_id": user_id})).member

    async def remove(self, user_id: str) -> None:
        """Take somebody out. Raises Conflict for the last owner."""
        await self._api.call(REMOVE_MEMBER, path={"user_id": user_id})


class Invitations:
    """`client.invitations`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self) -> Listing[Invitation]:
        """Who was asked to join."""
        return listing(self._api, LIST_INVITATIONS, lambda page: page.invitations)

    async def create(self, email: str, role: str) -> InvitationWithToken:
        """Ask somebody to join; the token is shown this once."""
        return (await self._api.call(INVITE, body={"email": email, "roleKey": role})).invitation

    async def revoke(self, invitation_id: str) -> None:
        """Take it back."""
        await self._api.call(REVOKE_INVITATION, path={"invitation_id": invitation_id})

    async def accept(self, token: str) -> Membership:
        """Join the organization that the token is of."""
        return (await self._api.call(ACCEPT_INVITATION, path={"token": token})).membership


class ApiKeys:
    """`client.api_keys`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, *, search: str | None = None) -> Listing[ApiKey]:
        """The organization's keys, without their values; `search`: only those whose name has this text."""
        return listing(self._api, LIST_API_KEYS, lambda page: page.api_keys, query={"q": search})

    async def create(self, name: str, role: str, *, expires_at: str | None = None) -> ApiKeyCreated:
        """A credential for a program; its value is shown this once."""
        body = {"name": name, "role": role}
        if expires_at is not None:
            body["expiresAt"] = expires_at
        return await self._api.call(CREATE_API_KEY, body=body)

    async def revoke(self, key_id: str) -> None:
        """It is worth nothing from now on."""
        await self._api.call(REVOKE_API_KEY, path={"key_id": key_id})


class Settings:
    """`client.settings`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def get(self) -> OrgSettings:
        """All, with defaults where nothing was set."""
        return (await self._api.call(READ_SETTINGS)).settings

    async def update(self, part: Mapping[str, Any]) -> OrgSettings:
        """Merge a part, in the API's spelling: `{"tools": {"shellRunEnabled": True}}`."""
        return (await self._api.call(CHANGE_SETTINGS, body=part)).settings


class Audit:
    """`client.audit`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(
        self, *, object_type: str | None = None, object_id: str | None = None, actor_user_id: str | None = None
    ) -> Listing[AuditEntry]:
        """Who did what to which object, the newest first."""
        query = {"objectType": object_type, "objectId": object_id, "actorUserId": actor_user_id}
        return listing(self._api, LIST_AUDIT, lambda page: page.entries, query=query)
