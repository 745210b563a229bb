"""A run as it is answered: its row, what it waits for, and its output made from the cursor."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from vespid.control.deps import Deps
from vespid.control.usage_view import RunUsed, run_used
from vespid.control.wire import iso, iso_or_none
from vespid.dispatch.plans import Plans
from vespid.domain.run_result import run_output
from vespid.domain.run_state import decode_state
from vespid.store.runs import BlockedRow, NewRun, RunRow
from vespid.store.usage import NodeUsage
from vespid_protocol.ids import OrgId, WorkflowId


class Blocked(msgspec.Struct, frozen=True, rename="camel"):
    """An execution that the run waits for. Of kind `approval` it waits for people: `approvalId` is the first of
    `approvalIds`."""

    request_id: str
    node_id: str
    kind: str
    since: str
    timeout_at: str
    approval_id: UUID | msgspec.UnsetType = msgspec.UNSET
    approval_ids: list[UUID] | msgspec.UnsetType = msgspec.UNSET


class RetryOf(msgspec.Struct, frozen=True, rename="camel"):
    """The run whose results were taken over; `fromNodeId` null: it goes on at what had failed."""

    run_id: UUID
    from_node_id: str | None


class Run(msgspec.Struct, frozen=True, rename="camel"):
    """One run. `blocked` is the oldest of `blockedNodes`; `error` is a code, `errorMessage` is for people."""

    id: UUID
    organization_id: UUID
    workflow_id: UUID
    trigger_type: str
    status: str
    attempt_count: int
    max_attempts: int
    next_attempt_at: str | None
    requested_by_user_id: UUID | None
    input: Any
    output: Any
    error: str | None
    error_message: str | None
    blocked: Blocked | None
    blocked_nodes: list[Blocked]
    # Null: it began by itself.
    retry_of: RetryOf | None
    # What models took; null where none was used, and in lists.
    usage: RunUsed | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    # Of the routes that show runs of several workflows.
    workflow_name: str | msgspec.UnsetType = msgspec.UNSET


async def run_of(
    deps: Deps,
    run: RunRow,
    blocked: Sequence[BlockedRow],
    outputs: Mapping[str, msgspec.Raw],
    usage: Sequence[NodeUsage] = (),
) -> Run:
    """`outputs` are the nodes' by id; a step that is not among them is shown without."""
    waiting = [_blocked(row) for row in blocked]
    return Run(
        id=run.id,
        organization_id=run.organization_id,
        workflow_id=run.workflow_id,
        trigger_type=run.trigger_type,
        status=run.status,
        attempt_count=run.attempt_count,
        max_attempts=run.max_attempts,
        next_attempt_at=iso_or_none(run.next_attempt_at),
        requested_by_user_id=run.requested_by_user_id,
        input=None if run.input is None else msgspec.Raw(run.input),
        output=await _output_of(deps, run, outputs),
        error=run.error,
        error_message=run.error_message,
        blocked=waiting[0] if waiting else None,
        blocked_nodes=waiting,
        retry_of=None if run.retry_of_run_id is None else RetryOf(run.retry_of_run_id, run.retry_from_node_id),
        usage=run_used(usage),
        created_at=iso(run.created_at),
        started_at=iso_or_none(run.started_at),
        finished_at=iso_or_none(run.finished_at),
        workflow_name=msgspec.UNSET if run.workflow_name is None else run.workflow_name,
    )


def shown_run(new: NewRun, created_at: datetime) -> Run:
    """A run that was accepted this moment."""
    return Run(
        id=UUID(new.id),
        organization_id=UUID(new.org),
        workflow_id=UUID(new.workflow_id),
        trigger_type=new.trigger_type,
        status="queued",
        attempt_count=0,
        max_attempts=new.max_attempts,
        next_attempt_at=None,
        requested_by_user_id=None if new.user_id is None else UUID(new.user_id),
        input=new.input,
        output=None,
        error=None,
        error_message=None,
        blocked=None,
        blocked_nodes=[],
        retry_of=None if new.retry is None else RetryOf(UUID(new.retry.run_id), new.retry.from_node_id),
        usage=None,
        created_at=iso(created_at),
        started_at=None,
        finished_at=None,
    )


def inline_output(run: RunRow, node_id: str) -> dict[str, object] | None:
    """What a condition or a join found, which is kept in the cursor."""
    node = None if run.cursor is None else decode_state(run.cursor).nodes.get(node_id)
    return None if node is None else node.output


def _blocked(row: BlockedRow) -> Blocked:
    shown = Blocked(row.request_id, row.node_id, row.kind, iso(row.created_at), iso(row.act_by))
    if not row.approval_ids:
        return shown
    return msgspec.structs.replace(shown, approval_id=row.approval_ids[0], approval_ids=row.approval_ids)


async def _output_of(deps: Deps, run: RunRow, outputs: Mapping[str, msgspec.Raw]) -> dict[str, object] | None:
    if run.cursor is None:
        return None
    plans = deps.plans if deps.plans is not None else Plans(deps.database)
    plan = await plans.get(OrgId(str(run.organization_id)), WorkflowId(str(run.workflow_id)))
    return run_output(plan, decode_state(run.cursor), outputs)
