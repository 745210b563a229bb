"""What people are asked to allow."""

from typing import Any

from vespid_client.models.model import Model


class DecidedBy(Model, frozen=True, kw_only=True):
    """Who decided; an API key acts in the name of its maker."""

    user_id: str
    api_key_id: str | None


class Approval(Model, frozen=True, kw_only=True):
    """Something that waits, or waited, for a person."""

    id: str
    organization_id: str
    workflow_id: str
    run_id: str
    node_id: str
    node_type: str
    request_id: str
    kind: str
    tool: str | None
    n: int | None
    hash: str
    by: str
    may_decide: bool
    status: str
    requested_by_user_id: str | None
    requested_at: str
    expires_at: str
    decided_by: DecidedBy | None
    decided_at: str | None
    comment: str | None


class ApprovalInFull(Approval, frozen=True, kw_only=True):
    """With `what` would run, which `hash` is the SHA-256 of."""

    what: dict[str, Any]
