"""From the run machine's words to the store's: executions to insert, events to append."""

import hashlib
from uuid import UUID

import msgspec

from vespid.domain.run_event import (
    CancelRequested,
    Emit,
    NewExecution,
    NodeCancelled,
    NodeFailed,
    NodeSucceeded,
    RunEvent,
    Start,
    TimerDue,
)
from vespid.store.executions import CloudWork, EventItem, NewRow, SecretRefs
from vespid.store.steps import EndedExecution, LoadedRun
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId, RunId

_encode = msgspec.json.Encoder().encode
# Key order must not make two payloads of one.
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def payload_digest(kind: str, payload: object) -> str:
    """Lower-case hex of the SHA-256 over kind and payload: what makes a repeated dispatch the same one."""
    return hashlib.sha256(kind.encode() + b"\0" + _encode_sorted(payload)).hexdigest()


def execution_row(
    org_id: OrgId,
    run_id: RunId,
    workflow_id: str,
    user_id: str | None,
    execution: NewExecution,
    holder: ProcessId | None = None,
) -> NewRow:
    """The row of an execution that the machine asked for; with `holder`, leased to that process at once."""
    has_secrets = bool(execution.secret_refs or execution.auth_secret)
    # Of a loop in the gateway's mode it says where its tools run.
    pin = execution.selector.executor_id if execution.placement == "executor" else None
    return NewRow(
        org=org_id,
        request_id=RequestId(execution.request_id),
        run_id=run_id,
        workflow_id=workflow_id,
        node_id=execution.node_id,
        node_type=execution.node_type,
        attempt=execution.attempt,
        kind=execution.kind,
        placement=execution.placement,
        user_id=user_id,
        payload=msgspec.Raw(_encode(execution.payload)),
        payload_sha256=payload_digest(execution.kind, execution.payload),
        secret_refs=SecretRefs(execution.auth_secret, execution.secret_refs) if has_secrets else None,
        pool=execution.pool,
        required_tags=execution.requirement.tags,
        requirement=msgspec.Raw(_encode(execution.requirement)),
        selector=msgspec.Raw(_encode(execution.selector)),
        signature=execution.signature,
        pin_executor_id=None if pin is None else ExecutorId(pin),
        priority=execution.priority,
        on_unavailable=execution.schedule.on_unavailable,
        max_wait_ms=execution.schedule.max_wait_ms,
        timeout_ms=execution.timeout_ms,
        on_lost=execution.on_lost,
        holder=holder,
        asks=execution.asks,
    )


def event_item(emit: Emit) -> EventItem:
    """The row of an event that the machine emits."""
    return EventItem(
        emit.event_type, emit.level, emit.node_id, emit.node_type, emit.message, emit.payload, emit.attempt_count
    )


def end_event(end: EndedExecution) -> RunEvent:
    """What the end of an execution is to the machine."""
    if end.state == "succeeded":
        return NodeSucceeded(end.node_id, end.attempt, end.output)
    if end.state == "cancelled":
        return NodeCancelled(end.node_id, end.attempt)
    details = None if bytes(end.error_details) == b"null" else end.error_details
    output = None if bytes(end.output) == b"null" else end.output
    return NodeFailed(
        end.node_id, end.attempt, end.error or "NODE_EXECUTION_FAILED", end.error_message, details, output
    )


def text_or_none(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def input_of(loaded: LoadedRun, now_ms: int) -> list[RunEvent]:
    """What has come for a run since its last step, in the order the machine is to see it."""
    if loaded.status == "queued":
        # A run that was cancelled before its first step never starts.
        return [CancelRequested()] if loaded.cancel_requested else [Start()]
    events: list[RunEvent] = [end_event(end) for end in loaded.ends]
    if loaded.cancel_requested:
        events.append(CancelRequested())
    events.append(TimerDue(now_ms))
    return events


def cloud_work(row: NewRow) -> CloudWork:
    """The lease that `vespid_i_insert_execution` made for a holder."""
    return CloudWork(
        request_id=row.request_id,
        lease_epoch=1,
        organization_id=UUID(row.org),
        run_id=None if row.run_id is None else UUID(row.run_id),
        workflow_id=None if row.workflow_id is None else UUID(row.workflow_id),
        node_id=row.node_id,
        node_type=row.node_type,
        attempt=row.attempt,
        kind=row.kind,
        requested_by_user_id=None if row.user_id is None else UUID(row.user_id),
        payload=bytes(row.payload),
        secret_refs=None if row.secret_refs is None else msgspec.json.encode(row.secret_refs),
        timeout_ms=row.timeout_ms,
    )


def result_event(
    node_id: str,
    attempt: int,
    *,
    output: object = None,
    error: str | None = None,
    message: str | None = None,
    details: object = None,
) -> RunEvent:
    """The machine's event for a result as a holder reports it; `error` None: it succeeded."""
    if error is None:
        return NodeSucceeded(node_id, attempt, output)
    return NodeFailed(node_id, attempt, error, message, details, output)
