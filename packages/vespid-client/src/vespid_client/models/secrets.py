"""Secrets, without their values."""

from vespid_client.models.model import Model


class Secret(Model, frozen=True, kw_only=True):
    """All that is ever shown of a secret."""

    id: str
    organization_id: str
    connector_id: str
    name: str
    created_by_user_id: str | None
    updated_by_user_id: str | None
    created_at: str
    updated_at: str
