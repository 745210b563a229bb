"""What a dispatch says, and the row that it becomes."""

import re
from typing import Literal

import msgspec

from vespid.dispatch.rows import payload_digest
from vespid.domain.selector import Requirement, Selector
from vespid.errors import ApiError
from vespid.store.executions import NewRow, SecretRefs
from vespid_protocol.ids import ExecutorId, OrgId, RequestId, is_uuid

TIMEOUT_DEFAULT_MS = 60_000
TIMEOUT_MIN_MS = 1_000
TIMEOUT_MAX_MS = 600_000
ASYNC_TIMEOUT_MAX_MS = 24 * 3_600_000
MAX_WAIT_DEFAULT_MS = 600_000

_NODE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_encode = msgspec.json.Encoder().encode


class SecretRef(msgspec.Struct, frozen=True, rename="camel"):
    secret_id: str


class Schedule(msgspec.Struct, frozen=True, rename="camel"):
    on_unavailable: Literal["wait", "fail"] = "fail"
    max_wait_ms: int = MAX_WAIT_DEFAULT_MS


class DispatchBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Body of both routes. Its repr hides the secret."""

    organization_id: str
    requested_by_user_id: str | None = None
    run_id: str
    workflow_id: str | None = None
    node_id: str
    node_type: str
    attempt_count: int
    kind: Literal["connector.action", "agent.execute", "agent.run"]
    payload: dict[str, object]
    secret_ref: SecretRef | None = None
    secret: str | None = None
    executor_selector: Selector | None = None
    schedule: Schedule | None = None
    timeout_ms: int | None = None

    def __repr__(self) -> str:
        return f"DispatchBody(run_id={self.run_id!r}, node_id={self.node_id!r}, attempt_count={self.attempt_count!r})"


def row_of(body: DispatchBody, timeout_max_ms: int) -> NewRow:
    """The row of a request. Raises 400 with the field's name."""
    errors: dict[str, list[str]] = {}
    for field, value in (
        ("organizationId", body.organization_id),
        ("runId", body.run_id),
        ("requestedByUserId", body.requested_by_user_id),
        ("workflowId", body.workflow_id),
    ):
        if value is not None and not is_uuid(value):
            errors[field] = ["must be a UUID"]
    if not 1 <= body.attempt_count <= 1_000_000:
        errors["attemptCount"] = ["must be between 1 and 1000000"]
    if _NODE_ID.fullmatch(body.node_id) is None:
        errors["nodeId"] = ["must match [A-Za-z0-9_-]{1,64}"]
    timeout_ms = TIMEOUT_DEFAULT_MS if body.timeout_ms is None else body.timeout_ms
    if not TIMEOUT_MIN_MS <= timeout_ms <= timeout_max_ms:
        errors["timeoutMs"] = [f"must be between {TIMEOUT_MIN_MS} and {timeout_max_ms}"]
    schedule = body.schedule or Schedule()
    if not 0 <= schedule.max_wait_ms <= ASYNC_TIMEOUT_MAX_MS:
        errors["schedule.maxWaitMs"] = [f"must be between 0 and {ASYNC_TIMEOUT_MAX_MS}"]
    selector = body.executor_selector or Selector()
    if selector.executor_id is not None and not is_uuid(selector.executor_id):
        errors["executorSelector.executorId"] = ["must be a UUID"]
    if errors:
        raise ApiError(400, "BAD_REQUEST", "The dispatch is not valid.", {"fieldErrors": errors})
    requirement = Requirement(
        body.kind,
        connector=_connector(body),
        engine=_named(body, "agent.run", "engine", "id"),
        backend=_named(body, "agent.execute", "sandbox", "backend"),
        tags=selector.required_tags(),
    )
    refs = None
    if body.secret is not None:
        refs = SecretRefs(inline=True)
    elif body.secret_ref is not None:
        refs = SecretRefs(auth=body.secret_ref.secret_id)
    return NewRow(
        org=OrgId(body.organization_id.lower()),
        request_id=RequestId(f"{body.run_id}:{body.node_id}:{body.attempt_count}"),
        workflow_id=body.workflow_id,
        node_id=body.node_id,
        node_type=body.node_type,
        attempt=body.attempt_count,
        kind=body.kind,
        placement="executor",
        user_id=body.requested_by_user_id,
        payload=msgspec.Raw(_encode(body.payload)),
        payload_sha256=payload_digest(body.kind, body.payload),
        secret_refs=refs,
        pool=selector.pool or "byon",
        required_tags=requirement.tags,
        requirement=msgspec.Raw(_encode(requirement)),
        selector=msgspec.Raw(_encode(selector)),
        signature=requirement.signature,
        pin_executor_id=None if selector.executor_id is None else ExecutorId(selector.executor_id.lower()),
        on_unavailable=schedule.on_unavailable,
        max_wait_ms=schedule.max_wait_ms,
        timeout_ms=timeout_ms,
    )


def _connector(body: DispatchBody) -> str | None:
    connector = body.payload.get("connectorId") if body.kind == "connector.action" else None
    return connector if isinstance(connector, str) else None


def _named(body: DispatchBody, kind: str, *path: str) -> str | None:
    """What the node's config of that kind says there, if it says anything."""
    found: object = body.payload if body.kind == kind else None
    for key in ("node", "config", *path):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None
